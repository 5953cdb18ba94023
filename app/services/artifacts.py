"""Files of runs: stored, found, listed, collected. A row is ``ready`` once its bytes are checked.

Bytes are copied between two short sessions, so that SQLite's one writer is never kept waiting.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app import queue, storage
from app.db.session import after_commit, database_now, make_session
from app.db.tables import (
    FINAL,
    Artifact,
    Dataset,
    Job,
    JobInput,
    JobStatus,
    Metric,
    Run,
    new_id,
)
from app.errors import InvalidError, NotFoundError
from app.services import holds, lifecycle
from app.services.storage_keys import (
    LOG_KEY,
    checked_name,
    job_folder,
    log_key,
    media_type,
    run_key,
)
from app.settings import get_settings
from app.texts import storable
from models.core.spec import ArtifactRef

COLLECTED_A_PASS = 100
SWEPT_AT_ONCE = 500
LOG_INTERVAL_S = 2.0
LOG_RATE = 5 * 2**20  # bytes a second that copies of a growing log may take on average


# -- a run writes ----------------------------------------------------------------------------


def store(
    run: Run,
    path: Path,
    role: str,
    name: str,
    step: int | None = None,
    metadata: dict[str, Any] | None = None,
) -> Artifact | None:
    """Store the file ``path`` of a run; a file of the same name before it is replaced.

    Returns:
        The row, ``ready``; None when the run no longer owns its job.

    Raises:
        OSError: when the file cannot be read, the store is full (``errno.ENOSPC``) or away.
        ValueError: for a name that is not allowed.
    """
    row = Artifact(
        id=new_id("art"),
        tenant_id=run.tenant_id,
        job_id=run.job_id,
        run_number=run.number,
        role=role,
        name=checked_name(name),
        step=step,
        storage_key=run_key(run.tenant_id, run.job_id, run.number, name),
        media_type=media_type(name),
        labels=storable(metadata or {}),
    )
    with make_session() as session:
        if not _owned(session, run):
            return None
        session.add(row)
    stored = storage.put(row.storage_key, path)
    kept = storage.head(row.storage_key).size_bytes
    if kept != stored.size_bytes:
        raise OSError(f"the store kept {kept} of {stored.size_bytes} bytes of {name}")
    with make_session() as session:
        return _publish(session, run, row, stored)


def _owned(session: Session, run: Run) -> bool:
    """Whether the run still owns its job; locks the job's row until the session ends."""
    owner = select(Job.id).where(Job.id == run.job_id, *lifecycle.fence(run)).with_for_update()
    return session.scalar(owner) is not None


def _publish(
    session: Session, run: Run, pending: Artifact, stored: storage.Stored
) -> Artifact | None:
    """Make the row ready in place of an older one of its name; None when the run lost the job."""
    row = session.get_one(Artifact, pending.id)
    if not _owned(session, run):
        row.status = "deleted"
        return None
    session.execute(
        update(Artifact)
        .where(Artifact.job_id == row.job_id, Artifact.name == row.name, Artifact.status == "ready")
        .values(status="deleted")
    )
    row.size_bytes, row.sha256 = stored
    row.status = "ready"
    session.flush()
    data = {
        "artifact_id": row.id,
        "name": row.name,
        "role": row.role,
        "step": row.step,
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
    }
    lifecycle.add_event(session, run.job_id, "artifact", data, run)
    if row.role == "checkpoint":
        _prune(session, row.tenant_id, row.job_id)
    after_commit(session, lambda: queue.announce(run.job_id))
    return row


def _prune(session: Session, tenant_id: str, job_id: str) -> None:
    """Keep the newest checkpoints, the newest best one, those named, and those jobs wait for."""
    rows = checkpoints(session, tenant_id, job_id)
    best = [row for row in rows if row.labels.get("best") is True][:1]
    kept = {row.id for row in rows[: get_settings().retention_checkpoints] + best}
    held = holds.digests(session, job_id)
    for row in rows:
        if row.id in kept or row.sha256 in held or row.labels.get("named") is True:
            continue
        row.status = "deleted"


def put_log(run: Run, path: Path) -> float:
    """Copy a run's growing log to where readers find it.

    Returns:
        Seconds to wait before the next copy: 2, more for a long log, so that the copies of one
        run take 5 MiB a second at most on average.
    """
    stored = storage.put(log_key(run.tenant_id, run.job_id, run.number), path)
    queue.announce(run.job_id)
    return max(LOG_INTERVAL_S, stored.size_bytes / LOG_RATE)


# -- everyone reads --------------------------------------------------------------------------


def listing(
    session: Session, tenant_id: str, job_id: str, role: str | None = None
) -> Sequence[Artifact]:
    """Ready artifacts of a job by name, of one role or all."""
    query = _ready(tenant_id).where(Artifact.job_id == job_id).order_by(Artifact.name)
    return session.scalars(query if role is None else query.where(Artifact.role == role)).all()


def find(session: Session, tenant_id: str, job_id: str, name: str) -> Artifact:
    """The ready artifact of this name.

    Raises:
        NotFoundError: if the job has none, or is another tenant's or deleted.
    """
    row = session.scalar(_ready(tenant_id).where(Artifact.job_id == job_id, Artifact.name == name))
    if row is None:
        raise NotFoundError(f"the job {job_id} has no artifact {name!r}")
    return row


def get(session: Session, tenant_id: str, artifact_id: str) -> Artifact:
    """The ready artifact of this id.

    Raises:
        NotFoundError: if there is none, or its job is another tenant's or deleted.
    """
    row = session.scalar(_ready(tenant_id).where(Artifact.id == artifact_id))
    if row is None:
        raise NotFoundError(f"no artifact {artifact_id}")
    return row


def _ready(tenant_id: str) -> Any:
    return (
        select(Artifact)
        .join(Job, Job.id == Artifact.job_id)
        .where(
            Artifact.tenant_id == tenant_id,
            Artifact.status == "ready",
            Job.deleted_at.is_(None),
        )
    )


def checkpoints(session: Session, tenant_id: str, job_id: str) -> list[Artifact]:
    """Ready checkpoints of a job, newest first: by run, then by step."""
    rows = listing(session, tenant_id, job_id, "checkpoint")
    return sorted(rows, key=lambda row: (row.run_number, row.step or 0, row.id), reverse=True)


def checkpoint(session: Session, tenant_id: str, job_id: str, which: str) -> Artifact:
    """The checkpoint ``latest``, ``best`` or of a step.

    Raises:
        NotFoundError: if there is no such checkpoint.
    """
    rows = checkpoints(session, tenant_id, job_id)
    if which == "best":
        rows = [row for row in rows if row.labels.get("best") is True]
    elif which != "latest":
        rows = [row for row in rows if str(row.step) == which]
    if not rows:
        raise NotFoundError(f"the job {job_id} has no checkpoint {which!r}: latest, best or a step")
    return rows[0]


def open_input(session: Session, tenant_id: str, ref: ArtifactRef) -> str:
    """Storage key of the bytes that a reference names.

    Raises:
        NotFoundError: if the artifact is gone.
        InvalidError: if it is not the one whose digest was pinned.
    """
    row = find(session, tenant_id, ref.job, ref.artifact)
    if ref.sha256 not in (None, row.sha256):
        if replaced := session.scalar(_replaced(ref)):
            return replaced
        raise InvalidError(f"{ref.artifact} of {ref.job} was replaced: its digest is {row.sha256}")
    return row.storage_key


def _replaced(ref: ArtifactRef) -> Any:
    """Storage key of a file that a later run replaced, but whose bytes are held."""
    return select(Artifact.storage_key).where(
        Artifact.job_id == ref.job,
        Artifact.name == ref.artifact,
        Artifact.sha256 == ref.sha256,
        Artifact.status == "deleted",
    )


# -- garbage ---------------------------------------------------------------------------------


def collect() -> None:
    """Remove replaced and abandoned artifacts, and what deleted jobs left; safe in parallel."""
    with make_session(write=False) as session:
        rows = [*session.scalars(_garbage(session))]
        jobs = session.execute(
            select(Job.id, Job.tenant_id).where(Job.deleted_at.is_not(None)).limit(COLLECTED_A_PASS)
        ).all()
    for row in rows:
        _collect_row(row)
    for job_id, tenant_id in jobs:
        _collect_job(tenant_id, job_id)


def _garbage(session: Session) -> Any:
    """Deleted rows that no job needs, and pending ones that no running run can still finish."""
    before = database_now(session) - timedelta(hours=get_settings().retention_pending_h)
    alive = exists().where(
        Job.id == Artifact.job_id,
        Job.status == JobStatus.RUNNING,
        Job.run_number == Artifact.run_number,
    )
    user = aliased(Job)
    held = exists().where(
        JobInput.source == Artifact.job_id,
        JobInput.sha256 == Artifact.sha256,
        user.id == JobInput.job_id,
        user.status.not_in(FINAL),
    )
    abandoned = (Artifact.status == "pending") & (Artifact.created_at < before) & ~alive
    return (
        select(Artifact)
        .where(or_((Artifact.status == "deleted") & ~held, abandoned))
        .limit(COLLECTED_A_PASS)
    )


def _collect_row(row: Artifact) -> None:
    other = aliased(Artifact)
    with make_session() as session:
        shared = select(other.id).where(  # a run may have stored the name again
            other.storage_key == row.storage_key, other.id != row.id, other.status != "deleted"
        )
        if session.scalar(shared.limit(1)) is None:
            storage.delete(row.storage_key)
        session.execute(delete(Artifact).where(Artifact.id == row.id))


def _collect_job(tenant_id: str, job_id: str) -> None:
    for key in [info.key for info in storage.list(job_folder(tenant_id, job_id))]:
        storage.delete(key)
    for name in _metric_names(job_id):  # a million rows at once would hold SQLite's writer
        with make_session() as session:
            session.execute(delete(Metric).where(Metric.job_id == job_id, Metric.name == name))
    with make_session() as session:
        session.execute(delete(Artifact).where(Artifact.job_id == job_id))
        session.execute(delete(Job).where(Job.id == job_id))


def _metric_names(job_id: str) -> Iterator[str]:
    while True:
        with make_session(write=False) as session:
            name = session.scalar(select(func.min(Metric.name)).where(Metric.job_id == job_id))
        if name is None:
            return
        yield name


def sweep() -> None:
    """Remove objects that no row names, left by a crash between two steps; young ones stay.

    Lists the whole store: once an hour is often enough. A log needs no row but its job's.
    """
    with make_session(write=False) as session:
        now = database_now(session)
    before = now - timedelta(hours=get_settings().retention_pending_h)
    old = (info.key for info in storage.list("t") if info.modified_at < before)
    while keys := [*islice(old, SWEPT_AT_ONCE)]:
        with make_session(write=False) as session:
            named = _named(session, keys)
        for key in keys:
            if key not in named:
                storage.delete(key)


def _named(session: Session, keys: list[str]) -> set[str]:
    """Those of the keys that a row accounts for."""
    named: set[str] = set()
    for table in (Artifact, Dataset):
        column = table.storage_key
        named |= {key for key in session.scalars(select(column).where(column.in_(keys))) if key}
    logs = {key: key.split("/")[3] for key in keys if LOG_KEY.fullmatch(key)}
    jobs = set(session.scalars(select(Job.id).where(Job.id.in_(logs.values()))))
    return named | {key for key, job_id in logs.items() if job_id in jobs}
