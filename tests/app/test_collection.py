"""What deleted jobs leave is removed in short steps, beside writers, and after kills."""

import itertools
import threading
import time

import pytest
from sqlalchemy import func, insert, select

from app import storage
from app.db.session import make_session
from app.db.tables import Artifact, Event, Job, Metric, Run, utc_now
from app.services import collection, keys
from tests.app.factories import add_job, carry_out, finish, start_run, write

ROWS = 3_000


@pytest.fixture
def deleted(client, monkeypatch) -> str:
    """A deleted job with more rows than fit into one step, in two series and two runs."""
    monkeypatch.setattr(collection, "ROWS_AT_ONCE", 500)
    run = start_run()
    fixed = {"job_id": run.job_id, "tenant_id": keys.DEFAULT_TENANT}
    points = [
        fixed | {"name": name, "step": step, "run_number": number, "at": utc_now(), "value": 1.0}
        for name in ("loss", "rate")
        for step in range(ROWS // 4)
        for number in (1, 2)
    ]
    facts = [fixed | {"seq": seq, "type": "log", "data": {}} for seq in range(10, 10 + ROWS)]
    with make_session() as session:
        session.execute(insert(Metric), points)
        session.execute(insert(Event), facts)
    finish(run)
    assert client.delete(f"/v1/jobs/{run.job_id}").status_code == 204
    return run.job_id


def count(table, job_id: str) -> int:
    with make_session(write=False) as session:
        query = select(func.count()).select_from(table)
        return session.scalar(query.where(table.job_id == job_id)) or 0


def rows_of(job_id: str) -> int:
    return count(Metric, job_id) + count(Event, job_id)


def gone(job_id: str) -> bool:
    with make_session(write=False) as session:
        left = [count(table, job_id) for table in (Metric, Event, Run, Artifact)]
        return session.get(Job, job_id) is None and left == [0, 0, 0, 0]


def test_a_job_goes_in_steps(deleted):
    sizes = [rows_of(deleted), *(rows_of(deleted) for _ in collection.collect())]
    assert max(before - after for before, after in itertools.pairwise(sizes)) <= 500
    assert gone(deleted)


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_next_goes_on_where_one_was_killed(deleted, steps):
    killed = collection.collect()
    for _ in range(steps):
        next(killed)
    del killed
    assert not gone(deleted)
    carry_out(collection.collect())
    assert gone(deleted)


def test_two_at_once_do_no_harm(deleted):
    threads = [threading.Thread(target=lambda: carry_out(collection.collect())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gone(deleted)


def test_others_write_meanwhile(deleted):
    other = add_job()
    waits = []

    def write_some() -> None:
        while not gone(deleted):
            began = time.perf_counter()
            with make_session() as session:
                session.get_one(Job, other).updated_at = utc_now()
            waits.append(time.perf_counter() - began)

    writer = threading.Thread(target=write_some)
    writer.start()
    carry_out(collection.collect())
    writer.join()
    assert len(waits) > 3
    assert max(waits) < 2.0


def test_objects_of_no_row_are_swept_in_steps(client, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "SWEPT_AT_ONCE", 2)
    monkeypatch.setattr(collection, "utc_now", lambda: utc_now().replace(year=2100))
    lost = [f"t/x/j/job_1/r1/{name}" for name in "abcde"]
    for key in lost:
        storage.put(key, write(tmp_path / "lost", b"x"))
    assert len([*collection.sweep()]) == 3
    assert [*storage.list("t")] == []
