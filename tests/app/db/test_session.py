"""Sessions: commit, rollback, what happens after a commit, the database's clock."""

import socket
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from app.db.failures import is_temporary
from app.db.session import after_commit, database_now, get_engine, make_engine, make_session
from app.db.tables import Tenant, Worker


def count() -> int:
    with make_session(write=False) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Tenant))


def write_twice(name: str, then=lambda: None) -> None:
    """A transaction whose second statement fails."""
    with make_session() as session:
        after_commit(session, then)
        for _ in range(2):
            session.execute(sa.insert(Tenant).values(id=name, name=name, quotas={}))


def test_commit_and_rollback(settings):
    with make_session() as session:
        session.add(Tenant(id="a", name="a"))
    with pytest.raises(sa.exc.IntegrityError):
        write_twice("b")
    assert count() == 1


def test_after_commit_runs_once_and_only_after_a_commit(settings):
    calls = []
    with make_session() as session:
        after_commit(session, lambda: calls.append(count()))
        session.add(Tenant(id="a", name="a"))
        session.flush()
        assert calls == []
    assert calls == [1]
    with pytest.raises(sa.exc.IntegrityError):
        write_twice("b", lambda: calls.append("never"))
    assert calls == [1]


def test_times_come_back_aware_and_in_utc(settings):
    local = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone(timedelta(hours=5)))
    with make_session() as session:
        row = {"host": "h", "boot_id": "b", "pid": 1, "queues": [], "slots": 1, "slots_free": 1}
        session.add(Worker(id="w", started_at=local, **row))
    with make_session(write=False) as session:
        found = session.get_one(Worker, "w").started_at
    assert found == local
    assert found.utcoffset() == timedelta(0)


def test_a_server_that_never_answers_is_away(tmp_path):
    """It takes connections and says nothing, as one that is frozen does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / ".s.PGSQL.5432"))
        server.listen()
        engine = make_engine(f"postgresql://u@/d?host={tmp_path}")
        began = time.monotonic()
        with pytest.raises(sa.exc.OperationalError) as caught, engine.connect():
            pass
        assert time.monotonic() - began < 4
        assert is_temporary(caught.value)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_statement_without_an_answer_ends_and_takes_its_connection_along(settings, monkeypatch):
    monkeypatch.setattr("app.db.postgresql.READ_S", 0.2)
    began = time.monotonic()
    late = pytest.raises(sa.exc.OperationalError, match=r"not answered for 0\.2 s")
    with late as caught, make_session(write=False) as session:
        session.execute(sa.text("SELECT pg_sleep(5)"))
    assert time.monotonic() - began < 3
    assert is_temporary(caught.value)
    with make_session() as session:  # a write may take longer
        session.execute(sa.text("SELECT pg_sleep(0.4)"))


def test_naive_times_are_refused(settings):
    with pytest.raises(sa.exc.StatementError, match="without zone"), make_session() as session:
        session.execute(sa.select(Worker).where(Worker.started_at > datetime(2026, 1, 1)))  # noqa: DTZ001


def test_the_database_clock_is_near_ours(settings):
    with make_session(write=False) as session:
        assert abs(database_now(session) - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_durable_sessions_flush_to_disk_and_others_do_not_stay_so(settings):
    def synchronous(session) -> int:
        return session.execute(sa.text("PRAGMA synchronous")).scalar_one()

    with make_session(durable=True) as session:
        assert synchronous(session) == 2  # FULL
    with make_session() as session:
        assert synchronous(session) == 1  # NORMAL
    with get_engine().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_frozen_writer_gives_its_locks_back(settings):
    engine = get_engine()
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite locks are the process's own and last as long as it does")
    with make_session() as session:
        session.add(Tenant(id="a", name="a"))
    with engine.connect() as frozen:
        frozen.execute(sa.update(Tenant).values(name="frozen"))
        with make_session() as session:  # waits for the row of the one above
            session.execute(sa.update(Tenant).values(name="written"))
        with pytest.raises(sa.exc.DBAPIError):
            frozen.commit()
        frozen.invalidate()
    with make_session(write=False) as session:
        assert session.scalar(sa.select(Tenant.name)) == "written"
