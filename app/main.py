"""The API; ``python -m app.serve`` serves it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.concurrency import run_in_threadpool

from app import queue, telemetry, tracing
from app.db import migrate
from app.db.session import get_engine, make_session
from app.http import asking, event_streams, problems, rates
from app.http.examples import job_examples
from app.http.loopback import LoopbackMiddleware
from app.http.middleware import RequestContextMiddleware
from app.http.webhook_sender import Sender
from app.routers import (
    artifacts,
    datasets,
    events,
    feed,
    health,
    jobs,
    keys,
    kinds,
    logs,
    metrics,
    pipelines,
    predictions,
    registry,
    state,
    sweeps,
    usage,
    webhooks,
)
from app.services import keys as key_service
from app.settings import get_settings
from app.web import site

OF_JOBS = (jobs, pipelines, sweeps, events, feed, metrics, logs, artifacts)
PARTS = (*OF_JOBS, registry, predictions, datasets, kinds, keys, usage, webhooks, state)
TAGS = [
    {"name": "jobs", "description": "What users ask for: submitted, followed, stopped, retried."},
    {
        "name": "pipelines",
        "description": "Several jobs in one request, each after others.",
    },
    {"name": "sweeps", "description": "One spec with other values of some fields, over seeds."},
    {"name": "events", "description": "What happened to a job and what it reported, also live."},
    {"name": "artifacts", "description": "Files that jobs leave."},
    {"name": "models", "description": "Names for trained nets: versions, aliases."},
    {"name": "datasets", "description": "Data that jobs take: built in or uploaded."},
    {"name": "kinds", "description": "What jobs can do, with schemas and examples."},
    {"name": "keys", "description": "Who may call."},
    {"name": "usage", "description": "Quotas, and how much of them is used."},
    {"name": "webhooks", "description": "Addresses that are told of jobs."},
    {"name": "state", "description": "Workers and queues, of all tenants."},
    {"name": "health", "description": "For operators and probes; no key is needed."},
]
DESCRIPTION = "Trains and analyses neural networks by six published methods."


# /metrics has the numbers, structlog the lines; a span for each step of a request costs too much
TRACES_ALONE: TelemetryConfig = {
    "auto_configure": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
}


class Api(FastAPI):
    """The application; its OpenAPI document knows the body of problems."""

    def openapi(self) -> dict[str, Any]:
        """The document, made at first use."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["schemas"] |= problems.schemas()
            _suit_generators(document["components"]["schemas"])
            body = document["paths"]["/v1/jobs"]["post"]["requestBody"]
            body["content"]["application/json"]["examples"] = job_examples()
        return super().openapi()


def _suit_generators(node: Any) -> None:
    """Write what generators and linters stumble over in another way that means the same.

    Objects that are the default of a choice become examples: generators take only null. Pairs say
    of their items that these are any, beside what each of them is.
    """
    if isinstance(node, dict):
        if "anyOf" in node and isinstance(node.get("default"), dict):
            node["examples"] = [node.pop("default")]
        if node.get("type") == "array" and "prefixItems" in node:
            node.setdefault("items", {})
        for inner in node.values():
            _suit_generators(inner)
    elif isinstance(node, list):
        for inner in node:
            _suit_generators(inner)


def _prepare_database() -> None:
    migrate.upgrade(get_engine())
    with make_session() as session:
        key_service.ensure_tenant(session)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Bring the schema up to date, open the broker's connections, end streams at the end."""
    await run_in_threadpool(_prepare_database)
    queue.warm()
    event_streams.start()
    rates.start()
    asking.start()
    sender = Sender()
    sender.start()
    try:
        yield
    finally:
        await run_in_threadpool(sender.stop)
        event_streams.stop()
        await rates.stop()
        await asking.stop()


def create_app() -> FastAPI:
    """The application with every route and handler."""
    settings = get_settings()
    telemetry.configure(settings.log_level)
    tracing.configure("sextant-api")
    app = Api(
        title="Sextant service",
        generate_unique_id_function=lambda route: route.name,
        openapi_tags=TAGS,
        servers=[{"url": "/", "description": "The service that gave this document"}],
        contact={"name": "The maintainers of Sextant"},
        version=version("sextant-jobs"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # app.web serves it, with nothing from elsewhere
        redoc_url=None,
        telemetry=TRACES_ALONE,
    )
    problems.install(app)
    if settings.auth_disabled:
        app.add_middleware(LoopbackMiddleware)
    app.add_middleware(RequestContextMiddleware)
    for part in PARTS:
        app.include_router(
            part.router, responses=problems.problems(400, 401, 403, 422, 429, 500, 503)
        )
    app.include_router(health.router)
    site.install(app)
    return app
