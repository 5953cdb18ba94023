"""Several jobs beside each other: curves on the same axes, results, specs, pictures."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.http.deps import ReadSession
from app.schemas.jobs import JobRead
from app.services import artifacts
from app.services import jobs as job_service
from app.services.differences import ABSENT, Difference, differences, flatten
from app.web import job_ids, previews
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import JobsReader, Visitor

COMPARED_MAX = 10

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/compare")
def compare(
    request: Request,
    visitor: JobsReader,
    session: ReadSession,
    jobs: Annotated[
        str,
        Query(
            pattern=job_ids.pattern(2, COMPARED_MAX),
            description="2 to 10 ids without job_, by commas",
        ),
    ],
) -> Response:
    """Show 2 to 10 jobs beside each other."""
    compared = _read(session, visitor, jobs)
    return render(
        request,
        "compare.html",
        jobs=compared,
        results=_results(compared),
        specs=differences([job.resolved_spec for job in compared]),
        pictures=_pictures(session, visitor, compared),
        absent=ABSENT,
    )


def _read(session: ReadSession, visitor: Visitor, ids: str) -> list[JobRead]:
    unique = dict.fromkeys(job_ids.whole(ids))
    rows = [job_service.get(session, visitor.tenant_id, each) for each in unique]
    return job_service.describe(session, rows)


def _results(compared: list[JobRead]) -> list[Difference]:
    """The plain figures of all results, also those that are the same everywhere."""
    flat = [flatten(job.result or {}) for job in compared]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = (Difference(name, [each.get(name, ABSENT) for each in flat]) for name in names)
    return [row for row in rows if any(isinstance(value, int | float) for value in row.values)]


def _pictures(
    session: ReadSession, visitor: Visitor, compared: list[JobRead]
) -> dict[str, list[Any]]:
    """Pictures that two jobs or more have, by name: for each job its file or None."""
    by_job = [
        {row.name: row for row in artifacts.listing(session, visitor.tenant_id, job.id)}
        for job in compared
    ]
    names = sorted({name for files in by_job for name in files if previews.form(name) == "picture"})
    rows = {name: [files.get(name) for files in by_job] for name in names}
    return {name: row for name, row in rows.items() if sum(file is not None for file in row) > 1}
