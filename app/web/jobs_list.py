"""The list of jobs: filters, search, what to do with several at once."""

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from app.db.session import make_session
from app.db.tables import JobStatus
from app.errors import ServiceError
from app.http.deps import ReadSession
from app.routers.jobs import JobId
from app.schemas.jobs import JobFilters, JobPatch, JobRead
from app.schemas.page import Cursor
from app.services import job_edits, jobs
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import JobsReader, JobsWriter, Visitor
from models.catalog import kinds

ROWS = 50
SELECTED_MAX = 200

router = APIRouter(route_class=PageRoute, include_in_schema=False)


class ListQuery(BaseModel):
    """What the form above the list sends; an empty field is no filter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: list[JobStatus] = Field(default=[], max_length=5)
    kind: Annotated[str, Field(max_length=64)] = ""
    search: Annotated[str, Field(max_length=120)] = ""
    hidden: bool = False
    cursor: Cursor | None = None

    @property
    def filters(self) -> JobFilters:
        """The filters of the service."""
        return JobFilters(
            status=self.status,
            kind=self.kind or None,
            search=self.search.strip() or None,
            hidden=self.hidden,
            limit=ROWS,
            cursor=self.cursor,
        )

    def address(self, cursor: str | None) -> str:
        """Address of a page of the same list."""
        chosen: dict[str, Any] = {
            "status": [each.value for each in self.status],
            "kind": self.kind,
            "search": self.search,
            "hidden": "true" if self.hidden else "",
            "cursor": cursor,
        }
        query = urlencode({name: value for name, value in chosen.items() if value}, doseq=True)
        return f"/?{query}" if query else "/"


class BulkRequest(BaseModel):
    """What to do with the jobs that were marked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["cancel", "delete", "hide", "show"]
    jobs: list[JobId] = Field(min_length=1, max_length=SELECTED_MAX)


@router.get("/")
def jobs_page(
    query: Annotated[ListQuery, Query()],
    request: Request,
    visitor: JobsReader,
    session: ReadSession,
) -> Response:
    """Show the jobs, newest first."""
    rows, following = jobs.list_page(session, visitor.tenant_id, query.filters)
    return render(
        request,
        "jobs.html",
        jobs=[(job, waits_for(job)) for job in jobs.describe(session, rows)],
        query=query,
        kinds=list(kinds()),
        statuses=list(JobStatus),
        first_page=query.address(None) if query.cursor else None,
        next_page=query.address(following) if following else None,
    )


def waits_for(job: JobRead) -> str:
    """What keeps a job from going on, in words; empty where nothing does."""
    line = f", number {job.queue_position} in the queue {job.queue}" if job.queue_position else ""
    words = {
        "waiting_for_worker": f"waits for a worker{line}",
        "waiting_for_gpu": f"waits for a GPU{line}",
        "not_before": "waits for its time",
        "waiting_for_dependency": "waits for other jobs",
        "backoff": "waits after a lost run",
        "paused": "paused",
        "starting": "starting",
        "pausing": "saving before the pause",
        "cancelling": "stopping",
        "stalled": "its worker is silent",
    }
    return words.get(job.status_reason or "", "")


@router.post("/jobs/bulk")
def change_many(body: BulkRequest, visitor: JobsWriter) -> Response:
    """Carry out an action on the marked jobs, each by itself: one refusal keeps no other."""
    refusals = []
    for job_id in body.jobs:
        try:
            _change(visitor, body.action, job_id)
        except ServiceError as error:
            refusals.append({"job": job_id, "detail": error.detail})
    return JSONResponse({"done": len(body.jobs) - len(refusals), "refusals": refusals})


def _change(visitor: Visitor, action: str, job_id: str) -> None:
    with make_session() as session:
        if action == "delete":
            jobs.delete(session, visitor.tenant_id, job_id)
        elif action in ("hide", "show"):
            change = JobPatch(hidden=action == "hide")
            job_edits.edit(session, visitor.tenant_id, job_id, change, None)
        else:
            jobs.cancel(session, visitor.tenant_id, job_id, "graceful", save=True)
