"""One job: how far it is, its curves, files, log, spec and runs, and what can be done with it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from app.db.tables import FINAL
from app.errors import NotFoundError
from app.http import archives, downloads
from app.http.deps import DurableSession, ReadSession, WriteSession
from app.routers.artifacts import Name
from app.routers.jobs import JobId
from app.schemas.artifacts import ArtifactRead
from app.schemas.jobs import CancelRequest, JobRead, RetryRequest
from app.schemas.page import SafeInt
from app.services import artifacts, jobs, logs, metrics, pauses, retries
from app.services.differences import ABSENT, Difference, differences
from app.web import previews
from app.web.charts import charts, columns
from app.web.jobs_list import waits_for
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.viewers import VIEWERS, viewer_of
from app.web.visitor import JobsReader, JobsWriter
from models.catalog import kinds
from models.core.needs import WEIGHTS

POINTS = 1000
LOG_LINES = 400
FIGURE = "figure"  # role of what stands beside a picture: the same for print, and its data
HEADLINES = 6  # figures of a result that stand at the top
Run = Annotated[int | None, Query(ge=1, le=2**31 - 1)]

router = APIRouter(prefix="/jobs/{job_id}", route_class=PageRoute, include_in_schema=False)


@router.get("")
def job_page(
    job_id: JobId, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Show a job."""
    job = jobs.read(session, visitor.tenant_id, job_id)
    return render(
        request,
        "job.html",
        **_state(session, visitor.tenant_id, job),
        files=_files(session, visitor.tenant_id, job_id),
        presets=_presets(job),
        absent=ABSENT,
        runs=jobs.runs(session, visitor.tenant_id, job_id),
    )


@router.get("/state")
def job_state(
    job_id: JobId, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Show what changes while a job runs: status, progress, what can be done."""
    job = jobs.read(session, visitor.tenant_id, job_id)
    return render(request, "job_state.html", **_state(session, visitor.tenant_id, job))


def _state(session: ReadSession, tenant_id: str, job: JobRead) -> dict[str, Any]:
    rows = artifacts.listing(session, tenant_id, job.id)
    return {
        "job": job,
        "waits": waits_for(job),
        "final": job.status in FINAL,
        "n_files": len(rows),
        "viewer": VIEWERS.get(viewer_of(rows) or ""),
        "checkpoints": [row for row in rows if row.role == "checkpoint"],
        "nets": any(row.role in WEIGHTS for row in rows),
        "headlines": _headlines(job.result or {}),
    }


def _headlines(result: dict[str, Any]) -> list[tuple[str, Any]]:
    """The plain figures of a result; lists and objects are read in its report."""
    plain = [(n, v) for n, v in result.items() if isinstance(v, int | float) and v is not True]
    return plain[:HEADLINES]


@router.get("/files")
def job_files(
    job_id: JobId, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Show the files of a job."""
    job = jobs.read(session, visitor.tenant_id, job_id)
    return render(request, "files.html", job=job, files=_files(session, visitor.tenant_id, job_id))


def _files(session: ReadSession, tenant_id: str, job_id: str) -> dict[str, list[ArtifactRead]]:
    """Files by how they are shown; ``beside``: other forms of a figure, shown by its picture."""
    rows = [ArtifactRead.of(row) for row in artifacts.listing(session, tenant_id, job_id)]
    beside = [row for row in rows if row.role == FIGURE]
    shown = ("picture", "report", "table", "text", "none")
    forms = {
        form: [row for row in rows if row not in beside and previews.form(row.name) == form]
        for form in shown
    }
    return forms | {"beside": beside}


def _presets(job: JobRead) -> dict[str, list[Difference]]:
    """For each preset of the kind, the closest first: where the job's spec as sent differs."""
    spec = kinds().get(job.kind)
    rows = {
        name: differences([{"kind": job.kind, **fields}, job.spec])
        for name, fields in (spec.presets if spec else {}).items()
    }
    return dict(sorted(rows.items(), key=lambda each: len(each[1])))


@router.get("/archive")
def job_archive(job_id: JobId, visitor: JobsReader, session: ReadSession) -> Response:
    """Send all files of a job as one zip."""
    job = jobs.read(session, visitor.tenant_id, job_id)
    rows = artifacts.listing(session, visitor.tenant_id, job_id)
    return archives.send(job_id, job.model_dump_json(indent=2).encode(), rows)


@router.get("/series")
def job_series(
    job_id: JobId,
    visitor: JobsReader,
    session: ReadSession,
    names: Annotated[list[str], Query(max_length=100)] = [],  # noqa: B006  # FastAPI copies it
    from_step: SafeInt = 0,
    to_step: SafeInt = 2**53 - 1,
) -> Response:
    """Read the numbers of a job as columns, and which of them share a chart."""
    job = jobs.get(session, visitor.tenant_id, job_id)
    asked = metrics.Query(visitor.tenant_id, job.id, tuple(names), from_step, to_step)
    series = metrics.read(session, asked, POINTS)
    return JSONResponse(
        {
            "charts": [chart._asdict() for chart in charts(job.kind, series)],
            "series": {name: columns(points) for name, points in series.items()},
        }
    )


@router.get("/log")
def job_log(
    job_id: JobId,
    visitor: JobsReader,
    session: ReadSession,
    run: Run = None,
    offset: SafeInt | None = None,
) -> Response:
    """Read a log from an offset in bytes on, or its last lines."""
    job = jobs.get(session, visitor.tenant_id, job_id)
    number = run or max(job.run_number, 1)
    try:
        start = logs.tail_start(logs.find(job, number), LOG_LINES) if offset is None else offset
    except NotFoundError:
        return JSONResponse({"run": number, "offset": 0, "text": "", "more": False})
    over = logs.over(session, visitor.tenant_id, job_id, number)
    growth = logs.growth(visitor.tenant_id, job_id, number, start, last=over)
    text = growth.text.decode(errors="replace")
    reached = start + len(growth.text)
    return JSONResponse({"run": number, "offset": reached, "text": text, "more": growth.more})


@router.get("/files/{name:path}")
def job_file(
    job_id: JobId, name: Name, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Send a file as a download."""
    return downloads.send_artifact(
        request, artifacts.find(session, visitor.tenant_id, job_id, name)
    )


@router.get("/show/{name:path}")
def show_file(
    job_id: JobId, name: Name, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Send a picture or a report to be shown in the page."""
    return previews.send_inline(request, artifacts.find(session, visitor.tenant_id, job_id, name))


@router.get("/preview/{name:path}")
def preview_file(
    job_id: JobId, name: Name, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Show the beginning of a table or a text."""
    row = artifacts.find(session, visitor.tenant_id, job_id, name)
    return render(request, "preview.html", preview=previews.preview(row), name=name)


@router.post("/cancel")
def cancel(
    job_id: JobId, body: CancelRequest, visitor: JobsWriter, session: WriteSession
) -> Response:
    """Ask the job to stop."""
    jobs.cancel(session, visitor.tenant_id, job_id, body.mode, save=body.save_checkpoint)
    return Response(status_code=204)


@router.post("/pause")
def pause(job_id: JobId, visitor: JobsWriter, session: WriteSession) -> Response:
    """Hold the job."""
    pauses.pause(session, visitor.tenant_id, job_id)
    return Response(status_code=204)


@router.post("/resume")
def resume(job_id: JobId, visitor: JobsWriter, session: WriteSession) -> Response:
    """Let the job go on."""
    pauses.resume(session, visitor.tenant_id, job_id)
    return Response(status_code=204)


@router.post("/delete")
def delete(job_id: JobId, visitor: JobsWriter, session: WriteSession) -> Response:
    """Delete the job."""
    jobs.delete(session, visitor.tenant_id, job_id)
    return JSONResponse({"go": "/"})


@router.post("/retry")
def retry(
    job_id: JobId, body: RetryRequest, visitor: JobsWriter, session: DurableSession
) -> Response:
    """Make a new job from this one."""
    made = retries.retry(session, visitor.tenant_id, job_id, body)
    return JSONResponse({"go": f"/jobs/{made.id}"}, 201)
