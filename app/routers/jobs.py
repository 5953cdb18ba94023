"""Jobs: submit, read, list, cancel, retry, delete, runs."""

import time
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.db.tables import Job
from app.http import archives
from app.http.deps import DurableSession, Idempotent, JobsRead, JobsWrite, ReadSession, WriteSession
from app.http.event_streams import wait_for_update
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.jobs import (
    CancelRequest,
    DryRun,
    JobCreate,
    JobFilters,
    JobPatch,
    JobRead,
    RetryRequest,
    RunRead,
)
from app.schemas.page import Page
from app.services import artifacts, job_edits, jobs, pauses, retries
from app.services.idempotency import Answer

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

JobId = Annotated[str, Path(pattern=r"^job_[0-9a-f]{32}$", description="Id of a job")]
LOCATION = {"Location": {"description": "Address of the new job", "schema": {"type": "string"}}}
ZIP = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
ETAG = {"ETag": {"description": "Changes with the job", "schema": {"type": "string"}}}


def created_answer(session: DurableSession, job: Job) -> Answer:
    """Answer 201 with the job and its address."""
    read = jobs.describe(session, [job])[0]
    headers = {"Location": read.links.self}
    return Answer(201, read.model_dump(mode="json"), headers, job.id)


@router.post(
    "",
    status_code=201,
    response_model=JobRead,
    responses={
        201: {"headers": LOCATION},
        200: {"model": DryRun, "description": "With dry_run: nothing was stored"},
        **problems(400, 409, 413, 415),
    },
)
def create_job(
    body: JobCreate,
    principal: JobsWrite,
    session: DurableSession,
    idempotent: Idempotent,
    dry_run: Annotated[bool, Query(description="Only report what would be stored")] = False,
) -> Response:
    """Store a job and queue it. It is committed before the answer: it is never lost."""
    if dry_run:
        preview = jobs.dry_run(session, principal.tenant_id, body)
        return Response(preview.model_dump_json(), media_type="application/json")
    return idempotent(
        lambda: created_answer(session, jobs.submit(session, principal.tenant_id, body))
    )


@router.get("")
def list_jobs(
    filters: Annotated[JobFilters, Query()], principal: JobsRead, session: ReadSession
) -> Page[JobRead]:
    """List jobs, newest first. `metadata.<key>=<value>` keeps those with that label."""
    rows, next_cursor = jobs.list_page(session, principal.tenant_id, filters)
    data = jobs.describe(session, rows)
    return Page(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


@router.get(
    "/{job_id}",
    response_model=JobRead,
    responses={
        200: {"headers": ETAG},
        304: {"description": "Not changed", "headers": ETAG},
        **problems(404),
    },
)
async def read_job(
    job_id: JobId,
    request: Request,
    principal: JobsRead,
    wait_s: Annotated[
        float,
        Query(ge=0, le=60, description="Seconds to wait for another status, reason or progress"),
    ] = 0,
    if_none_match: Annotated[str | None, Header(max_length=4096)] = None,
) -> Response:
    """Read a job; with `wait_s` answer as soon as something changes.

    With `If-None-Match` the change is the one from that version, else from the present one.
    """

    def load() -> JobRead:
        with make_session(write=False) as session:
            return jobs.read(session, principal.tenant_id, job_id)

    read = await run_in_threadpool(load)
    if if_none_match is None or _matches(if_none_match, read.etag):
        seen, deadline = _version(read), time.monotonic() + wait_s
        while _waiting(read, deadline) and _version(read) == seen:
            await wait_for_update(principal.key_id, job_id, deadline - time.monotonic())
            if await request.is_disconnected():
                break
            read = await run_in_threadpool(load)
    headers = {"ETag": f'"{read.etag}"', "Cache-Control": "no-cache"}
    if if_none_match is not None and _matches(if_none_match, read.etag):
        return Response(status_code=304, headers=headers)
    return Response(read.model_dump_json(), headers=headers, media_type="application/json")


def _version(read: JobRead) -> tuple[object, ...]:
    return (read.status, read.status_reason, read.progress)


def _waiting(read: JobRead, deadline: float) -> bool:
    return read.finished_at is None and time.monotonic() < deadline


def _matches(header: str, etag: str) -> bool:
    """Whether ``If-None-Match`` names this version, compared weakly (RFC 9110, 13.1.2)."""
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or f'"{etag}"' in tags


@router.patch(
    "/{job_id}",
    response_model=JobRead,
    responses={200: {"headers": ETAG}, **problems(400, 404, 412, 413, 415)},
)
def edit_job(
    job_id: JobId,
    body: JobPatch,
    principal: JobsWrite,
    session: WriteSession,
    if_match: Annotated[
        str | None, Header(max_length=4096, description="Only if the ETag is one of these")
    ] = None,
) -> Response:
    """Change name, labels and notes of a job, whatever its status."""
    tags = None if if_match is None else {tag.strip() for tag in if_match.split(",")}
    read = job_edits.edit(session, principal.tenant_id, job_id, body, tags)
    headers = {"ETag": f'"{read.etag}"'}
    return Response(read.model_dump_json(), headers=headers, media_type="application/json")


@router.get(
    "/{job_id}/archive",
    response_class=Response,
    responses={200: {"description": "A zip file", "content": ZIP}, **problems(404)},
)
def download_archive(job_id: JobId, principal: JobsRead, session: ReadSession) -> Response:
    """Download all files of a job as one zip, stored without compression.

    It is made on the way: a download that was cut off begins anew. A file that goes away meanwhile
    breaks the download off, so that what arrived is not taken for whole.
    """
    job = jobs.get(session, principal.tenant_id, job_id)
    rows = artifacts.listing(session, principal.tenant_id, job_id)
    about = jobs.describe(session, [job])[0].model_dump_json(indent=2).encode()
    return archives.send(job_id, about, rows)


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409))
def delete_job(job_id: JobId, principal: JobsWrite, session: WriteSession) -> None:
    """Delete a final job, its events, metrics and artifacts."""
    jobs.delete(session, principal.tenant_id, job_id)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    responses={
        200: {"model": JobRead, "description": "It was cancelled before"},
        **problems(400, 404, 409, 413, 415),
    },
)
def cancel_job(
    job_id: JobId,
    principal: JobsWrite,
    session: WriteSession,
    response: Response,
    body: CancelRequest | None = None,
) -> JobRead:
    """Cancel a queued job at once, ask a running one to stop. Repeating it does no harm."""
    asked = body or CancelRequest()
    tenant_id = principal.tenant_id
    if not jobs.cancel(session, tenant_id, job_id, asked.mode, save=asked.save_checkpoint):
        response.status_code = 200
    return jobs.read(session, tenant_id, job_id)


@router.post(
    "/{job_id}/pause",
    status_code=202,
    responses={
        200: {"model": JobRead, "description": "It was paused before"},
        **problems(404, 409),
    },
)
def pause_job(
    job_id: JobId, principal: JobsWrite, session: WriteSession, response: Response
) -> JobRead:
    """Hold a queued job, or one that runs once its child has saved a checkpoint.

    While it waits to be resumed its status is `queued`, with the reason `paused`.
    """
    if not pauses.pause(session, principal.tenant_id, job_id):
        response.status_code = 200
    return jobs.read(session, principal.tenant_id, job_id)


@router.post("/{job_id}/resume", responses=problems(404, 409))
def resume_job(job_id: JobId, principal: JobsWrite, session: WriteSession) -> JobRead:
    """Let a paused job go on from its newest checkpoint. One that is not paused stays as it is."""
    pauses.resume(session, principal.tenant_id, job_id)
    return jobs.read(session, principal.tenant_id, job_id)


@router.post(
    "/{job_id}/retry",
    status_code=201,
    response_model=JobRead,
    responses={201: {"headers": LOCATION}, **problems(400, 404, 409, 413, 415)},
)
def retry_job(
    job_id: JobId,
    principal: JobsWrite,
    session: DurableSession,
    idempotent: Idempotent,
    body: RetryRequest | None = None,
) -> Response:
    """Make a new job from a final one, from its latest checkpoint unless `from` says otherwise."""
    asked = body or RetryRequest()
    return idempotent(
        lambda: created_answer(session, retries.retry(session, principal.tenant_id, job_id, asked))
    )


@router.get("/{job_id}/runs", responses=problems(404))
def list_runs(job_id: JobId, principal: JobsRead, session: ReadSession) -> Page[RunRead]:
    """List the job's runs, oldest first."""
    rows = jobs.runs(session, principal.tenant_id, job_id)
    data = [RunRead.model_validate(row) for row in rows]
    return Page(data=data, has_more=False, next_cursor=None)
