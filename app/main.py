"""The API; ``python -m app.serve`` serves it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from app import queue, telemetry
from app.db import migrate
from app.db.session import get_engine, make_session
from app.http import event_streams, problems, rates
from app.http.examples import job_examples
from app.http.loopback import LoopbackMiddleware
from app.http.middleware import RequestContextMiddleware
from app.routers import (
    artifacts,
    datasets,
    events,
    health,
    jobs,
    keys,
    kinds,
    logs,
    metrics,
    pipelines,
    usage,
)
from app.services import keys as key_service
from app.settings import get_settings
from app.web import site

PARTS = (jobs, pipelines, events, metrics, logs, artifacts, datasets, kinds, keys, usage)
DESCRIPTION = "Trains and analyses neural networks by six published methods."


class Api(FastAPI):
    """The application; its OpenAPI document knows the body of problems."""

    def openapi(self) -> dict[str, Any]:
        """The document, made at first use."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["schemas"] |= problems.schemas()
            body = document["paths"]["/v1/jobs"]["post"]["requestBody"]
            body["content"]["application/json"]["examples"] = job_examples()
        return super().openapi()


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
    try:
        yield
    finally:
        event_streams.stop()
        await rates.stop()


def create_app() -> FastAPI:
    """The application with every route and handler."""
    settings = get_settings()
    telemetry.configure(settings.log_level)
    app = Api(
        title="Sextant",
        version=version("sextant-jobs"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # app.web serves it, with nothing from elsewhere
        redoc_url=None,
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
