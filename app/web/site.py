"""Hooks the page into the application."""

from fastapi import FastAPI

from app.web import api_docs, assets, compare, job_page, jobs_list, live, login, new_job


def install(app: FastAPI) -> None:
    """Add the pages and their files."""
    for part in (login, jobs_list, job_page, live, new_job, compare, api_docs):
        app.include_router(part.router)
    app.mount(assets.prefix(), assets.Assets(), "static")
