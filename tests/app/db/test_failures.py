"""Errors of both databases, made by the real thing: what passes by itself and what stays."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.db.failures import is_temporary
from app.db.session import get_engine, make_session
from app.db.tables import Event, Metric, Tenant, utc_now


def failure(*rows, statement=None) -> BaseException:
    """The error of inserting rows, or of a statement."""
    with pytest.raises(Exception) as caught, make_session() as session:  # noqa: PT011, PT012
        session.add_all(rows)
        session.flush()
        session.execute(sa.text(statement or "SELECT 1"))
    return caught.value


@pytest.mark.parametrize(
    "rows",
    [
        [Event(job_id="none", seq=1, tenant_id="t", type="log", data={})],
        [Tenant(id="a", name="a"), Tenant(id="a", name="b")],
        [Event(job_id="none", seq=2**63, tenant_id="t", type="log", data={})],
        [Tenant(id="\ud800", name="a")],
        [Tenant(id="a", name="a", quotas={"x": object()})],
        [Metric(job_id="x", name="n", step=1, run_number=1, tenant_id="t", at="now")],
    ],
    ids=["foreign key", "double", "range", "half character", "no JSON", "no time"],
)
def test_what_a_row_has_wrong_stays(settings, rows):
    assert not is_temporary(failure(*rows))


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere", "SELEKT 1"])
def test_what_a_statement_has_wrong_stays(settings, statement):
    assert not is_temporary(failure(statement=statement))


def test_nul_stays(settings):
    if get_engine().dialect.name == "sqlite":
        pytest.skip("SQLite keeps NUL")
    assert not is_temporary(failure(Tenant(id="a\0", name="a")))
    assert not is_temporary(failure(Tenant(id="b", name="a", quotas={"x": "\0"})))


def test_an_exhausted_pool_passes():
    assert is_temporary(PoolTimeoutError("too many"))


@pytest.mark.parametrize("error", [pg.DiskFull, pg.DeadlockDetected, pg.AdminShutdown,
                                   pg.QueryCanceled, pg.TooManyConnections,
                                   pg.ReadOnlySqlTransaction, pg.OperationalError])  # fmt: skip
def test_states_of_the_server_pass(error):
    assert is_temporary(DBAPIError.instance("", None, error("x"), pg.Error))


def test_a_locked_and_a_full_sqlite_pass(tmp_path):
    holder = sqlite3.connect(tmp_path / "x", isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN IMMEDIATE")
    other = sqlite3.connect(tmp_path / "x", timeout=0)
    with pytest.raises(sqlite3.OperationalError) as locked:
        other.execute("INSERT INTO t VALUES (1)")
    holder.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        holder.executemany("INSERT INTO t VALUES (?)", [["x" * 4000]] * 10)
    for error in (locked, full):
        assert is_temporary(OperationalError("", None, error.value))
    holder.close()
    other.close()


def test_a_defect_of_ours_stays():
    assert not is_temporary(KeyError("x"))
    assert not is_temporary(SQLAlchemyError("x"))


def test_writers_of_many_threads_lose_nothing(settings):
    """Whatever is refused for the moment is refused with an error that passes."""
    refused: list[BaseException] = []
    barrier = threading.Barrier(16)

    def write(number: int) -> None:
        barrier.wait()
        for part in range(5):
            try:
                with make_session() as session:
                    session.add(Tenant(id=f"{number}-{part}", name=str(utc_now())))
            except Exception as error:
                refused.append(error)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    assert all(is_temporary(error) for error in refused)
    with make_session(write=False) as session:
        kept = session.scalar(sa.select(sa.func.count()).select_from(Tenant))
    assert kept == 80 - len(refused)
