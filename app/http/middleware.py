"""Around every request: its id, its time, and an answer when nobody caught an exception."""

import re
import time

import structlog
import uuid_utils
from fastapi import Request
from prometheus_client import Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import tracing
from app.http import event_streams
from app.http.problems import respond_problem

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

HTTP_SECONDS = Histogram(
    "http_request_seconds",
    "Seconds from request to the last byte of the answer",
    ["method", "route", "status"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 30, 120),
)
Gauge("sse_streams", "Open event streams of this process").set_function(event_streams.open_streams)

log = structlog.get_logger(__name__)


class RequestContextMiddleware:
    """ASGI middleware: request id in and out, a histogram, a problem for what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode()), *state.get("answer_headers", ())]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id, **tracing.ids()):
            try:
                await self.app(scope, receive, answer)
            except Exception:
                log.exception("unhandled", method=scope["method"], path=scope["path"])
                if status:
                    raise  # the answer has begun: the server must break it off
                detail = "the service failed; see its log under this request_id"
                await respond_problem(Request(scope), "internal", detail)(scope, receive, answer)
            finally:
                _observe(scope, status, time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    """The caller's ``X-Request-ID`` where it is a plain word, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.match(value):
            return value.decode()
    return uuid_utils.uuid7().hex


def _observe(scope: Scope, status: int, seconds: float) -> None:
    """Count under the route's template, never under the address: labels stay few."""
    route = getattr(scope.get("route"), "path", "none")
    method = scope["method"] if scope["method"] in METHODS else "other"
    HTTP_SECONDS.labels(method, route, status).observe(seconds)
    log.debug("request", method=method, route=route, status=status, seconds=round(seconds, 4))
