"""Sweeps: many jobs of one spec, ranked by a metric."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from app.http.deps import DurableSession, Idempotent, JobsRead, JobsWrite, ReadSession, WriteSession
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.page import Page
from app.schemas.sweeps import SweepCreate, SweepDetail, SweepFilters, SweepRead
from app.services import sweep_report, sweep_results, sweeps
from app.services.idempotency import Answer

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"], route_class=StrictRoute)

SweepId = Annotated[str, Path(pattern=r"^swp_[0-9a-f]{32}$", description="Id of a sweep")]
LOCATION = {"Location": {"description": "Address of the new sweep", "schema": {"type": "string"}}}
FILES = {
    200: {
        "description": "The report",
        "content": {
            media_type: {"schema": {"type": "string"}} for media_type in sweep_report.MEDIA.values()
        },
    }
}


@router.post(
    "",
    status_code=201,
    response_model=SweepDetail,
    responses={201: {"headers": LOCATION}, **problems(400, 409, 413, 415)},
)
def create_sweep(
    body: SweepCreate, principal: JobsWrite, session: DurableSession, idempotent: Idempotent
) -> Response:
    """Store a sweep. Its jobs are made a few at a time; every trial was checked before."""

    def work() -> Answer:
        made = sweeps.create(session, principal.tenant_id, body)
        read = sweep_results.detail(session, made)
        headers = {"Location": f"/v1/sweeps/{made.id}"}
        return Answer(201, read.model_dump(mode="json"), headers, made.id)

    return idempotent(work)


@router.get("")
def list_sweeps(
    filters: Annotated[SweepFilters, Query()], principal: JobsRead, session: ReadSession
) -> Page[SweepRead]:
    """List sweeps, newest first."""
    rows, next_cursor = sweeps.list_page(session, principal.tenant_id, filters)
    data = sweep_results.summary(session, rows)
    return Page(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


@router.get("/{sweep_id}", responses=problems(404))
def read_sweep(sweep_id: SweepId, principal: JobsRead, session: ReadSession) -> SweepDetail:
    """Read a sweep with its trials, the best first."""
    return sweep_results.detail(session, sweeps.get(session, principal.tenant_id, sweep_id))


@router.get("/{sweep_id}/report", response_class=Response, responses={**FILES, **problems(404)})
def read_sweep_report(
    sweep_id: SweepId,
    principal: JobsRead,
    session: ReadSession,
    format: Annotated[  # the word of the API
        Literal["html", "csv", "svg"],
        Query(description="html: a page with the figure; csv: a row a job; svg: the figure"),
    ] = "html",
) -> Response:
    """Read the report: ranked trials, parallel coordinates, which parameters matter."""
    sweep = sweep_results.detail(session, sweeps.get(session, principal.tenant_id, sweep_id))
    name = f'attachment; filename="{sweep_id}.{format}"'
    return Response(
        sweep_report.WRITERS[format](sweep),
        media_type=sweep_report.MEDIA[format],
        headers={"Content-Disposition": name},
    )


@router.post(
    "/{sweep_id}/cancel",
    status_code=202,
    responses={
        200: {"model": SweepDetail, "description": "It was cancelled before"},
        **problems(404, 409),
    },
)
def cancel_sweep(
    sweep_id: SweepId, principal: JobsWrite, session: WriteSession, response: Response
) -> SweepDetail:
    """Make no more jobs, and ask those that were made to stop. Repeating it does no harm."""
    if not sweeps.cancel(session, principal.tenant_id, sweep_id):
        response.status_code = 200
    return sweep_results.detail(session, sweeps.get(session, principal.tenant_id, sweep_id))


@router.delete("/{sweep_id}", status_code=204, responses=problems(404, 409))
def delete_sweep(sweep_id: SweepId, principal: JobsWrite, session: WriteSession) -> None:
    """Forget a sweep that has ended; its jobs stay."""
    sweeps.delete(session, principal.tenant_id, sweep_id)
