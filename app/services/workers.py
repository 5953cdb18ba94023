"""Rows of the worker processes: who is alive, who left."""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Run, Worker
from app.settings import get_settings

FORGET_AFTER_H = 24


def beat(session: Session, worker_id: str, **values: Any) -> None:
    """Write a worker's row with the database's time as its heartbeat."""
    now = database_now(session)
    row = session.get(Worker, worker_id)
    if row is None:
        row = Worker(id=worker_id, started_at=now)
        session.add(row)
    for name, value in values.items():
        setattr(row, name, value)
    row.heartbeat_at = row.dispatcher_at = now


def leave(session: Session, worker_id: str) -> None:
    """Remove the row of a worker that shuts down in order."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def forget_gone(session: Session) -> None:
    """Remove the rows of workers without a heartbeat for a day."""
    before = database_now(session) - timedelta(hours=FORGET_AFTER_H)
    session.execute(delete(Worker).where(Worker.heartbeat_at < before))


def live(session: Session) -> list[Worker]:
    """Workers whose heartbeat is younger than three passes of their dispatcher (or a lease)."""
    since = database_now(session) - timedelta(seconds=get_settings().heartbeat_limit_s)
    return list(session.scalars(select(Worker).where(Worker.heartbeat_at >= since)))


def open_runs(session: Session, host: str, boot_id: str) -> list[Run]:
    """Runs of this host and boot that nobody has closed: their children may still live."""
    query = select(Run).where(Run.host == host, Run.boot_id == boot_id, Run.ended_at.is_(None))
    return list(session.scalars(query))
