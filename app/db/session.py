"""Engine and sessions: SQLite in WAL mode or PostgreSQL, with one way to begin a write."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache

from sqlalchemy import Engine, event, func, make_url, select, text
from sqlalchemy.orm import Session, SessionTransaction

from app.db.sqlite import make_sqlite_engine
from app.settings import get_settings


def make_engine(url: str) -> Engine:
    """An engine for ``url``; creates the folder of a SQLite file."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return make_sqlite_engine(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    from app.db.postgresql import make_postgresql_engine  # its driver, where it is needed

    return make_postgresql_engine(parsed)


@cache
def get_engine() -> Engine:
    """The engine of this process."""
    return make_engine(get_settings().database)


@contextmanager
def make_session(*, write: bool = True, durable: bool = False) -> Generator[Session]:
    """A session that commits at the end and rolls back on an exception.

    Args:
        write: take the write lock of SQLite at the start, so that no statement fails halfway;
            else on PostgreSQL each statement stands for itself, as it does in what it sees anyway.
        durable: on SQLite, flush the commit to the disk (PostgreSQL always does).
    """
    bind = get_engine().execution_options(write=write, durable=durable)
    if not write and bind.dialect.name == "postgresql":  # no BEGIN and COMMIT around one SELECT
        bind = bind.execution_options(isolation_level="AUTOCOMMIT")
    with Session(bind, expire_on_commit=False) as session, session.begin():
        yield session


def database_now(session: Session) -> datetime:
    """The database's clock, aware UTC; what leases and waiting times are compared with."""
    if session.get_bind().dialect.name == "sqlite":
        clock = session.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))
        return datetime.fromisoformat(str(clock)).replace(tzinfo=UTC)
    return session.scalars(select(func.clock_timestamp())).one()


def _open_transactions(session: Session) -> Iterator[SessionTransaction]:
    """The innermost transaction of a session and those around it."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Run ``call`` once the session's transaction is committed; never if it rolls back.

    Nor if a savepoint rolls back that is open now.
    """
    waiting, within = [call], {id(each) for each in _open_transactions(session)}

    @event.listens_for(session, "after_soft_rollback")
    def _rolled_back(_: Session, transaction: SessionTransaction) -> None:
        if id(transaction) in within:
            waiting.clear()

    @event.listens_for(session, "after_commit")
    def _committed(committed: Session) -> None:
        if waiting and not committed.in_nested_transaction():  # else a savepoint alone was released
            waiting.pop()()
