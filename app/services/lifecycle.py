"""The life of a job: who may change its status, and how a worker holds a run.

``transition`` is the only writer of ``jobs.status``. A run is held by a lease and fenced by its
number: a write that carries an older number or another owner changes no row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, true, update
from sqlalchemy.orm import Session

from app import queue
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Event, Job, JobLabel, JobStatus, Run, has_status
from app.schemas.errors import ReportedError
from app.services import counters, feed, outbox, quotas, timings
from app.services.outcome import Outcome, job_error, verdict
from app.settings import get_settings

TRANSITIONS = {
    JobStatus.QUEUED: {JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED},
    JobStatus.RUNNING: {*FINAL, JobStatus.QUEUED},
}
CLAIM_TRIES = 8
ORDINARY = 5  # priority of a job that names none
STRICT_S = 10 * 365 * 86_400  # of a step of priority that no waiting outweighs
RELEASED_AT_ONCE = 100


class ForbiddenTransitionError(Exception):
    """A change of status that is not in the table: a defect of the caller."""


@dataclass(frozen=True)
class WorkerInfo:
    """Who claims: identity and what it can run."""

    id: str
    host: str
    boot_id: str
    queues: tuple[str, ...]
    gpus_total: int = 0
    gpus_free: int = 0


@dataclass(frozen=True)
class RenewalResult:
    """What a renewal found: a lost lease, or a request to cancel or to pause."""

    lost: bool = False
    cancel_mode: str | None = None
    save: bool = True
    pause: bool = False


def fence(run: Run | None) -> Sequence[ColumnElement[bool]]:
    """Conditions that hold only while ``run`` still owns its job."""
    if run is None:
        return ()
    return (Job.run_number == run.number, Job.lease_owner == run.worker_id)


def transition(
    session: Session,
    job_id: str,
    old: JobStatus,
    new: JobStatus,
    run: Run | None = None,
    *,
    only: ColumnElement[bool] | None = None,
    **values: Any,
) -> Job | None:
    """Compare-and-set of ``jobs.status`` with its event; None when someone else decided.

    ``only`` is a further condition on the row.

    Raises:
        ForbiddenTransitionError: if (old, new) is not in the table of ARCHITECTURE.md.
    """
    if new not in TRANSITIONS.get(old, ()):
        raise ForbiddenTransitionError(old, new)
    now = database_now(session)
    job = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == old, *fence(run), true() if only is None else only)
        .values(
            {
                "status_reason": None,
                "updated_at": now,
                **({"finished_at": now, "paused_at": None} if new in FINAL else {}),
                **values,
                "status": new,
                "event_seq": Job.event_seq + 1,
            }
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    if job is not None:
        feed.add(session, [_status_event(job, run, now)])
        if job.labels:
            entries = update(JobLabel).where(JobLabel.job_id == job_id)
            session.execute(entries.values(status=new))
        told = "job.paused" if is_held(job) else f"job.{new}"
        outbox.note(session, job.tenant_id, job_id, [(job.event_seq, told)])
        moved = [((job.kind, old, job.queue), -1), ((job.kind, new, job.queue), 1)]
        counters.add(session, counters.JOBS, moved)
        after_commit(session, lambda: queue.announce(job_id))
    return job


def is_held(job: Job) -> bool:
    """Whether a job waits to be resumed; one that runs is asked to stop first."""
    return job.status == JobStatus.QUEUED and job.paused_at is not None


def _status_event(job: Job, run: Run | None, now: datetime) -> Event:
    data: dict[str, Any] = {
        "status": job.status,
        "status_reason": "paused" if is_held(job) else job.status_reason,
        "run_number": job.run_number,
    }
    if job.status in FINAL:
        data |= {"error": job.error, "result": job.result}
    return Event(
        job_id=job.id,
        seq=job.event_seq,
        tenant_id=job.tenant_id,
        run_number=run.number if run else None,
        type="status",
        at=now,
        data=data,
    )


def add_event(
    session: Session, job_id: str, kind: str, data: dict[str, Any], run: Run | None = None
) -> bool:
    """Append an event under the next ``seq``; False when ``run`` no longer owns the job."""
    return add_events(session, job_id, [(kind, data)], run)


def add_events(
    session: Session, job_id: str, facts: Sequence[tuple[str, dict[str, Any]]], run: Run | None
) -> bool:
    """Append events, each a type and its data, in order; one statement takes all numbers."""
    job = session.execute(
        update(Job)
        .where(Job.id == job_id, *fence(run))
        .values(event_seq=Job.event_seq + len(facts))
        .returning(Job.event_seq, Job.tenant_id)
    ).one_or_none()
    if job is None:
        return False
    feed.add(
        session,
        [
            Event(
                job_id=job_id,
                seq=seq,
                tenant_id=job.tenant_id,
                run_number=run.number if run else None,
                type=kind,
                data=data,
            )
            for seq, (kind, data) in enumerate(facts, start=job.event_seq - len(facts) + 1)
        ],
    )
    progress = [job.event_seq] if facts and facts[-1][0] == "progress" else []
    outbox.note(session, job.tenant_id, job_id, [(seq, "job.progress") for seq in progress])
    after_commit(session, lambda: queue.announce(job_id))
    return True


# -- claim and hold ------------------------------------------------------------------------------


def line_at(now: datetime, priority: int) -> datetime:
    """Where a job that is submitted now stands in line; the least is the first.

    That is the time of its submission, earlier by ``queue_ageing_s`` for each step of priority
    above the ordinary one: as good as a priority that grows by one in that time, and an index
    keeps the order. Jobs from before there were priorities stand where they were submitted.
    """
    step_s = get_settings().queue_ageing_s or STRICT_S
    return now - timedelta(seconds=(priority - ORDINARY) * step_s)


def eligible(
    session: Session, worker: WorkerInfo, queues: Sequence[str], now: datetime
) -> ColumnElement[bool]:
    """Condition for the jobs in line that ``worker`` could start now."""
    held = quotas.held(session, now)
    device = Job.device == "cpu"
    if not worker.gpus_total:
        device = and_(Job.device != "cuda", Job.gpus == 0)
    elif worker.gpus_free:
        device = or_(device, and_(Job.gpus <= worker.gpus_free, Job.tenant_id.not_in(held.on_gpus)))
    return and_(
        has_status(JobStatus.QUEUED),
        Job.queue.in_(queues),
        Job.not_before.is_(None),
        Job.waiting_since.is_(None),
        Job.paused_at.is_(None),
        Job.tenant_id.not_in(held.all),
        device,
    )


def release(session: Session, now: datetime) -> None:
    """Put jobs whose ``not_before`` has come in line, those first that are due longest.

    Jobs that still have one stand in no index that a claim reads, however many they are.
    """
    due = session.scalars(
        select(Job.id)
        .where(has_status(JobStatus.QUEUED), Job.not_before <= now)
        .order_by(Job.not_before)
        .limit(RELEASED_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    if due:
        session.execute(
            update(Job)
            .where(Job.id.in_(due))
            .values(not_before=None, status_reason=None, updated_at=now)
        )


def claim(session: Session, worker: WorkerInfo, queue: str) -> Run | None:
    """Take the best waiting job of ``queue``; None when there is none for this worker.

    The update count is the guard: of several workers after one job exactly one changes a row.
    """
    now = database_now(session)
    release(session, now)
    expires = now + timedelta(seconds=get_settings().lease_s)
    candidates = session.execute(
        select(Job.id, Job.tenant_id)  # with no other column the index alone answers
        .where(eligible(session, worker, [queue], now))
        .order_by(Job.line_at, Job.id)
        .limit(CLAIM_TRIES)
    ).all()
    for job_id, tenant_id in candidates:
        if not quotas.may_start(session, tenant_id):
            continue
        job = transition(
            session,
            job_id,
            JobStatus.QUEUED,
            JobStatus.RUNNING,
            only=Job.paused_at.is_(None),
            status_reason="starting",
            run_number=Job.run_number + 1,
            lease_owner=worker.id,
            lease_expires_at=expires,
            started_at=now,
            not_before=None,
        )
        if job is not None:
            return _open_run(session, job, worker, now)
    return None


def _open_run(session: Session, job: Job, worker: WorkerInfo, now: datetime) -> Run:
    run = Run(
        job_id=job.id,
        number=job.run_number,
        tenant_id=job.tenant_id,
        worker_id=worker.id,
        host=worker.host,
        boot_id=worker.boot_id,
        started_at=now,
    )
    session.add(run)
    add_event(session, job.id, "run", {"number": run.number, "worker": worker.id}, run)
    session.flush()
    return run


def renew(session: Session, run: Run) -> RenewalResult:
    """Extend the lease of a run; returns whether it is lost, and whether it is to stop.

    A dead lease is not revived: the reaper may already be deciding about it.
    """
    now = database_now(session)
    row = session.execute(
        update(Job)
        .where(
            Job.id == run.job_id,
            Job.status == JobStatus.RUNNING,
            Job.lease_expires_at > now,
            *fence(run),
        )
        .values(lease_expires_at=now + timedelta(seconds=get_settings().lease_s))
        .returning(Job.cancel_requested_at, Job.cancel_mode, Job.cancel_save, Job.paused_at)
    ).one_or_none()
    if row is None:
        return RenewalResult(lost=True)
    if row.cancel_requested_at is None:
        return RenewalResult(pause=row.paused_at is not None)
    return RenewalResult(cancel_mode=row.cancel_mode or "graceful", save=row.cancel_save)


def record_process(session: Session, run: Run, **process: Any) -> None:
    """Store the child's identity, so that a later worker of this host can kill it if need be."""
    session.execute(
        update(Run).where(Run.job_id == run.job_id, Run.number == run.number).values(**process)
    )


def mark_running(session: Session, run: Run) -> None:
    """The child has sent ``hello``: the job is no longer ``starting``."""
    session.execute(
        update(Job)
        .where(Job.id == run.job_id, Job.status_reason == "starting", *fence(run))
        .values(status_reason=None)
    )


# -- the end of a run ----------------------------------------------------------------------------


def finish(session: Session, run: Run, outcome: Outcome) -> Job | None:
    """Decide what a run's end means for its job; None when the run had lost it before."""
    job = session.get(Job, run.job_id)
    if job is None:
        return None
    new, values = verdict(job, run, outcome, database_now(session))
    done = transition(session, job.id, JobStatus.RUNNING, new, run, **values)
    if done is not None:
        failure = values.get("error")
        if new == JobStatus.SUCCEEDED:
            timings.note(session, done, run, database_now(session))
        again = failure["code"] if failure else "paused" if is_held(done) else "requeued"
        _close_run(session, run, again if new == JobStatus.QUEUED else new, outcome)
    return done


def _close_run(session: Session, run: Run, outcome: str, end: Outcome) -> None:
    closed = session.scalar(
        update(Run)
        .where(Run.job_id == run.job_id, Run.number == run.number, Run.ended_at.is_(None))
        .values(
            ended_at=database_now(session),
            outcome=outcome,
            exit_code=end.exit_code,
            signal=end.signal,
            peak_rss_mb=end.peak_rss_mb,
            peak_gpu_mb=end.peak_gpu_mb,
        )
        .returning(Run.number)
    )
    if closed is not None:
        counters.add(session, counters.RUNS, [((outcome,), 1)])


def expire(session: Session) -> list[str]:
    """End every run whose lease is dead; returns the ids of the jobs it decided about."""
    now = database_now(session)
    dead = session.scalars(
        select(Job.id)
        .where(has_status(JobStatus.RUNNING), Job.lease_expires_at < now)
        .order_by(Job.id)
        .limit(100)
    ).all()
    return [job_id for job_id in dead if _expire_one(session, job_id, now)]


def _expire_one(session: Session, job_id: str, now: datetime) -> bool:
    job = session.get(Job, job_id, populate_existing=True)
    run = session.get(Run, (job_id, job.run_number)) if job else None
    if job is None or run is None or job.lease_expires_at is None or job.lease_expires_at >= now:
        return False
    message = f"worker {run.worker_id} stopped renewing its lease"
    lost = Outcome(error=ReportedError(code="worker_lost", message=message))
    return finish(session, run, lost) is not None


def time_out_queued(session: Session) -> list[str]:
    """Fail the jobs that waited longer than their ``queue_timeout_s``."""
    now = database_now(session)
    late = session.scalars(
        select(Job.id)
        .where(has_status(JobStatus.QUEUED), Job.queue_timeout_at < now)
        .order_by(Job.queue_timeout_at)
        .limit(100)
    ).all()
    reported = ReportedError(
        code="queue_timeout",
        message="no worker took the job within limits.queue_timeout_s",
        hint="start a worker for its queue, or raise limits.queue_timeout_s",
    )
    error = job_error(Outcome(error=reported))
    failed = [
        transition(session, job_id, JobStatus.QUEUED, JobStatus.FAILED, error=error)
        for job_id in late
    ]
    return [job.id for job in failed if job is not None]


def request_cancel(session: Session, job: Job, mode: str, *, save: bool) -> Job | None:
    """Cancel a queued job at once, ask a running one to stop; None when the status moved on."""
    now = database_now(session)
    asked: dict[str, Any] = {"cancel_requested_at": now, "cancel_mode": mode, "cancel_save": save}
    if job.status == JobStatus.QUEUED:
        return transition(session, job.id, JobStatus.QUEUED, JobStatus.CANCELLED, **asked)
    kill = asked if mode == "kill" else {}
    changed = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.status == JobStatus.RUNNING, Job.cancel_requested_at.is_(None))
        .values(**asked, status_reason="cancelling", updated_at=now)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    if changed is not None:
        data = {"status": JobStatus.RUNNING, "status_reason": "cancelling"}
        add_event(session, job.id, "status", data)
        return changed
    # asked before: a second call may only escalate graceful to kill
    return session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.status == JobStatus.RUNNING)
        .values(**kill, updated_at=now)
        .returning(Job)
        .execution_options(populate_existing=True)
    )
