"""Without keys the port is trusted: requests that another site's page can cause are refused."""

from ipaddress import ip_address

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.problems import respond_problem

JSON = "application/json"


class LoopbackMiddleware:
    """ASGI middleware for a service whose keys are off.

    A page of any site may send a browser to this port: by a name of its own that resolves to
    127.0.0.1 (its script then reads the answers), or by a form, whose media types need no consent
    (CORS). The first has another ``Host``, the second is no JSON.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        problem = _problem(Headers(scope=scope), scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await respond_problem(Request(scope), *problem)(scope, receive, send)


def _problem(headers: Headers, scope: Scope) -> tuple[str, str] | None:
    """Code and detail of what is wrong with a request, if anything is."""
    host = headers.get("host", "")
    if not is_loopback_name(host):
        detail = f"Host is {host[:100]!r}; without keys only localhost and 127.0.0.1 are served"
        return "misdirected", detail
    media_type = media_type_of(headers)
    if scope["method"] == "POST" and media_type != JSON:
        detail = f"Content-Type is {media_type[:100]!r}; without keys every POST needs {JSON}"
        return "unsupported_media_type", detail
    return None


def media_type_of(headers: Headers) -> str:
    """The media type of a body without parameters, in lower case; empty where none is named."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_loopback_name(host: str) -> bool:
    """Whether a ``Host`` header, with or without port, names this machine alone."""
    name = host.partition("]")[0].removeprefix("[") if "[" in host else host.partition(":")[0]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") == "localhost"
