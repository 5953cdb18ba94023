"""Sweeps: the list, and one with its trials by rank, its report and its end."""

from fastapi import APIRouter, Request, Response

from app.http.deps import ReadSession, WriteSession
from app.routers.sweeps import SweepId
from app.schemas.sweeps import SweepFilters
from app.services import sweep_report, sweep_results, sweeps
from app.web.page_route import PageRoute
from app.web.previews import REPORT_POLICY
from app.web.templates import render
from app.web.visitor import JobsReader, JobsWriter

ROWS = 50

router = APIRouter(prefix="/sweeps", route_class=PageRoute, include_in_schema=False)


@router.get("")
def sweeps_page(
    request: Request, visitor: JobsReader, session: ReadSession, cursor: str = ""
) -> Response:
    """Show the sweeps, newest first."""
    filters = SweepFilters(limit=ROWS, cursor=cursor or None)
    page = sweeps.list_page(session, visitor.tenant_id, filters)
    following = page.next_cursor
    return render(
        request,
        "sweeps.html",
        sweeps=sweep_results.summary(session, page.data),
        next_page=f"/sweeps?cursor={following}" if following else None,
    )


@router.get("/{sweep_id}")
def sweep_page(
    sweep_id: SweepId, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Show a sweep."""
    sweep = sweep_results.detail(session, sweeps.get(session, visitor.tenant_id, sweep_id))
    return render(request, "sweep.html", sweep=sweep)


@router.get("/{sweep_id}/report")
def report(sweep_id: SweepId, visitor: JobsReader, session: ReadSession) -> Response:
    """Send the report to be shown in a sandbox: figure, importance, every job."""
    sweep = sweep_results.detail(session, sweeps.get(session, visitor.tenant_id, sweep_id))
    headers = {"Content-Security-Policy": REPORT_POLICY}
    return Response(sweep_report.WRITERS["html"](sweep), media_type="text/html", headers=headers)


@router.post("/{sweep_id}/cancel")
def cancel(sweep_id: SweepId, visitor: JobsWriter, session: WriteSession) -> Response:
    """Make no more jobs, and ask those that were made to stop."""
    sweeps.cancel(session, visitor.tenant_id, sweep_id)
    return Response(status_code=204)
