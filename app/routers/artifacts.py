"""Artifacts and checkpoints: lists and bytes."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.http import downloads
from app.http.deps import JobsRead, ReadSession
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.routers.jobs import JobId
from app.schemas.artifacts import ArtifactRead
from app.schemas.page import Page
from app.services import artifacts, jobs

router = APIRouter(prefix="/v1", tags=["artifacts"], route_class=StrictRoute)
BYTES = {**downloads.RESPONSES, **problems(404, 416)}

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9._/-]{1,200}$", description="Name in the job")]
ArtifactId = Annotated[str, Path(pattern=r"^art_[0-9a-f]{32}$", description="Id of an artifact")]
Which = Annotated[
    str, Path(pattern=r"^(latest|best|[0-9]{1,18})$", description="latest, best or a step")
]


@router.get("/jobs/{job_id}/artifacts", responses=problems(404))
def list_artifacts(job_id: JobId, principal: JobsRead, session: ReadSession) -> Page[ArtifactRead]:
    """List the files of a job by name."""
    job = jobs.get(session, principal.tenant_id, job_id)
    rows = artifacts.listing(session, principal.tenant_id, job.id)
    data = [ArtifactRead.of(row) for row in rows]
    return Page(data=data, has_more=False, next_cursor=None)


@router.get("/jobs/{job_id}/artifacts/{name:path}", response_class=Response, responses=BYTES)
def download_by_name(
    job_id: JobId, name: Name, request: Request, principal: JobsRead, session: ReadSession
) -> Response:
    """Download a file of a job, whole or in ranges."""
    row = artifacts.find(session, principal.tenant_id, job_id, name)
    return downloads.redirect_or_send(request, row)


@router.get("/artifacts/{artifact_id}/content", response_class=Response, responses=BYTES)
def download(
    artifact_id: ArtifactId, request: Request, principal: JobsRead, session: ReadSession
) -> Response:
    """Download a file by its id, whole or in ranges."""
    row = artifacts.get(session, principal.tenant_id, artifact_id)
    return downloads.redirect_or_send(request, row)


@router.get("/jobs/{job_id}/checkpoints", responses=problems(404))
def list_checkpoints(
    job_id: JobId, principal: JobsRead, session: ReadSession
) -> Page[ArtifactRead]:
    """List the checkpoints of a job, newest first."""
    job = jobs.get(session, principal.tenant_id, job_id)
    rows = artifacts.checkpoints(session, principal.tenant_id, job.id)
    data = [ArtifactRead.of(row) for row in rows]
    return Page(data=data, has_more=False, next_cursor=None)


@router.get("/jobs/{job_id}/checkpoints/{which}", response_class=Response, responses=BYTES)
def download_checkpoint(
    job_id: JobId, which: Which, request: Request, principal: JobsRead, session: ReadSession
) -> Response:
    """Download the newest, the best, or the checkpoint of a step."""
    row = artifacts.checkpoint(session, principal.tenant_id, job_id, which)
    return downloads.redirect_or_send(request, row)
