"""What a job's row does not hold: why it waits, its position in the queue, which worker runs it.

Worked out when a job is read, so it is right even when every worker is dead.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Job, JobStatus, Run, has_status
from app.schemas.jobs import Derived, WorkerRead
from app.services import queues

POSITION_LIMIT = 1000

# made once: building a statement costs more than running it
_WAITING = select(Job.id).where(
    has_status(JobStatus.QUEUED),
    Job.not_before.is_(None),
    Job.waiting_since.is_(None),
    Job.paused_at.is_(None),
    Job.queue == bindparam("queue"),
)
_BEFORE = (
    _WAITING.where(Job.line_at < bindparam("line_at")),
    _WAITING.where(Job.line_at == bindparam("line_at"), Job.id < bindparam("id")),
)
_COUNTS = [
    select(func.count()).select_from(part.limit(POSITION_LIMIT).subquery()).scalar_subquery()
    for part in _BEFORE
]
AHEAD = select(_COUNTS[0] + _COUNTS[1])
FRONT = _WAITING.order_by(Job.line_at, Job.id).limit(POSITION_LIMIT)
# two lists in place of one of pairs, for which SQLite reads all runs there are
LATEST = select(Run.job_id, Run.number, Run.worker_id, Run.host, Run.devices).where(
    Run.job_id.in_(bindparam("ids", expanding=True)),
    Run.number.in_(bindparam("numbers", expanding=True)),
)


def derive(session: Session, jobs: Sequence[Job]) -> dict[str, Derived]:
    """The derived part of each job, by id; a fixed number of statements for any number of jobs."""
    queued = [job for job in jobs if job.status == JobStatus.QUEUED]
    positions = _positions(session, [job for job in queued if _in_line(job)])
    served = queues.served(session) if any(_needs_gpu(job) for job in queued) else set()
    now = database_now(session) if any(_depends_on_time(job) for job in jobs) else None
    by_job = _workers(session, jobs)
    return {
        job.id: Derived(_reason(job, now, served), positions.get(job.id), by_job.get(job.id))
        for job in jobs
    }


def _in_line(job: Job) -> bool:
    return job.not_before is None and job.waiting_since is None and job.paused_at is None


def _depends_on_time(job: Job) -> bool:
    """Whether the status reason of the job depends on the time."""
    return job.status == JobStatus.RUNNING or (
        job.status == JobStatus.QUEUED and job.not_before is not None
    )


def _needs_gpu(job: Job) -> bool:
    return job.device == "cuda" or job.gpus > 0


def _reason(job: Job, now: datetime | None, served: set[str]) -> str | None:
    if job.status == JobStatus.QUEUED:
        if job.paused_at is not None:
            return "paused"
        if job.waiting_since is not None:
            return "waiting_for_dependency"
        if now and job.not_before and job.not_before > now:
            return job.status_reason or "not_before"
        return (
            "waiting_for_gpu" if job.queue in served and _needs_gpu(job) else "waiting_for_worker"
        )
    if (
        job.status == JobStatus.RUNNING
        and now
        and job.lease_expires_at
        and job.lease_expires_at < now
    ):
        return "stalled"
    pausing = job.status == JobStatus.RUNNING and job.paused_at and not job.cancel_requested_at
    return "pausing" if pausing else job.status_reason


def _positions(session: Session, queued: Sequence[Job]) -> dict[str, int]:
    """Position in its queue of each job among the first 1,000, by id; 1 is next."""
    if len(queued) == 1:
        ahead = session.scalars(AHEAD, _named(queued[0])).one()
        return {queued[0].id: ahead + 1} if ahead < POSITION_LIMIT else {}
    positions: dict[str, int] = {}
    for queue in {job.queue for job in queued}:
        front = session.scalars(FRONT, {"queue": queue})
        positions |= {job_id: position for position, job_id in enumerate(front, start=1)}
    return positions


def _named(job: Job) -> dict[str, Any]:
    return {"queue": job.queue, "line_at": job.line_at, "id": job.id}


def _workers(session: Session, jobs: Sequence[Job]) -> dict[str, WorkerRead]:
    """The worker of each job's latest run, for jobs that are not waiting."""
    latest = {
        job.id: job.run_number for job in jobs if job.status != JobStatus.QUEUED and job.run_number
    }
    if not latest:
        return {}
    runs = session.execute(LATEST, {"ids": [*latest], "numbers": [*set(latest.values())]})
    return {
        job_id: WorkerRead(id=worker_id, host=host, device="cuda" if devices else "cpu")
        for job_id, number, worker_id, host, devices in runs
        if latest[job_id] == number
    }
