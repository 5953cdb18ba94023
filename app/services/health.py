"""Whether the parts the service needs are there."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import queue, storage
from app.db import migrate
from app.db.session import database_now, get_engine, make_session
from app.db.tables import Worker
from app.errors import ServiceError
from app.services import workers
from app.settings import get_settings

OK = "ok"
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
    except SQLAlchemyError as error:
        return {"database": f"away: {type(error).__name__}", "migration": "unknown"}
    migration = OK if revision == head else f"at {revision}, this code needs {head}"
    return {
        "database": OK,
        "migration": migration,
        "live_workers": live,
        "dispatcher_age_s": age_s,
    }


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
