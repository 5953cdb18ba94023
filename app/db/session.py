"""Engine and sessions: SQLite in WAL mode or PostgreSQL, with one way to begin a write."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache

from sqlalchemy import Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.orm import Session

from app.db.sqlite import make_sqlite_engine
from app.settings import get_settings


def make_engine(url: str) -> Engine:
    """An engine for ``url``; creates the folder of a SQLite file."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return make_sqlite_engine(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(
        parsed,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=30,
        pool_timeout=10,
        connect_args={
            "connect_timeout": 5,
            # a process frozen in a transaction keeps its row locks for 5 s, and a statement that
            # waits for them has 10 s
            "options": "-c statement_timeout=10000 -c idle_in_transaction_session_timeout=5000"
            " -c timezone=utc -c synchronous_commit=on",
        },
    )


@cache
def get_engine() -> Engine:
    """The engine of this process."""
    return make_engine(get_settings().database)


@contextmanager
def make_session(*, write: bool = True, durable: bool = False) -> Generator[Session]:
    """A session that commits at the end and rolls back on an exception.

    Args:
        write: take the write lock of SQLite at the start, so that no statement fails halfway.
        durable: on SQLite, flush the commit to the disk (PostgreSQL always does).
    """
    bind = get_engine().execution_options(write=write, durable=durable)
    with Session(bind, expire_on_commit=False) as session, session.begin():
        yield session


def database_now(session: Session) -> datetime:
    """The database's clock, aware UTC; what leases and waiting times are compared with."""
    if session.get_bind().dialect.name == "sqlite":
        clock = session.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))
        return datetime.fromisoformat(str(clock)).replace(tzinfo=UTC)
    return session.scalars(select(func.clock_timestamp())).one()


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Run ``call`` once the session's transaction is committed; never if it rolls back."""

    @event.listens_for(session, "after_commit", once=True)
    def _committed(_session: Session) -> None:
        call()
