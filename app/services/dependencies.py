"""Jobs that wait for others, and what becomes of them once those are final.

A job that waits is queued with ``waiting_since`` set, so that no claim sees it, and has a row for
each job that it waits for. :func:`settle` alone removes the rows and decides: the job gets in line,
or ends. It reads what is there and repeats nothing, so it may be killed anywhere and run twice.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session, aliased

from app import queue
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Job, JobDependency, JobInput, JobStatus
from app.errors import InvalidError, invalid
from app.schemas.errors import ReportedError
from app.services import holds, lifecycle
from app.services.outcome import Outcome, job_error
from app.services.resolve import resolve
from models.stored import load_stored

SETTLED_AT_ONCE = 100
LOOKED_AT_ONCE = 1000
HINT = "submit the job that it depends on again, and this one after it"
ENDS = {"fail": JobStatus.FAILED, "cancel": JobStatus.CANCELLED}


Place = tuple[str, str]  # of a row: the job that waits, and its source
BEGINNING: Place = ("", "")


class Sources(NamedTuple):
    """The jobs that a job depends on, and those of them that it must wait for."""

    all: list[str]
    unmet: list[str]


def sources(
    session: Session, tenant_id: str, listed: Sequence[str], awaited: Iterable[str]
) -> Sources:
    """What a new job depends on: the jobs it lists, and those whose files it names too early.

    Raises:
        InvalidError: naming a listed job that is not there, or has failed or been cancelled.
    """
    unmet = [*awaited]
    for index, job_id in enumerate(listed):
        job = session.get(Job, job_id)
        pointer = f"/depends_on/{index}"
        if job is None or job.tenant_id != tenant_id or job.deleted_at is not None:
            raise invalid(pointer, f"no job {job_id}; GET /v1/jobs lists all", "reference")
        if job.status not in FINAL:
            unmet.append(job_id)
        elif job.status != JobStatus.SUCCEEDED:
            detail = f"the job {job_id} has {_ended(job.status)}; retry it, depend on the new one"
            raise invalid(pointer, detail, "dependency_failed")
    return Sources([*dict.fromkeys([*listed, *unmet])], [*dict.fromkeys(unmet)])


def _ended(status: str) -> str:
    return "been cancelled" if status == JobStatus.CANCELLED else str(status)


def wait_for(session: Session, job: Job, unmet: Iterable[str]) -> None:
    """Note that a job which was just added waits for others."""
    session.add_all(
        JobDependency(job_id=job.id, source_id=source, tenant_id=job.tenant_id) for source in unmet
    )


def due(session: Session, since: datetime, besides: Collection[str] = ()) -> set[str]:
    """Some jobs of which one that they wait for has ended.

    Args:
        session: to read with.
        since: only ends after it, which an index finds however many jobs wait.
        besides: jobs that are left out.
    """
    source = aliased(Job)
    query = (
        select(JobDependency.job_id)
        .join(source, source.id == JobDependency.source_id)
        .where(source.finished_at > since, source.deleted_at.is_(None))
        .limit(SETTLED_AT_ONCE + len(besides))
    )
    return set(session.scalars(query)) - set(besides)


class Look(NamedTuple):
    """Rows of jobs that wait: those of which the source is final or gone, and the last one read."""

    due: list[Place]
    last: Place | None


def look(session: Session, after: Place) -> Look:
    """The next rows in the order of job and source, whenever their sources ended."""
    source = aliased(Job)
    rows = session.execute(
        select(JobDependency.job_id, JobDependency.source_id, source.status)
        .outerjoin(source, source.id == JobDependency.source_id)
        .where(tuple_(JobDependency.job_id, JobDependency.source_id) > after)
        .order_by(JobDependency.job_id, JobDependency.source_id)
        .limit(LOOKED_AT_ONCE)
    ).all()
    ended = [(job_id, source_id) for job_id, source_id, status in rows if status in (None, *FINAL)]
    return Look(ended, (rows[-1][0], rows[-1][1]) if len(rows) == LOOKED_AT_ONCE else None)


def settle(session: Session, job_id: str) -> None:
    """Let a job get in line if all that it waits for have succeeded; end it if one did not.

    Raises:
        UnavailableError: if a file went away just now; to be tried again.
    """
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        return
    rows = _sources_of(session, job_id)
    if job.status != JobStatus.QUEUED or job.waiting_since is None:
        _forget(session, job_id, list(rows))
        return
    for source_id, status in rows.items():
        if status in (JobStatus.FAILED, JobStatus.CANCELLED, None):
            reason = "is deleted" if status is None else f"has {_ended(status)}"
            _end(session, job, f"the job {source_id}, which this one depends on, {reason}")
            return
    done = [source for source, status in rows.items() if status == JobStatus.SUCCEEDED]
    _forget(session, job_id, done)
    if len(done) == len(rows):
        _line_up(session, job)


def _sources_of(session: Session, job_id: str) -> dict[str, JobStatus | None]:
    """Status by id of what a job waits for; None for one that is gone."""
    query = (
        select(JobDependency.source_id, Job.status, Job.deleted_at)
        .outerjoin(Job, Job.id == JobDependency.source_id)
        .where(JobDependency.job_id == job_id)
        .order_by(JobDependency.source_id)
    )
    return {
        source: None if deleted_at else status
        for source, status, deleted_at in session.execute(query)
    }


def _forget(session: Session, job_id: str, source_ids: Sequence[str]) -> None:
    session.execute(
        delete(JobDependency).where(
            JobDependency.job_id == job_id, JobDependency.source_id.in_(source_ids)
        )
    )


def _end(session: Session, job: Job, message: str) -> None:
    reported = ReportedError(code="dependency_failed", message=message, hint=HINT)
    new = ENDS[job.on_dependency_failure]
    error = job_error(Outcome(error=reported))
    lifecycle.transition(session, job.id, JobStatus.QUEUED, new, error=error, waiting_since=None)
    session.execute(delete(JobDependency).where(JobDependency.job_id == job.id))


def _line_up(session: Session, job: Job) -> None:
    """Pin the files that are there now, and put the job in line; its time to wait begins here."""
    try:
        spec = load_stored(job.resolved_spec)[0]
        job.resolved_spec = resolve(session, job.tenant_id, spec).spec
    except InvalidError as error:
        _end(session, job, f"what this job depends on is not as it needs it: {error.detail}")
        return
    session.execute(delete(JobInput).where(JobInput.job_id == job.id))  # those pinned at first
    holds.hold(session, job, load_stored(job.resolved_spec)[0])
    now, wait_s = database_now(session), job.limits["queue_timeout_s"]
    job.waiting_since = None
    job.queued_at = job.updated_at = now
    held = job.paused_at is not None
    job.queue_timeout_at = None if wait_s is None or held else now + timedelta(seconds=wait_s)
    session.flush()
    reason = "paused" if held else None
    data = {"status": JobStatus.QUEUED, "status_reason": reason, "run_number": job.run_number}
    lifecycle.add_event(session, job.id, "status", data)
    queue_name = job.queue
    after_commit(session, lambda: queue.enqueue(queue_name))
