"""A backup brought into an empty service: files first, then all rows in one transaction.

Whoever is killed on the way has left files that the next try writes again, and no row.
"""

from itertools import islice
from pathlib import Path

from sqlalchemy import Table, delete, func, insert, select, text
from sqlalchemy.orm import Session

from app import storage
from app.db import migrate
from app.db.session import get_engine, make_session
from app.db.tables import Counter, Job, JobStatus, Run, Tenant, has_status
from app.services import backup, lifecycle
from app.services.backup_format import (
    FILES,
    Manifest,
    decode,
    lines,
    listed_files,
    read_manifest,
    table_path,
    tables,
)
from app.services.lifecycle import Outcome

ROWS_AT_ONCE = 500


def restore(folder: Path) -> Manifest:
    """Fill the database and the store of the settings from a backup.

    Jobs that ran are queued again, as after a worker's shutdown, and go on from the checkpoints
    that the backup holds.

    Raises:
        ValueError: if the backup is damaged, of another schema, or the database is not empty.
    """
    manifest = read_manifest(folder)
    if manifest.revision != migrate.head():
        raise ValueError(
            f"the backup has schema {manifest.revision}, this release {migrate.head()}: restore it "
            f"with sextant-jobs {manifest.release}, then start this release, which upgrades it"
        )
    if faults := [*backup.check(folder)]:
        raise ValueError(f"the backup is damaged: {'; '.join(faults[:5])}")
    migrate.upgrade(get_engine())
    with make_session(write=False) as session:
        _check_empty(session)
    for each in listed_files(folder):
        storage.put(each.key, folder / FILES / each.key)
    with make_session(durable=True) as session:
        _check_empty(session)
        session.execute(delete(Tenant))  # the one that a first start makes
        for table in tables():
            _fill(session, table, folder)
        _set_sequence(session)
        _requeue(session)
    return manifest


def _check_empty(session: Session) -> None:
    for table in tables():
        if table.name == Tenant.__tablename__:
            continue
        if session.scalar(select(func.count()).select_from(table.select().limit(1).subquery())):
            raise ValueError(
                f"the database has rows in {table.name}; restore into an empty one, with no "
                "service running: SEXTANT_DATABASE_URL or SEXTANT_STATE_DIR name another"
            )


def _fill(session: Session, table: Table, folder: Path) -> None:
    rest = lines(table_path(folder, table.name))
    while part := [*islice(rest, ROWS_AT_ONCE)]:
        session.execute(insert(table), [decode(table, line) for line in part])


def _set_sequence(session: Session) -> None:
    """Let PostgreSQL go on behind the numbers that were inserted; SQLite does by itself."""
    if session.get_bind().dialect.name != "postgresql":
        return
    name = Counter.__tablename__
    largest = session.scalar(select(func.max(Counter.id))) or 0
    session.execute(
        text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :n)"),
        {"name": name, "n": largest + 1},
    )


def _requeue(session: Session) -> None:
    running = select(Job).where(has_status(JobStatus.RUNNING))
    for job in session.scalars(running).all():
        run = session.get(Run, (job.id, job.run_number))
        if run is not None:
            lifecycle.finish(session, run, Outcome(stop_reason="shutdown"))
