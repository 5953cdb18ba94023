"""What a tenant may have: refused at POST where a quota is full, or only delayed.

Queued jobs and stored bytes are refused; running jobs and GPU-seconds keep jobs waiting. A sum is
compared under a lock on the tenant's row, so that requests at once cannot exceed it together.
Sizes are in bytes, times in seconds, a day is one of UTC.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, literal_column, or_, select
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Dataset, Job, JobStatus, Run, Sweep, Tenant, has_status
from app.errors import QuotaExceededError, StorageQuotaError
from app.services import counters
from app.settings import get_settings

NAMES = (
    "queued_jobs",
    "running_jobs",
    "stored_bytes",
    "gpu_seconds_a_day",
    "writes_a_minute",
    "reads_a_minute",
)
MORE = "GET /v1/usage tells all, the operator may allow more"


def limits_of(tenant: Tenant) -> dict[str, int | None]:
    """Each quota of a tenant: its own where it was set, else the default; None is no limit."""
    settings = get_settings()
    defaults: Mapping[str, int | None] = {
        "queued_jobs": settings.queued_jobs_limit,
        "writes_a_minute": settings.writes_limit,
        "reads_a_minute": settings.reads_limit,
    }
    return {name: tenant.quotas.get(name, defaults.get(name)) for name in NAMES}


# -- refused ---------------------------------------------------------------------------------


def admit_job(session: Session, tenant_id: str) -> None:
    """Let one more job be queued; until the session ends no other request may add one.

    Raises:
        QuotaExceededError: if as many are queued as the tenant may have.
        StorageQuotaError: if it has stored all it may, so that results would have no place.
    """
    limits = limits_of(session.get_one(Tenant, tenant_id))
    limit = limits["queued_jobs"]
    if limit is not None:
        _lock(session, tenant_id)
        used = _queued_jobs(session, tenant_id)
        if used >= limit:
            detail = (
                f"the tenant has {used} jobs queued, its limit is {limit} (queued_jobs): wait "
                f"until some have started, or cancel some; {MORE}"
            )
            raise QuotaExceededError(detail, _quota("queued_jobs", limit, used))
    if limits["stored_bytes"] is not None:
        admit_bytes(session, tenant_id, 1)


class Room(NamedTuple):
    """Bytes that a tenant may store, None for any number, and has stored."""

    limit: int | None
    used: int

    def check(self, size_bytes: int) -> None:
        """Refuse more than there is room for.

        Raises:
            StorageQuotaError: with the limit, what is stored, and what would be.
        """
        if self.limit is not None and self.used + size_bytes > self.limit:
            detail = (
                f"the tenant has {self.used} bytes stored, and {size_bytes} more would exceed its "
                f"limit of {self.limit} (stored_bytes): delete jobs or datasets that are no longer "
                f"needed; {MORE}"
            )
            raise StorageQuotaError(detail, _quota("stored_bytes", self.limit, self.used))


def room(session: Session, tenant_id: str, replaced: int = 0) -> Room:
    """What the tenant has stored and may store, without ``replaced`` bytes that are to go."""
    limit = limits_of(session.get_one(Tenant, tenant_id))["stored_bytes"]
    used = 0 if limit is None else _stored_bytes(session, tenant_id) - replaced
    return Room(limit, used)


def admit_bytes(session: Session, tenant_id: str, size_bytes: int, replaced: int = 0) -> None:
    """Let ``size_bytes`` more be stored in place of ``replaced``; locks as :func:`admit_job`.

    Raises:
        StorageQuotaError: if they are more than there is room for.
    """
    if limits_of(session.get_one(Tenant, tenant_id))["stored_bytes"] is not None:
        _lock(session, tenant_id)
        room(session, tenant_id, replaced).check(size_bytes)


def _quota(name: str, limit: int, used: int) -> dict[str, Any]:
    """A full quota as problems state it."""
    return {"name": name, "limit": limit, "used": used}


def _lock(session: Session, tenant_id: str) -> None:
    """One request of the tenant at a time; SQLite has one writer at a time anyway."""
    row = select(Tenant.id).where(Tenant.id == tenant_id)
    session.execute(row.with_for_update(key_share=True))


def _queued_jobs(session: Session, tenant_id: str) -> int:
    """Queued jobs; a sweep that goes on counts as one, whatever it has queued."""
    mine = (Job.tenant_id == tenant_id, Job.sweep_id.is_(None))
    sweeps = (
        select(func.count())
        .select_from(Sweep)
        .where(Sweep.tenant_id == tenant_id, Sweep.status == literal_column("'running'"))
    )
    return _count(session, *mine, has_status(JobStatus.QUEUED)) + (session.scalar(sweeps) or 0)


def _running_jobs(session: Session, tenant_id: str) -> int:
    return _count(session, has_status(JobStatus.RUNNING), Job.tenant_id == tenant_id)


def _count(session: Session, *conditions: Any) -> int:
    return session.scalar(select(func.count()).select_from(Job).where(*conditions)) or 0


def _stored_bytes(session: Session, tenant_id: str) -> int:
    """Bytes of the tenant's datasets and of the files of its jobs."""
    datasets = select(func.sum(Dataset.size_bytes)).where(
        Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None)
    )
    files = counters.total(session, counters.ARTIFACT_BYTES, (tenant_id,))
    return int(session.scalar(datasets) or 0) + files


# -- delayed ---------------------------------------------------------------------------------


class Held(NamedTuple):
    """Ids of the tenants whose jobs may not start now: none of them, or none on a GPU."""

    all: frozenset[str]
    on_gpus: frozenset[str]


def held(session: Session, now: datetime) -> Held:
    """The tenants that are disabled or have as much running, or GPU time used, as they may."""
    limited = or_(
        Tenant.disabled_at.is_not(None),
        Tenant.quotas["running_jobs"].as_integer().is_not(None),
        Tenant.quotas["gpu_seconds_a_day"].as_integer().is_not(None),
    )
    tenants = session.scalars(select(Tenant).where(limited)).all()
    return Held(
        frozenset(each.id for each in tenants if _may_run_nothing(session, each)),
        frozenset(each.id for each in tenants if _gpu_time_is_used(session, each, now)),
    )


def _may_run_nothing(session: Session, tenant: Tenant) -> bool:
    limit = tenant.quotas.get("running_jobs")
    full = limit is not None and _running_jobs(session, tenant.id) >= limit
    return tenant.disabled_at is not None or full


def _gpu_time_is_used(session: Session, tenant: Tenant, now: datetime) -> bool:
    limit = tenant.quotas.get("gpu_seconds_a_day")
    return limit is not None and gpu_seconds(session, tenant.id, now) >= limit


def may_start(session: Session, tenant_id: str) -> bool:
    """Whether one more job of the tenant may run, under the lock of :func:`admit_job`."""
    limit = session.get_one(Tenant, tenant_id).quotas.get("running_jobs")
    if limit is None:
        return True
    _lock(session, tenant_id)
    return _running_jobs(session, tenant_id) < limit


def gpu_seconds(session: Session, tenant_id: str, now: datetime) -> float:
    """Seconds that the tenant's runs have had GPUs since midnight, summed over the GPUs."""
    midnight = _midnight(now)
    runs = session.execute(
        select(Run.devices, Run.started_at, Run.ended_at).where(
            Run.tenant_id == tenant_id, or_(Run.ended_at.is_(None), Run.ended_at > midnight)
        )
    )
    return sum(
        len(run.devices) * ((run.ended_at or now) - max(run.started_at, midnight)).total_seconds()
        for run in runs
    )


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


# -- told ------------------------------------------------------------------------------------


class Use(NamedTuple):
    """A quota and how much of it is used; None where that is not counted here."""

    limit: int | None
    used: float | None


class Usage(NamedTuple):
    """What a tenant has and may have."""

    tenant: str
    uses: dict[str, Use]
    delayed_by: list[str]
    resets_at: datetime


def usage(session: Session, tenant_id: str) -> Usage:
    """What the tenant uses of each quota now, and which of them keep its queued jobs waiting."""
    tenant, now = session.get_one(Tenant, tenant_id), database_now(session)
    used = {
        "queued_jobs": _queued_jobs(session, tenant_id),
        "running_jobs": _running_jobs(session, tenant_id),
        "stored_bytes": _stored_bytes(session, tenant_id),
        "gpu_seconds_a_day": round(gpu_seconds(session, tenant_id, now), 3),
    }
    uses = {name: Use(limit, used.get(name)) for name, limit in limits_of(tenant).items()}
    delayed = ("running_jobs", "gpu_seconds_a_day")
    full = [n for n in delayed if (limit := uses[n].limit) is not None and used[n] >= limit]
    return Usage(tenant.name, uses, full, _midnight(now) + timedelta(days=1))
