"""One stream of changes for all tabs of a browser."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.http.deps import ReadSession
from app.http.event_streams import job_changes
from app.services import changes
from app.web.page_route import PageRoute
from app.web.visitor import JobsReader

WATCHED_MAX = 500
HEX = 32
JOBS = rf"^([0-9a-f]{{{HEX}}}(,[0-9a-f]{{{HEX}}}){{0,{WATCHED_MAX - 1}}})?$"

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/stream")
def stream(
    visitor: JobsReader,
    session: ReadSession,
    jobs: Annotated[str, Query(pattern=JOBS, description="Ids without job_, by commas")] = "",
) -> Response:
    """Tell which of these jobs have changed, and when there are new ones."""
    asked = [f"job_{each}" for each in jobs.split(",") if each]
    own = changes.own_jobs(session, visitor.tenant_id, asked)
    return job_changes(visitor.key_id, visitor.tenant_id, own)
