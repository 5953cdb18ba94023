"""Deletes what the settings keep for some days only; by default everything is kept.

A job is deleted, or loses its events, metrics or files, so many days after its end. What a job that
is not final refers to stays until it is final. Each function is a generator of short steps, as in
``collection``.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from app.db.session import database_now, make_session
from app.db.tables import Artifact, Dataset, Job
from app.errors import ConflictError, NotFoundError
from app.services import artifacts, chores, collection, datasets, holds, jobs, sweeps
from app.settings import get_settings

AT_ONCE = 100


class EndedJob(NamedTuple):
    """A final job and when it ended; in this order they are gone through."""

    finished_at: datetime
    id: str
    tenant_id: str


def apply() -> Iterator[None]:
    """All that the settings ask for."""
    settings = get_settings()
    if settings.retention_jobs_d:
        yield from _delete_jobs(settings.retention_jobs_d)
        with make_session() as session:
            sweeps.forget(session, _before(session, settings.retention_jobs_d))
        yield
    if settings.retention_events_d:
        remove: Callable[[str], Iterator[None]] = collection.remove_events
        yield from _thin("retention_events", settings.retention_events_d, remove)
    if settings.retention_metrics_d:
        remove = collection.remove_metrics
        yield from _thin("retention_metrics", settings.retention_metrics_d, remove)
    if settings.retention_artifacts_d:
        yield from _hide_artifacts(settings.retention_artifacts_d)
    if settings.retention_uploads_d:
        yield from _delete_uploads(settings.retention_uploads_d)


def _before(session: Session, days: float) -> datetime:
    return database_now(session) - timedelta(days=days)


def _ended(days: float, after: EndedJob | None) -> list[EndedJob]:
    """Some jobs that ended so long ago, those after one that was dealt with before."""
    columns = (Job.finished_at, Job.id, Job.tenant_id)
    query = select(*columns).where(Job.deleted_at.is_(None)).order_by(Job.finished_at, Job.id)
    with make_session(write=False) as session:
        query = query.where(Job.finished_at < _before(session, days))
        if after is not None:
            query = query.where(Job.finished_at >= after.finished_at, _follows(after))
        rows = session.execute(query.limit(AT_ONCE))
        return [EndedJob(at, *others) for at, *others in rows if at is not None]


def _follows(job: EndedJob) -> ColumnElement[bool]:
    return or_(
        Job.finished_at > job.finished_at,
        and_(Job.finished_at == job.finished_at, Job.id > job.id),
    )


def _delete_jobs(days: float) -> Iterator[None]:
    last: EndedJob | None = None
    while ended := _ended(days, last):
        for job in ended:
            _delete_job(job)
            yield
        last = ended[-1]


def _delete_job(job: EndedJob) -> None:
    """Delete a job as its owner would; one whose files are needed is looked at again next time."""
    try:
        with make_session() as session:
            jobs.delete(session, job.tenant_id, job.id)
    except (ConflictError, NotFoundError):
        return


def _thin(chore: str, days: float, remove: Callable[[str], Iterator[None]]) -> Iterator[None]:
    """Remove rows of ended jobs; how far it has come is kept, so that no job is seen twice."""
    last = _position(chore)
    while ended := _ended(days, last):
        for job in ended:
            yield from remove(job.id)
        last = ended[-1]
        with make_session() as session:
            at = last.finished_at.isoformat()
            chores.move(session, chore, {"finished_at": at, "id": last.id})


def _position(chore: str) -> EndedJob | None:
    with make_session(write=False) as session:
        known = chores.position(session, chore)
    if known is None:
        return None
    return EndedJob(datetime.fromisoformat(known["finished_at"]), known["id"], "")


def _hide_artifacts(days: float) -> Iterator[None]:
    """Hide files of ended jobs; ``collection`` removes their bytes."""
    last: Artifact | None = None
    while rows := _old_artifacts(days, last):
        for job_id in dict.fromkeys(row.job_id for row in rows):
            _hide(job_id, [row.id for row in rows if row.job_id == job_id])
            yield
        last = rows[-1]


def _hide(job_id: str, artifact_ids: list[str]) -> None:
    with make_session() as session:
        session.get(Job, job_id, with_for_update=True)  # no job may pin one meanwhile
        held = holds.digests(session, job_id)
        free = or_(Artifact.sha256.is_(None), Artifact.sha256.not_in(held))
        artifacts.retire(session, Artifact.id.in_(artifact_ids), free)


def _old_artifacts(days: float, after: Artifact | None) -> list[Artifact]:
    """Some ready files of jobs that ended so long ago, the oldest first."""
    with make_session(write=False) as session:
        before = _before(session, days)
        query = (
            select(Artifact)
            .join(Job, Job.id == Artifact.job_id)
            .where(
                Artifact.status == "ready",
                Artifact.created_at < before,
                Job.finished_at < before,
            )
            .order_by(Artifact.created_at, Artifact.id)
        )
        if after is not None:
            same = and_(Artifact.created_at == after.created_at, Artifact.id > after.id)
            query = query.where(or_(Artifact.created_at > after.created_at, same))
        return [*session.scalars(query.limit(AT_ONCE))]


def _delete_uploads(days: float) -> Iterator[None]:
    with make_session(write=False) as session:
        unfinished = session.execute(
            select(Dataset.tenant_id, Dataset.id).where(
                Dataset.status == "uploading",
                Dataset.deleted_at.is_(None),
                Dataset.updated_at < _before(session, days),
            )
        ).all()
    for tenant_id, dataset_id in unfinished:
        with make_session() as session:
            row = datasets.locked(session, tenant_id, dataset_id)
            if row.status == "uploading" and row.updated_at < _before(session, days):
                datasets.delete(session, tenant_id, dataset_id)
        yield
