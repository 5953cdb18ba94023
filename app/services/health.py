"""Whether the parts the service needs are there."""

import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from app import queue, storage
from app.db import migrate
from app.db.session import database_now, get_engine, make_session
from app.db.tables import IdempotencyKey, Worker, new_id, utc_now
from app.errors import ServiceError
from app.services import workers
from app.settings import get_settings

OK = "ok"
ROOM_BYTES = 2 * 2**20  # what SQLite may need for one transaction and its log
DISK_FULL = "53100"  # SQLSTATE
PROBE_BYTES = 6000
PROBE = "readyz/probe"  # never written: the store must answer that it is not there


class Readiness(NamedTuple):
    """The state of each part; ``ready`` depends on database, migration and store alone."""

    ready: bool
    parts: dict[str, Any]


def readiness() -> Readiness:
    """Check every part once."""
    parts = {**_database(), "store": _store(), "broker": _broker()}
    return Readiness(all(parts[name] == OK for name in ("database", "migration", "store")), parts)


def _database() -> dict[str, Any]:
    try:
        revision, head = migrate.current(get_engine()), migrate.head()
        with make_session(write=False) as session:
            live = len(workers.live(session))
            age_s = dispatcher_age_s(session)
        room = _room()
    except SQLAlchemyError as error:
        return {"database": f"away: {type(error).__name__}", "migration": "unknown"}
    migration = OK if revision == head else f"at {revision}, this code needs {head}"
    return {
        "database": room,
        "migration": migration,
        "live_workers": live,
        "dispatcher_age_s": age_s,
    }


def _room() -> str:
    """Whether the database could take a job: SQLite by its disk, PostgreSQL by a row undone."""
    engine = get_engine()
    if engine.dialect.name == "sqlite":
        free_bytes = shutil.disk_usage(Path(str(engine.url.database)).parent).free
        return OK if free_bytes >= ROOM_BYTES else f"full: {free_bytes} bytes are free on its disk"
    try:
        with make_session() as session:
            session.add(_probe_row())
            session.flush()
            session.rollback()
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != DISK_FULL:
            raise
        return "full: its server has no space left on the disk"
    return OK


def _probe_row() -> IdempotencyKey:
    """About as long as a job, and not to be compressed."""
    name = new_id("readyz")
    body = {"probe": secrets.token_hex(PROBE_BYTES // 2)}
    return IdempotencyKey(
        tenant_id=name, key=name, request_hash="", status_code=0, body=body, expires_at=utc_now()
    )


def dispatcher_age_s(session: Session) -> float | None:
    """Seconds since the last pass of any dispatcher; None when there was none."""
    last: datetime | None = session.scalar(select(func.max(Worker.dispatcher_at)))
    return None if last is None else (database_now(session) - last).total_seconds()


def _store() -> str:
    try:
        storage.head(PROBE)
    except FileNotFoundError:
        return OK
    except (OSError, ServiceError) as error:
        return f"away: {error}"
    return OK


def _broker() -> str:
    if not get_settings().broker_url:
        return "none: workers poll the database"
    try:
        queue.make_redis().ping()
    except Exception as error:  # whatever its library raises, it is only reported
        return f"away: {type(error).__name__}"
    return OK
