"""Sweeps: many jobs of one spec, made a few at a time. All state is in SQL.

:func:`advance` alone makes the jobs of a sweep and ends it, under the lock of its row; how many
were made is written in the transaction that makes them. Whoever is killed is continued by the next.
"""

from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Job, JobStatus, Sweep, new_id
from app.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    QuotaExceededError,
)
from app.schemas.sweeps import SweepCreate, SweepFilters
from app.services import jobs, paging, quotas, registered, sweep_plan, sweep_search
from app.services.sweep_stop import stop_early

RUNNING, FINISHED, FAILED, CANCELLED = "running", "finished", "failed", "cancelled"
ADVANCED_AT_ONCE = 100
REFILL = 8  # jobs are made when this part of max_parallel is free, and at each period

log = structlog.get_logger(__name__)


def create(session: Session, tenant_id: str, request: SweepCreate) -> Sweep:
    """Store a sweep whose every trial was checked; a dispatcher makes its jobs.

    Raises:
        InvalidError: with the pointer of what is wrong.
        QuotaExceededError: if the tenant has as much queued as it may; a sweep counts as one job.
    """
    sweep_search.check_installed(request)
    trials = sweep_plan.plan(session, tenant_id, request)
    kind = str(request.job.spec.get("kind"))
    sweep_plan.goal_of(request.objective, kind)
    quotas.admit_job(session, tenant_id)
    sweep = Sweep(
        id=new_id("swp"),
        tenant_id=tenant_id,
        name=request.name,
        kind=kind,
        request=_numbered(session, tenant_id, request),
        trials=registered.numbered(session, tenant_id, trials),
        created_at=database_now(session),
    )
    session.add(sweep)
    session.flush()
    return sweep


def _numbered(session: Session, tenant_id: str, request: SweepCreate) -> dict[str, Any]:
    """The request as it is stored: an alias of a model may move before its jobs are made."""
    stored = request.model_dump(mode="json", exclude_unset=True)
    job = stored["job"]
    job["spec"] = registered.numbered(session, tenant_id, job["spec"])
    swept = {name: stored[name] for name in ("parameters", "baseline") if name in stored}
    return stored | registered.numbered(session, tenant_id, swept)


def get(session: Session, tenant_id: str, sweep_id: str) -> Sweep:
    """The sweep of this tenant.

    Raises:
        NotFoundError: if there is none, or it is another tenant's.
    """
    sweep = session.get(Sweep, sweep_id)
    if sweep is None or sweep.tenant_id != tenant_id:
        raise NotFoundError(f"no sweep {sweep_id}")
    return sweep


def list_page(session: Session, tenant_id: str, filters: SweepFilters) -> paging.RowPage:
    """One page of the tenant's sweeps, newest first."""
    query = select(Sweep).where(Sweep.tenant_id == tenant_id)
    if filters.status is not None:
        query = query.where(Sweep.status == filters.status)
    return paging.fetch(
        session,
        query,
        Sweep.id,
        limit=filters.limit,
        cursor=filters.cursor,
        filters={"list": "sweeps", "status": filters.status},
        newest_first=True,
    )


def cancel(session: Session, tenant_id: str, sweep_id: str) -> bool:
    """End a sweep and ask its jobs to stop, with a checkpoint; False if it was cancelled before.

    Raises:
        ConflictError: if it has ended otherwise.
    """
    sweep = get(session, tenant_id, sweep_id)
    session.refresh(sweep, with_for_update=True)  # no job is made meanwhile
    if sweep.status == CANCELLED:
        return False
    if sweep.status != RUNNING:
        raise ConflictError(f"the sweep has {sweep.status}; nothing is left to cancel")
    _end(session, sweep, CANCELLED)
    for job_id in session.scalars(_unfinished(sweep.id)).all():
        try:
            jobs.cancel(session, tenant_id, job_id, "graceful", save=True)
        except (ConflictError, NotFoundError):
            continue  # it ended just now
    return True


def cancel_all(session: Session, tenant_id: str) -> None:
    """Let no sweep of a tenant make another job."""
    query = select(Sweep).where(Sweep.tenant_id == tenant_id, Sweep.status == RUNNING)
    for sweep in session.scalars(query.with_for_update()).all():
        _end(session, sweep, CANCELLED)


def delete(session: Session, tenant_id: str, sweep_id: str) -> None:
    """Forget a sweep that has ended; its jobs stay.

    Raises:
        ConflictError: if it still goes on.
    """
    sweep = get(session, tenant_id, sweep_id)
    if sweep.status == RUNNING:
        raise ConflictError("the sweep is running; cancel it first")
    session.delete(sweep)


def forget(session: Session, before: datetime) -> None:
    """Forget the sweeps that ended before a time."""
    session.execute(delete_rows(Sweep).where(Sweep.finished_at < before))


# -- the dispatcher --------------------------------------------------------------------------


def due(session: Session, *, look_at_metrics: bool) -> list[str]:
    """Ids of sweeps for which :func:`advance` has something to do, in no particular order.

    Args:
        session: to look in.
        look_at_metrics: of the look of each period, which leaves nothing undone.
    """
    query = select(Sweep).where(Sweep.status == RUNNING).order_by(func.random())
    sweeps = session.scalars(query.limit(ADVANCED_AT_ONCE)).all()
    counted = (
        select(Job.sweep_id, func.count())
        .where(Job.sweep_id.in_([sweep.id for sweep in sweeps]), Job.finished_at.is_(None))
        .group_by(Job.sweep_id)
    )
    unfinished = dict(session.execute(counted).all()) if sweeps else {}
    return [
        sweep.id
        for sweep in sweeps
        if _has_room(sweep, unfinished.get(sweep.id, 0), all_room=look_at_metrics)
        or (look_at_metrics and sweep.request.get("early_stop") is not None)
    ]


def _has_room(sweep: Sweep, unfinished: int, *, all_room: bool) -> bool:
    """Whether jobs may be made now, or none is left to wait for.

    Between the looks of each period an eighth must be free: to make one job at each end of another
    costs more than all the rest of a sweep.
    """
    request = SweepCreate.model_validate(sweep.request)
    left = sweep_plan.job_count(request, sweep.trials) - sweep.made
    some = 1 if all_room else max(1, request.max_parallel // REFILL)
    return unfinished + some <= request.max_parallel if left else not unfinished


def advance(session: Session, sweep_id: str, *, look_at_metrics: bool) -> None:
    """Make the jobs for which there is room, and end a sweep that has no more.

    Args:
        session: of this sweep alone.
        sweep_id: of the sweep.
        look_at_metrics: also stop jobs that are worse than the others, where it is asked for.
    """
    query = select(Sweep).where(Sweep.id == sweep_id, Sweep.status == RUNNING)
    sweep = session.scalar(query.with_for_update(skip_locked=True))
    if sweep is None:
        return
    request = SweepCreate.model_validate(sweep.request)
    unfinished = len(session.scalars(_unfinished(sweep.id)).all())
    total = sweep_plan.job_count(request, sweep.trials)
    while sweep.made < total and unfinished < request.max_parallel:
        if not _has_values(session, sweep, request):
            break
        if not _make_job(session, sweep, request):
            return
        unfinished += 1
    if sweep.made == total and not unfinished:
        _end(session, sweep, FINISHED if _any_succeeded(session, sweep) else FAILED)
    elif look_at_metrics and request.early_stop is not None:
        stop_early(session, sweep, request)


def _unfinished(sweep_id: str) -> Any:
    return select(Job.id).where(Job.sweep_id == sweep_id, Job.finished_at.is_(None))


def _has_values(session: Session, sweep: Sweep, request: SweepCreate) -> bool:
    """Whether the next job's trial is drawn; if not it is drawn now, where that can be."""
    if sweep.made // len(request.seeds) < len(sweep.trials):
        return True
    values = sweep_search.propose(session, sweep, request)
    if values is None:
        return False
    sweep.trials = [*sweep.trials, values]
    return True


def _make_job(session: Session, sweep: Sweep, request: SweepCreate) -> bool:
    """Submit the next job; False where that cannot be now, or never."""
    number, which = divmod(sweep.made, len(request.seeds))
    try:
        values, seed = sweep.trials[number], request.seeds[which]
        job = sweep_plan.job_of(request, values, seed, number)
        jobs.submit(session, sweep.tenant_id, job, sweep=jobs.SweepPlace(sweep.id, sweep.made))
    except QuotaExceededError as error:
        log.info("sweep_waits", sweep_id=sweep.id, reason=error.detail)
        return False
    except InvalidError as error:
        message = f"trial {number} cannot be submitted: {error.detail}"
        hint = "its other jobs go on; make a new sweep of the trials that are left"
        sweep.error = {"code": "spec_invalid", "message": message, "hint": hint}
        _end(session, sweep, FAILED)
        return False
    sweep.made += 1
    session.flush()
    return True


def _any_succeeded(session: Session, sweep: Sweep) -> bool:
    query = select(Job.id).where(Job.sweep_id == sweep.id, Job.status == JobStatus.SUCCEEDED)
    if session.scalar(query.limit(1)) is not None:
        return True
    message = "none of its jobs succeeded"
    hint = f"GET /v1/jobs?sweep={sweep.id} lists them with their errors"
    sweep.error = {"code": "no_result", "message": message, "hint": hint}
    return False


def _end(session: Session, sweep: Sweep, status: str) -> None:
    sweep.status = status
    sweep.finished_at = database_now(session)
    session.flush()
