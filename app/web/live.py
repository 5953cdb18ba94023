"""One stream of changes for all tabs of a browser."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.http.deps import ReadSession
from app.http.event_streams import job_changes
from app.services import changes
from app.web import job_ids
from app.web.page_route import PageRoute
from app.web.visitor import JobsReader

WATCHED_MAX = 500

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/stream")
def stream(
    visitor: JobsReader,
    session: ReadSession,
    jobs: Annotated[
        str,
        Query(pattern=job_ids.pattern(0, WATCHED_MAX), description="Ids without job_, by commas"),
    ] = "",
) -> Response:
    """Tell which of these jobs have changed, and when there are new ones."""
    own = changes.own_jobs(session, visitor.tenant_id, job_ids.whole(jobs))
    return job_changes(visitor.key_id, visitor.tenant_id, own)
