"""Counters are what a count of the rows gives, whatever happens in between."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import func, select

from app.db.session import make_session
from app.db.tables import Counter
from app.schemas.errors import ReportedError
from app.services import artifacts, collection, counters, jobs, keys, lifecycle
from app.services.lifecycle import Outcome
from app.services.resolve import JobCreate
from tests.app.factories import KIND, WORKER, carry_out, write
from tests.smallest import smallest

pytestmark = pytest.mark.both_databases
LOST = Outcome(error=ReportedError(code="worker_lost", message="gone"))
ENDS = (Outcome(exit_code=0), LOST)
# submits, claims and ends jobs and sums up until it is killed
BUSY = """
import itertools
from app.db.session import make_session
from app.services import counters
from tests.app import test_counters as t
for turn in itertools.count():
    t.run_one(turn) if turn % 3 == 2 else t.submit()
    with make_session() as session:
        counters.compact(session)
    if turn == 3:
        print("ready", flush=True)
"""


def submit() -> str:
    request = JobCreate.model_validate({"spec": smallest(KIND)})
    with make_session() as session:
        return jobs.submit(session, keys.DEFAULT_TENANT, request).id


def run_one(turn: int) -> None:
    with make_session() as session:
        run = lifecycle.claim(session, WORKER, "default")
    if run is not None:
        with make_session() as session:
            lifecycle.finish(session, run, ENDS[turn % 2])


def check() -> None:
    with make_session(write=False) as session:
        for name, counted in counters.recount(session).items():
            assert counters.read(session, name) == counted, name


def rows() -> int:
    with make_session(write=False) as session:
        return session.scalar(select(func.count()).select_from(Counter)) or 0


def test_every_change_is_counted(client, tmp_path):
    run_one(0)
    for turn in range(8):
        submit()
        if turn % 2:
            run_one(turn // 2)
    job_id = submit()
    client.post(f"/v1/jobs/{job_id}/cancel")
    check()
    client.delete(f"/v1/jobs/{job_id}")
    check()
    carry_out(collection.collect())
    check()


def test_bytes_of_files_are_counted(client, tmp_path):
    submit()
    with make_session() as session:
        run = lifecycle.claim(session, WORKER, "default")
    for step, size in enumerate((10, 20, 30, 40)):
        path = write(tmp_path / "file", b"x" * size)
        artifacts.store(run, path, "checkpoint", f"checkpoints/{step}", step)
        artifacts.store(run, path, "report", "report.json")
    check()
    with make_session(write=False) as session:
        read = counters.read(session, counters.ARTIFACT_BYTES)
    assert read == {(keys.DEFAULT_TENANT,): 30 + 40 + 40}
    with make_session() as session:
        lifecycle.finish(session, run, Outcome(exit_code=0))
    client.delete(f"/v1/jobs/{run.job_id}")
    carry_out(collection.collect())
    with make_session(write=False) as session:
        assert counters.read(session, counters.ARTIFACT_BYTES) == {}
        assert counters.read(session, counters.RUNS) == {("succeeded",): 1}  # it only grows


def test_a_change_that_is_rolled_back_is_not_counted(client):
    request = JobCreate.model_validate({"spec": smallest(KIND)})
    with make_session() as session:
        jobs.submit(session, keys.DEFAULT_TENANT, request)
        session.rollback()
    check()
    assert rows() == 0


def test_summing_up_keeps_the_numbers(client):
    for _ in range(6):
        submit()
    with make_session(write=False) as session:
        before = counters.read(session, counters.JOBS)
    with make_session() as session:
        assert counters.compact(session) is False
    with make_session(write=False) as session:
        assert counters.read(session, counters.JOBS) == before
    assert rows() == 1


def work(seed: int) -> None:
    for turn in range(12):
        submit()
        if turn % 2:
            run_one(seed)


def compact_until(stop: threading.Event) -> None:
    while not stop.wait(0.001):
        with make_session() as session:
            counters.compact(session)


def test_summing_up_beside_writers(client):
    stop = threading.Event()
    writers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    cleaners = [threading.Thread(target=compact_until, args=(stop,)) for _ in range(2)]
    for thread in writers + cleaners:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in cleaners:
        thread.join()
    check()
    with make_session(write=False) as session:
        assert sum(counters.read(session, counters.JOBS).values()) == 36


def test_numbers_are_exact_after_kills(client):
    for alive_s in (0.1, 0.3, 0.7):
        process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(alive_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        check()
    with make_session(write=False) as session:
        assert sum(counters.read(session, counters.JOBS).values()) > 3
