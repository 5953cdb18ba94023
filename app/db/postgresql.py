"""PostgreSQL with deadlines of the client's own.

A server that is frozen, or a network that swallows packets, breaks no connection: neither its
``statement_timeout`` nor keepalives end the wait. Here every wait has a limit, after which the
connection is closed and the error is that of a database that is away.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.errors import _WaitTimeout
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError

from app.db import stored_json

PING_S = 2  # the look at a connection before it is used
FRESH_S = 1.0  # after a use it is not looked at: a request of two statements would cost a third
CONNECT_S = 2  # with the ping less than the 5 s in which a request is answered
READ_S = 4.0
WRITE_S = 12.0  # a little more than the server's own limit, whose message says more
SERVER_OPTIONS = {
    "statement_timeout": "10000",
    # a process frozen in a transaction keeps its row locks for 5 s
    "idle_in_transaction_session_timeout": "5000",
    "timezone": "utc",
    "synchronous_commit": "on",
}
SOCKET = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5000,
}
USED_AT = "used_at"  # in the pool's record of a connection
Answer = TypeVar("Answer")


class LimitedConnection(psycopg.Connection[Any]):
    """A connection that waits ``limit_s`` for an answer of the server at most."""

    limit_s: float = PING_S

    def wait(
        self,
        gen: Generator[Any, Any, Answer],
        interval: float = 0.1,
        timeout: float | None = None,
    ) -> Answer:
        """Wait for an answer.

        Raises:
            psycopg.OperationalError: after the limit; the connection is closed then.
        """
        try:
            return super().wait(gen, interval, timeout or self.limit_s)
        except _WaitTimeout as error:
            self.pgconn.finish()
            text = f"the server has not answered for {self.limit_s:g} s"
            raise psycopg.OperationalError(text) from error


def make_postgresql_engine(url: URL) -> Engine:
    """An engine whose connections answer or fail within seconds."""
    options = " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items())
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=30,
        pool_timeout=2,
        connect_args={"connect_timeout": CONNECT_S, "options": options, **SOCKET},
        json_deserializer=stored_json.parse,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, values: Any) -> LimitedConnection:
        return LimitedConnection.connect(*args, **values)

    @event.listens_for(engine, "checkout")
    def _checkout(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(USED_AT, 0.0) < FRESH_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise DisconnectionError(str(error)) from error  # the pool connects anew

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        options = connection.get_execution_options()
        default_s = READ_S if options.get("write") is False else WRITE_S
        raw.limit_s = options.get("limit_s", default_s)

    @event.listens_for(engine, "checkin")
    def _checkin(connection: Any, record: Any) -> None:
        if connection is not None:
            connection.limit_s = PING_S
            record.info[USED_AT] = time.monotonic()

    return engine
