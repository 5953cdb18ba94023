"""Hooks the page into the application."""

from fastapi import FastAPI

from app.web import (
    api_docs,
    assets,
    compare,
    datasets_page,
    job_page,
    jobs_list,
    live,
    login,
    models_page,
    new_job,
    sweeps_page,
    viewers,
    webhooks_page,
    workers_page,
)

PARTS = (
    login,
    jobs_list,
    job_page,
    viewers,
    live,
    new_job,
    compare,
    datasets_page,
    sweeps_page,
    models_page,
    webhooks_page,
    workers_page,
    api_docs,
)


def install(app: FastAPI) -> None:
    """Add the pages and their files."""
    for part in PARTS:
        app.include_router(part.router)
    app.mount(assets.prefix(), assets.Assets(), "static")
