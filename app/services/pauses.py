"""Pause and resume: a job is held where it is, a running one after its child has saved.

A job that is held is ``queued`` with ``paused_at`` set, which keeps it out of the index that claims
read. On a running job the same column asks its worker to stop the child; what its run then ends
with is decided as ever, so a job that succeeds, fails or is cancelled meanwhile does just that.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from app import queue
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Job, JobStatus
from app.errors import ConflictError, UnavailableError
from app.services import jobs, lifecycle, outbox

TRIES = 5


def pause(session: Session, tenant_id: str, job_id: str) -> bool:
    """Hold a job until it is resumed; False if it is held already.

    Its time to wait in the queue ends, and begins anew when it is resumed.

    Raises:
        ConflictError: if it is final, or is being cancelled.
    """
    for _ in range(TRIES):
        job = _unfinished(session, tenant_id, job_id)
        if job.paused_at is not None:
            return False
        if job.cancel_requested_at is not None:
            raise ConflictError("the job is being cancelled; retry it later from its checkpoint")
        free = (Job.paused_at.is_(None), Job.cancel_requested_at.is_(None))
        held = {"paused_at": database_now(session), "queue_timeout_at": None}
        if _change(session, job, held, *free):
            reason = "paused" if job.status == JobStatus.QUEUED else "pausing"
            _tell(session, job, reason, "job.paused" if reason == "paused" else None)
            return True
    raise UnavailableError("the job changes its status too often; try again")


def resume(session: Session, tenant_id: str, job_id: str) -> bool:
    """Let a job go on; False if it was not held.

    One whose child is still saving gets in line as soon as that has ended.

    Raises:
        ConflictError: if it is final.
    """
    for _ in range(TRIES):
        job = _unfinished(session, tenant_id, job_id)
        if job.paused_at is None:
            return False
        if _change(session, job, _in_line(job, database_now(session)), Job.paused_at.is_not(None)):
            _tell(session, job, None, "job.resumed")
            after_commit(session, partial(queue.enqueue, job.queue))
            return True
    raise UnavailableError("the job changes its status too often; try again")


def _unfinished(session: Session, tenant_id: str, job_id: str) -> Job:
    job = jobs.get(session, tenant_id, job_id)
    session.refresh(job)
    if job.status in FINAL:
        raise ConflictError(f"the job has the final status {job.status}, which is never left")
    return job


def _in_line(job: Job, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {"paused_at": None}
    if job.status == JobStatus.QUEUED:
        values["queued_at"] = now
        wait_s = job.limits["queue_timeout_s"]
        if wait_s is not None and job.waiting_since is None:
            values["queue_timeout_at"] = now + timedelta(seconds=wait_s)
    return values


def _change(
    session: Session, job: Job, values: dict[str, Any], *conditions: ColumnElement[bool]
) -> bool:
    """Change the row while its status is the one that was read; False if it is another by now."""
    same = (Job.id == job.id, Job.status == job.status)
    changed = session.scalar(
        update(Job)
        .where(*same, *conditions)
        .values(updated_at=database_now(session), **values)
        .returning(Job.id)
    )
    return changed is not None


def _tell(session: Session, job: Job, reason: str | None, message: str | None) -> None:
    data = {"status": job.status, "status_reason": reason, "run_number": job.run_number}
    lifecycle.add_event(session, job.id, "status", data)
    session.refresh(job)
    if message is not None:
        outbox.note(session, job.tenant_id, job.id, [(job.event_seq, message)])
