"""Writers of SQLite: in order within a process, patient with others, never stuck."""

import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa

from app.db import sqlite
from app.db.session import after_commit, get_engine, make_session
from app.db.sqlite import WriterQueue
from app.db.tables import Tenant

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def add(name: str) -> None:
    with make_session() as session:
        session.add(Tenant(id=name, name=name))


def names() -> list[str]:
    """Ids in the order of writing."""
    with make_session(write=False) as session:
        return [*session.scalars(sa.select(Tenant.id).order_by(sa.text("rowid")))]


def start(name: str) -> threading.Thread:
    thread = threading.Thread(target=add, args=(name,))
    thread.start()
    return thread


@pytest.fixture
def other_process(settings):
    """A connection outside of the engine, as another process has one; it holds the write lock."""
    connection = sqlite3.connect(get_engine().url.database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def waiting(queue: WriterQueue, count: int) -> None:
    """Return once so many wait in the queue."""
    end = time.monotonic() + 60
    while len(queue._waiting) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_writers_take_turns_in_order_of_arrival(settings):
    arrivals = [f"t{n}" for n in range(6)]
    threads = []
    with make_session() as session:
        session.execute(sa.text("SELECT 1"))
        queue = session.connection().connection.dbapi_connection.queue
        for count, name in enumerate(arrivals, start=1):
            threads.append(start(name))
            waiting(queue, count)
    for thread in threads:
        thread.join()
    assert names() == arrivals


def test_a_wait_that_ends_leaves_the_queue_whole(database_url):
    queue = WriterQueue()
    assert queue.acquire(0)
    assert not queue.acquire(0.01)
    queue.release()
    assert queue.acquire(0)
    queue.release()


def test_a_writer_waits_for_another_process(other_process):
    thread = start("late")
    time.sleep(0.1)
    assert thread.is_alive()
    other_process.execute("COMMIT")
    thread.join()
    assert names() == ["late"]


def test_a_lock_that_stays_taken_is_an_error_and_nothing_stays_held(other_process, monkeypatch):
    monkeypatch.setattr(sqlite, "WRITE_WAIT_S", 0.05)
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            add("never")
    other_process.execute("COMMIT")
    add("then")
    assert names() == ["then"]
    with get_engine().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000


def test_the_turn_ends_with_the_transaction(settings):
    with make_session() as session:
        after_commit(session, lambda: add("b"))  # would wait for itself otherwise
        session.add(Tenant(id="a", name="a"))
    with pytest.raises(sa.exc.IntegrityError):
        add("a")
    add("c")
    with get_engine().execution_options(write=True).connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        connection.invalidate()
    add("d")
    assert names() == ["a", "b", "c", "d"]
