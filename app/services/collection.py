"""Removes what nobody needs: rows and bytes of deleted jobs, replaced files, lost objects.

Each function is a generator that rests at every ``yield``: between two of them it has one short
transaction, or none. What is removed was marked in a transaction of its own before, so whoever is
killed on the way is continued by the next.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app import storage
from app.db.session import database_now, make_session
from app.db.tables import (
    FINAL,
    Artifact,
    Base,
    Dataset,
    Event,
    Job,
    JobInput,
    JobStatus,
    Metric,
    Webhook,
)
from app.services import artifacts
from app.services.storage_keys import LOG_KEY, job_folder
from app.settings import get_settings

COLLECTED_AT_ONCE = 100
ROWS_AT_ONCE = 5_000  # some 50 ms of SQLite's one writer
SWEPT_AT_ONCE = 500


# -- replaced files, deleted jobs ------------------------------------------------------------


def collect() -> Iterator[None]:
    """Remove replaced and abandoned artifacts, and what deleted jobs left; safe in parallel."""
    while rows := _garbage():
        for row in rows:
            _collect_row(row)
            yield
    while job := _deleted_job():
        yield from _collect_job(*job)


def _garbage() -> list[Artifact]:
    """Deleted rows that no job needs, and pending ones that no running run can still finish."""
    with make_session(write=False) as session:
        queries = _garbage_queries(session)
        return [row for query in queries for row in session.scalars(query)]


def _garbage_queries(session: Session) -> list[Select[Artifact]]:
    before = database_now(session) - timedelta(hours=get_settings().retention_pending_h)
    alive = exists().where(
        Job.id == Artifact.job_id,
        Job.status == JobStatus.RUNNING,
        Job.run_number == Artifact.run_number,
    )
    deleted = (Artifact.status == "deleted", ~held())
    abandoned = (Artifact.status == "pending", Artifact.created_at < before, ~alive)
    return [
        select(Artifact).where(*each).order_by(Artifact.created_at).limit(COLLECTED_AT_ONCE)
        for each in (deleted, abandoned)
    ]


def held() -> ColumnElement[bool]:
    """Condition for the artifacts that a job which is not final refers to."""
    user = aliased(Job)
    return exists().where(
        JobInput.source == Artifact.job_id,
        JobInput.sha256 == Artifact.sha256,
        user.id == JobInput.job_id,
        user.status.not_in(FINAL),
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


def _deleted_job() -> tuple[str, str] | None:
    """Tenant and id of the job that was deleted longest ago."""
    query = select(Job.tenant_id, Job.id).where(Job.deleted_at.is_not(None))
    with make_session(write=False) as session:
        row = session.execute(query.order_by(Job.deleted_at).limit(1)).one_or_none()
    return None if row is None else (row.tenant_id, row.id)


def _collect_job(tenant_id: str, job_id: str) -> Iterator[None]:
    for key in [info.key for info in storage.list(job_folder(tenant_id, job_id))]:
        storage.delete(key)
        yield
    storage.delete_all(job_folder(tenant_id, job_id))  # what broken-off writes left
    yield from remove_metrics(job_id)
    yield from remove_events(job_id)
    yield from _remove_artifacts(job_id)
    with make_session() as session:
        session.execute(delete(Job).where(Job.id == job_id))
        session.execute(delete(Webhook).where(Webhook.job_id == job_id))
    yield


def _remove_artifacts(job_id: str) -> Iterator[None]:
    query = select(Artifact.id).where(Artifact.job_id == job_id).limit(COLLECTED_AT_ONCE)
    ids: Sequence[str] = [""]
    while ids:
        with make_session() as session:
            ids = session.scalars(query).all()
            artifacts.retire(session, Artifact.id.in_(ids))
            session.execute(delete(Artifact).where(Artifact.id.in_(ids)))
        yield


# -- rows of a job, some at a time -----------------------------------------------------------


def remove_metrics(job_id: str) -> Iterator[None]:
    """Delete the metrics of a job, name by name."""
    of_job = Metric.job_id == job_id
    while (name := _first(Metric.name, of_job)) is not None:
        yield from _remove(Metric, Metric.step, of_job, Metric.name == name)


def remove_events(job_id: str) -> Iterator[None]:
    """Delete the events of a job."""
    return _remove(Event, Event.seq, Event.job_id == job_id)


def _first(column: InstrumentedAttribute[str], *conditions: ColumnElement[bool]) -> str | None:
    with make_session(write=False) as session:
        return session.scalar(select(func.min(column)).where(*conditions))


def _remove(
    table: type[Base], column: InstrumentedAttribute[int], *conditions: ColumnElement[bool]
) -> Iterator[None]:
    """Delete rows in the order of a column of their key, each part after the one before.

    PostgreSQL keeps what is deleted in its indexes for a while: a part that began at the first
    row again would read all of that.
    """
    start: int | None = None
    while True:
        rest = [*conditions] if start is None else [*conditions, column > start]
        nth = select(column).where(*rest).order_by(column).offset(ROWS_AT_ONCE - 1).limit(1)
        with make_session() as session:
            start = session.scalar(nth)
            part: Any = rest if start is None else [*rest, column <= start]
            session.execute(delete(table).where(*part))
        yield
        if start is None:
            return


# -- lost objects ----------------------------------------------------------------------------


def sweep() -> Iterator[None]:
    """Remove objects that no row names, left by a crash between two steps; young ones stay.

    Lists the whole store. A log needs no row but its job's.
    """
    with make_session(write=False) as session:
        now = database_now(session)
    before = now - timedelta(hours=get_settings().retention_pending_h)
    objects = storage.list("t")
    while some := [*islice(objects, SWEPT_AT_ONCE)]:
        keys = [info.key for info in some if info.modified_at < before]
        with make_session(write=False) as session:
            named = named_of(session, keys)
        for key in keys:
            if key not in named:
                storage.delete(key)
        yield
    storage.delete_unfinished(before)


def named_of(session: Session, keys: list[str]) -> set[str]:
    """Those of the keys that a row accounts for."""
    named: set[str] = set()
    for table in (Artifact, Dataset):
        column = table.storage_key
        named |= {key for key in session.scalars(select(column).where(column.in_(keys))) if key}
    logs = {key: key.split("/")[3] for key in keys if LOG_KEY.fullmatch(key)}
    jobs = set(session.scalars(select(Job.id).where(Job.id.in_(logs.values()))))
    return named | {key for key, job_id in logs.items() if job_id in jobs}
