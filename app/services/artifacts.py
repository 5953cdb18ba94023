"""Files of runs: stored, found, listed. A row is ``ready`` once its bytes are checked.

Bytes are copied between two short sessions, so that SQLite's one writer is never kept waiting.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app import queue, storage
from app.db.session import after_commit, make_session
from app.db.tables import Artifact, Job, Run, new_id
from app.errors import InvalidError, NotFoundError
from app.services import counters, holds, lifecycle
from app.services.storage_keys import checked_name, log_key, media_type, run_key
from app.settings import get_settings
from app.texts import storable
from models.core.spec import ArtifactRef

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
    retire(session, Artifact.job_id == row.job_id, Artifact.name == row.name)
    row.size_bytes, row.sha256 = stored
    row.status = "ready"
    counters.add(session, counters.ARTIFACT_BYTES, [((row.tenant_id,), row.size_bytes)])
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
        retire(session, Artifact.id == row.id)


def retire(session: Session, *conditions: ColumnElement[bool]) -> None:
    """Hide ready artifacts; their bytes are collected once no job needs them."""
    sizes = session.execute(
        update(Artifact)
        .where(Artifact.status == "ready", *conditions)
        .values(status="deleted")
        .returning(Artifact.tenant_id, Artifact.size_bytes)
        .execution_options(populate_existing=True)
    ).all()
    freed = [((tenant_id,), -size_bytes) for tenant_id, size_bytes in sizes]
    counters.add(session, counters.ARTIFACT_BYTES, freed)


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
