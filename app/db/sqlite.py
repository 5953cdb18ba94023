"""SQLite in WAL mode, with writers that wait for each other in order.

SQLite has one writer at a time. Its own busy handler sleeps up to 100 ms between attempts, so a
thread that writes in a loop takes the lock again before the sleepers wake, and on a loaded machine
these run out of time. Here the writers of a process form a queue; only its head contends with
other processes, at short random intervals.
"""

import random
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from app.db import stored_json

WRITE_WAIT_S = 8.0  # two such waits fit into lease_stop_s = 20 s
ATTEMPT_EVERY_S = (0.001, 0.005)
PRAGMAS = {
    "journal_mode": "WAL",
    "busy_timeout": 5000,
    "synchronous": "NORMAL",
    "foreign_keys": "ON",
}


class WriterQueue:
    """A lock that is handed over in the order of arrival; any thread may release it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout_s: float) -> bool:
        """Wait for the lock; False when ``timeout_s`` has passed."""
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout_s):
            return True
        with self._mutex:
            if not turn.is_set():
                self._waiting.remove(turn)
            return turn.is_set()  # it may have been handed over just now

    def release(self) -> None:
        """Hand the lock to the thread that waits longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False


class WriterConnection(sqlite3.Connection):
    """A connection whose write transactions take their turn in the queue of its engine."""

    queue: WriterQueue
    _has_turn = False

    def begin_write(self) -> None:
        """Begin a transaction that holds the write lock of the database.

        Raises:
            sqlite3.OperationalError: if the lock is not free within ``WRITE_WAIT_S``.
        """
        deadline = time.monotonic() + WRITE_WAIT_S
        if not self.queue.acquire(WRITE_WAIT_S):
            raise sqlite3.OperationalError("database is locked")
        self._has_turn = True
        try:
            self._lock_database(deadline)
        except BaseException:
            self._end_turn()
            raise

    def _lock_database(self, deadline: float) -> None:
        self.execute("PRAGMA busy_timeout=0")  # its intervals grow to 100 ms
        try:
            while not self._try_lock(last=time.monotonic() >= deadline):
                time.sleep(random.uniform(*ATTEMPT_EVERY_S))  # noqa: S311  # no secret
        finally:
            self.execute(f"PRAGMA busy_timeout={PRAGMAS['busy_timeout']}")

    def _try_lock(self, *, last: bool) -> bool:
        try:
            self.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if last or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self.queue.release()

    def commit(self) -> None:
        """Commit, and let the next writer begin."""
        try:
            super().commit()
        finally:
            self._end_turn()

    def rollback(self) -> None:
        """Roll back, and let the next writer begin."""
        try:
            super().rollback()
        finally:
            self._end_turn()

    def close(self) -> None:
        """Close, which ends a transaction too."""
        try:
            super().close()
        finally:
            self._end_turn()


def make_sqlite_engine(url: str) -> Engine:
    """An engine for the file of ``url``; creates its folder."""
    if (database := make_url(url).database) and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        connect_args={"timeout": 5, "factory": WriterConnection},
        pool_size=10,
        max_overflow=50,
        json_deserializer=stored_json.parse,
    )
    queue = WriterQueue()

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.queue = queue
        connection.isolation_level = None  # the driver opens no transactions; _begin does
        for name, value in PRAGMAS.items():
            connection.execute(f"PRAGMA {name}={value}")

    event.listen(engine, "begin", _begin)

    @event.listens_for(engine, "checkin")
    def _checkin(connection: Any, _record: Any) -> None:
        if connection is not None:
            connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("durable"):
        # before BEGIN: SQLite refuses to change it inside a transaction
        connection.exec_driver_sql("PRAGMA synchronous=FULL")
    if not options.get("write"):
        connection.exec_driver_sql("BEGIN")
        return
    raw: Any = connection.connection.dbapi_connection
    try:
        raw.begin_write()
    except sqlite3.OperationalError as error:
        raise OperationalError("BEGIN IMMEDIATE", None, error) from error
