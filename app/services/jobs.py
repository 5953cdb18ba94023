"""Jobs: submit, read, list, cancel, delete. Statuses change in ``lifecycle`` alone."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app import queue, tracing
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Event, Job, JobLabel, JobStatus, Run, new_id
from app.errors import ConflictError, NotFoundError, QuotaExceededError, UnavailableError
from app.schemas.jobs import CostRead, DryRun, JobCreate, JobFilters, JobRead
from app.services import (
    counters,
    dependencies,
    feed,
    holds,
    lifecycle,
    paging,
    queues,
    quotas,
    search,
    timings,
    webhooks,
)
from app.services.derived import derive
from app.services.resolve import Placement, Resolved, placement, resolve

CANCEL_TRIES = 5
ID_MARGIN = timedelta(minutes=1)  # a row's created_at is read a moment after its id is made

log = structlog.get_logger(__name__)


class SweepPlace(NamedTuple):
    """Where a job stands in a sweep."""

    sweep_id: str
    index: int


def get(session: Session, tenant_id: str, job_id: str) -> Job:
    """The job of this tenant.

    Raises:
        NotFoundError: if there is none, it is another tenant's, or it is deleted.
    """
    job = session.get(Job, job_id)
    if job is None or job.tenant_id != tenant_id or job.deleted_at is not None:
        raise NotFoundError(f"no job {job_id}")
    return job


def read(session: Session, tenant_id: str, job_id: str) -> JobRead:
    """The job as it is answered."""
    return describe(session, [get(session, tenant_id, job_id)])[0]


def describe(session: Session, jobs: list[Job]) -> list[JobRead]:
    """Jobs as they are answered, with what is worked out now."""
    derived = derive(session, jobs)
    return [JobRead.of(job, derived[job.id]) for job in jobs]


def submit(
    session: Session,
    tenant_id: str,
    request: JobCreate,
    *,
    job_id: str | None = None,
    parent_id: str | None = None,
    sweep: SweepPlace | None = None,
    root: str = "/spec",
) -> Job:
    """Store a queued job with its first event; a worker is woken after the commit.

    ``job_id`` is the id of the new job, one of its own where it is None; ``parent_id`` the job that
    this one retries; ``sweep`` where it stands in a sweep, which counts against the quota in its
    place; ``root`` the JSON pointer of the spec in the request, for messages.

    Raises:
        InvalidError: with the pointer of a reference or a queue that cannot be used.
        QuotaExceededError: if the tenant has as many queued, or as much stored, as it may.
    """
    resolved = resolve(session, tenant_id, request.spec, root)
    sources = dependencies.sources(session, tenant_id, request.depends_on, resolved.awaited)
    device, gpus, queue_name = place = placement(request)
    queues.check(session, queue_name)
    estimate = _estimate(session, request, resolved, place)
    # late: others wait for its lock
    if sweep is None:
        quotas.admit_job(session, tenant_id)
    else:
        quotas.admit_bytes(session, tenant_id, 1)
    limits = request.limits
    now = database_now(session)
    job = Job(
        id=job_id or new_id("job"),
        tenant_id=tenant_id,
        kind=request.spec.kind,
        method=request.spec.kind.partition(".")[0],
        name=request.name,
        labels=request.metadata,
        spec=resolved.sent,
        resolved_spec=resolved.spec,
        estimate=estimate,
        resources=request.resources.model_dump(),
        limits=limits.model_dump(),
        device=device,
        gpus=gpus,
        queue=queue_name,
        priority=request.priority,
        line_at=lifecycle.line_at(now, request.priority),
        parent_job_id=parent_id,
        depends_on=sources.all,
        on_dependency_failure=request.on_dependency_failure,
        sweep_id=sweep.sweep_id if sweep else None,
        sweep_place=sweep.index if sweep else None,
        waiting_since=now if sources.unmet else None,
        not_before=request.not_before,
        requested_not_before=request.not_before,
        traceparent=tracing.current(),
        queue_timeout_at=None if sources.unmet else _after(now, limits.queue_timeout_s),
        event_seq=1,
        created_at=now,
        queued_at=now,
        updated_at=now,
    )
    counters.add(session, counters.JOBS, [((job.kind, JobStatus.QUEUED, queue_name), 1)])
    reason = "waiting_for_dependency" if sources.unmet else None
    data = {"status": JobStatus.QUEUED, "status_reason": reason, "run_number": 0}
    session.add(job)
    session.flush()
    session.add_all(
        JobLabel(job_id=job.id, name=label, tenant_id=tenant_id, value=value)
        for label, value in request.metadata.items()
    )
    if request.webhook is not None:
        webhooks.attach(session, job, request.webhook)
    holds.hold(session, job, request.spec.model_validate(resolved.spec))
    first = Event(job_id=job.id, seq=1, tenant_id=tenant_id, type="status", data=data)
    feed.add(session, [first])
    if sources.unmet:
        dependencies.wait_for(session, job, sources.unmet)
    else:
        after_commit(session, lambda: queue.enqueue(queue_name))
    stored = {"job_id": job.id, "kind": job.kind, "tenant_id": tenant_id}
    after_commit(session, lambda: log.info("job_submitted", **stored))
    return job


def _estimate(
    session: Session, request: JobCreate, resolved: Resolved, place: Placement
) -> dict[str, Any]:
    """What the kind says of its work, with the seconds that runs like it have taken."""
    seconds = timings.predict(session, request.spec.kind, resolved.cost, place.device, place.queue)
    return resolved.cost.model_dump(mode="json") | seconds


def _after(now: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)


def dry_run(session: Session, tenant_id: str, request: JobCreate) -> DryRun:
    """What :func:`submit` would store, and what is in its way."""
    resolved = resolve(session, tenant_id, request.spec)
    dependencies.sources(session, tenant_id, request.depends_on, resolved.awaited)
    place = placement(request)
    queue_name = place.queue
    queues.check(session, queue_name)
    if request.webhook is not None:
        webhooks.check_url(request.webhook, "/webhook")
    warnings = []
    if queue_name not in queues.served(session):
        warnings.append(f"no live worker serves the queue {queue_name!r}")
    try:
        quotas.admit_job(session, tenant_id)
    except QuotaExceededError as error:
        warnings.append(error.detail)
    return DryRun(
        estimate=CostRead.model_validate(_estimate(session, request, resolved, place)),
        resolved_spec=resolved.spec,
        queue=queue_name,
        warnings=warnings,
    )


def list_page(session: Session, tenant_id: str, filters: JobFilters) -> paging.RowPage:
    """One page of the tenant's jobs.

    Raises:
        InvalidError: for a cursor of another list.
    """
    query = select(Job).where(
        Job.tenant_id == tenant_id, Job.deleted_at.is_(None), *_conditions(filters)
    )
    read_by: InstrumentedAttribute[str] = Job.id
    statuses: list[InstrumentedAttribute[JobStatus]] = [Job.status]
    for name, value in filters.labels.items():
        label = aliased(JobLabel)
        entry = (label.tenant_id == tenant_id, label.name == name, label.value == value)
        query = query.join(label, label.job_id == read_by).where(*entry)
        read_by = label.job_id
        statuses.append(label.status)
    return paging.fetch(
        session,
        query,
        Job.id,
        limit=filters.limit,
        cursor=filters.cursor,
        filters=filters.model_dump(exclude={"limit", "cursor", "order"}),
        newest_first=filters.order == "-created_at",
        # of each table, so that indexes of two can be read side by side in the order of the page
        any_of=[and_(*(status == one for status in statuses)) for one in _statuses(filters)],
        read_by=read_by,
    )


def _statuses(filters: JobFilters) -> Iterable[JobStatus]:
    """Those asked for; all where the index that serves has the status before the id."""
    by_status = filters.kind or filters.method or filters.name or filters.labels
    return dict.fromkeys(filters.status) or (tuple(JobStatus) if by_status else ())


def _conditions(filters: JobFilters) -> list[ColumnElement[bool]]:
    equal = {
        Job.kind: filters.kind,
        Job.method: filters.method,
        Job.name: filters.name,
        Job.parent_job_id: filters.parent,
        Job.sweep_id: filters.sweep,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    conditions.append(Job.hidden_at.is_not(None) if filters.hidden else Job.hidden_at.is_(None))
    if filters.search is not None:
        conditions.append(search.condition(filters.search))
    # ids are sortable by time: the condition on them is what the index serves
    if filters.created_after is not None:
        conditions.append(Job.created_at >= filters.created_after)
        conditions.append(Job.id >= _id_at(filters.created_after, -ID_MARGIN))
    if filters.created_before is not None:
        conditions.append(Job.created_at < filters.created_before)
        conditions.append(Job.id < _id_at(filters.created_before, ID_MARGIN))
    return conditions


def _id_at(time: datetime, margin: timedelta) -> str:
    """Smallest id that a job made at this time can have."""
    milliseconds = int((time.timestamp() + margin.total_seconds()) * 1000)
    return f"job_{min(max(milliseconds, 0), 2**48 - 1):012x}"


def cancel(session: Session, tenant_id: str, job_id: str, mode: str, *, save: bool) -> bool:
    """Ask a job to stop; False if it was cancelled before.

    Raises:
        ConflictError: if it succeeded or failed.
    """
    for _ in range(CANCEL_TRIES):
        job = get(session, tenant_id, job_id)
        if job.status == JobStatus.CANCELLED:
            return False
        if job.status in FINAL:
            raise ConflictError(f"the job has {job.status}; a final status is never left")
        if lifecycle.request_cancel(session, job, mode, save=save) is not None:
            after_commit(session, lambda: queue.announce(job_id))
            return True
        session.refresh(job)
    raise UnavailableError("the job changes its status too often; try again")


def cancel_all(session: Session, tenant_id: str) -> int:
    """Ask every job of a tenant that is not final to stop, running ones with a checkpoint.

    Returns:
        How many were asked.
    """
    unfinished = select(Job).where(Job.tenant_id == tenant_id, Job.status.not_in(FINAL))
    asked = [
        lifecycle.request_cancel(session, job, "graceful", save=True)
        for job in session.scalars(unfinished).all()
    ]
    return len([job for job in asked if job is not None])


def delete(session: Session, tenant_id: str, job_id: str) -> None:
    """Hide a final job; the dispatcher removes its rows and artifacts.

    Raises:
        ConflictError: if it is not final, or another job needs its files.
    """
    job = get(session, tenant_id, job_id)
    session.refresh(job, with_for_update=True)  # no job may pin them meanwhile
    if user := holds.user(session, job.id):
        raise ConflictError(f"the job {user} needs its files; wait for its end or cancel it")
    if version := holds.version(session, job.id):
        raise ConflictError(f"{version} is one of its files; delete that version first")
    changed = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.status.in_(FINAL), Job.deleted_at.is_(None))
        .values(deleted_at=database_now(session))
        .returning(Job.id)
    )
    if changed is None:
        raise ConflictError(f"the job is {job.status}; cancel it first")
    counters.add(session, counters.JOBS, [((job.kind, job.status, job.queue), -1)])
    session.execute(delete_rows(JobLabel).where(JobLabel.job_id == job.id))


def runs(session: Session, tenant_id: str, job_id: str) -> list[Run]:
    """The job's runs, oldest first; at most ``limits.max_runs`` and requeues at shutdowns."""
    job = get(session, tenant_id, job_id)
    return list(session.scalars(select(Run).where(Run.job_id == job.id).order_by(Run.number)))
