"""Brings the schema to the newest revision; one process at a time, never on a newer schema."""

import fcntl
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.orm import Session

import migrations
from app.db.session import database_now
from app.db.tables import Worker
from app.settings import get_settings

LOCK_ID = 7_226_001  # advisory lock of PostgreSQL; any fixed number
LIMIT_S = 4 * 3600.0  # an index over many millions of rows takes its time


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, bound to a connection where one is given."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision this code knows."""
    return str(ScriptDirectory.from_config(alembic_config()).get_current_head())


def current(engine: Engine) -> str | None:
    """The revision of the database; None when it is empty."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> None:
    """Upgrade to the newest revision under a lock.

    Raises:
        RuntimeError: if the database has a revision that this code does not know.
    """
    engine = engine.execution_options(limit_s=LIMIT_S)
    with _locked(engine), engine.connect() as connection:
        known = ScriptDirectory.from_config(alembic_config())
        revision = MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
        try:
            known.get_revision(revision or "base")
        except CommandError as error:
            raise RuntimeError(
                f"the database is at revision {revision}, newer than this code; "
                "update this installation"
            ) from error
        if revision not in (None, known.get_current_head()):
            _wait_for_older_workers(connection, str(revision))
        _lift_limits(connection)
        command.upgrade(alembic_config(connection), "head")
        connection.commit()


def _wait_for_older_workers(connection: Connection, revision: str) -> None:
    """Wait until the workers of the older schema are gone: they would not keep the new columns.

    Raises:
        RuntimeError: if some still run after the time in which a killed one counts as alive.
    """
    limit_s = get_settings().heartbeat_limit_s
    deadline = time.monotonic() + limit_s + 1
    while ids := _live_workers(connection, limit_s):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the database is at revision {revision} and workers of that version still run "
                f"({', '.join(ids)}); stop them first, their runs save and go on afterwards"
            )
        time.sleep(0.5)


def _live_workers(connection: Connection, limit_s: float) -> list[str]:
    with Session(connection) as session:
        since = database_now(session) - timedelta(seconds=limit_s)
        live = select(Worker.id).where(Worker.heartbeat_at >= since)
        return list(session.scalars(live.order_by(Worker.id)))


def _lift_limits(connection: Connection) -> None:
    """Let the statements of this connection take as long as they need; nobody gets it after us."""
    if connection.dialect.name == "postgresql":
        connection.detach()
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
        connection.commit()


@contextmanager
def _locked(engine: Engine) -> Generator[None]:
    if engine.dialect.name == "sqlite":
        path = Path(str(engine.url.database)).with_suffix(".lock")
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        _lift_limits(connection)  # another process may be migrating
        connection.execute(text("SELECT pg_advisory_lock(:id)"), {"id": LOCK_ID})
        connection.commit()
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:id)"), {"id": LOCK_ID})
            connection.commit()
