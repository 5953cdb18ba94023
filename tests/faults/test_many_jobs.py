"""Two APIs, four workers of which some are killed, 10,000 jobs: none lost, none run twice.

Figures of a run: ``tests/bench/results/many_jobs_2cores_2026-11-30.json``. ``MANY_JOBS`` changes
how many there are, ``MANY_JOBS_RESULT`` names the file for the figures.
"""

import itertools
import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.db.session import make_engine
from app.db.tables import Artifact, Event, Job, Run
from tests.conftest import make_database
from tests.service import Service, free_port

JOBS = int(os.environ.get("MANY_JOBS", "10000"))
CHILD = Path(__file__).parents[1] / "workers" / "trivial.sh"
WORKERS, CLIENTS = 4, 8
KILLS = 6
LIMIT_S = 3 * 3600.0


def submit_all(service: Service, ports: list[int]) -> list[str]:
    """Ids of the jobs, posted to both APIs by turns; of some the client did not hear the answer."""

    def post(number: int) -> str:
        near, far = (f"http://127.0.0.1:{ports[(number + k) % 2]}/v1/jobs" for k in (0, 1))
        headers = {"Idempotency-Key": f"job {number}"}
        while (answer := service.post_job(headers, near)).status_code != 201:
            assert answer.status_code == 503, answer.text
            time.sleep(0.5)
        if number % 50 == 0:
            assert service.post_job(headers, far).json()["id"] == answer.json()["id"]
        return answer.json()["id"]

    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(threads.map(post, range(JOBS)))


def run_all(service: Service, engine: sa.Engine) -> None:
    """Until every job is final; now and then a worker is killed, and another one started."""
    kill_at = [JOBS * k // (KILLS + 1) for k in range(1, KILLS + 1)]
    deadline = time.monotonic() + LIMIT_S
    while (done := _count(engine, Job.finished_at.is_not(None))) < JOBS:
        assert time.monotonic() < deadline, service.logs()
        if kill_at and done >= kill_at[0]:
            kill_at.pop(0)
            worker = service.processes.pop(2)  # the oldest; before it are the APIs
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            service.start_worker()
        time.sleep(0.5)


def _count(engine: sa.Engine, condition: sa.ColumnElement[bool]) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(Job).where(condition)) or 0


def _rows(engine: sa.Engine, query: sa.Select[Any]) -> list[sa.Row[Any]]:
    with engine.connect().execution_options(limit_s=60) as connection:
        return list(connection.execute(query))


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_none_of_many_jobs_is_lost_or_run_twice(make_service, request, tmp_path, broker):
    url = make_database("postgresql", request, tmp_path)
    service = make_service(
        url, broker.url, WORKER_COMMAND=CHILD, WORKER_SLOTS=4, LEASE_S=30, LEASE_RENEW_S=5,
        LEASE_STOP_S=20, LEASE_KILL_S=25,
    )  # fmt: skip
    ports = [service.port, free_port()]
    service.start_api()
    service.start_api(SEXTANT_BIND=f"127.0.0.1:{ports[1]}")
    for _ in range(WORKERS):
        service.start_worker()
    engine = make_engine(url)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as other:
        posting = other.submit(submit_all, service, ports)
        run_all(service, engine)
        ids = posting.result()
    figures = {"jobs": len(ids), "seconds": round(time.monotonic() - began, 1)}
    figures |= _check(service, engine, ids)
    engine.dispose()
    if result := os.environ.get("MANY_JOBS_RESULT"):
        Path(result).write_text(json.dumps(figures, indent=2) + "\n")


def _check(service: Service, engine: sa.Engine, ids: list[str]) -> dict[str, Any]:
    """No job lost, none that succeeded twice, every event and file there once; the figures."""
    jobs = {row.id: row for row in _rows(engine, sa.select(Job.id, Job.status, Job.result))}
    assert len(set(ids)) == len(ids) == JOBS
    assert jobs.keys() == set(ids)
    assert {row.status for row in jobs.values()} == {"succeeded"}
    assert all(row.result == {"job": job_id} for job_id, row in jobs.items())
    runs = _rows(engine, sa.select(Run.job_id, Run.number, Run.outcome))
    outcomes = Counter(row.outcome for row in runs)
    assert outcomes["succeeded"] == JOBS
    assert set(outcomes) <= {"succeeded", "worker_lost"}
    # each run started one child at most, and none that succeeded did without
    started = Counter(path.name.partition(".")[0] for path in service.journal.iterdir())
    assert set(started.values()) == {1}
    assert {f"{row.job_id}-r{row.number}" for row in runs if row.outcome == "succeeded"} <= set(
        started
    )
    told = sa.select(Event.job_id, Event.seq).order_by(Event.job_id, Event.seq)
    for _, rows in itertools.groupby(_rows(engine, told), key=lambda row: row.job_id):
        seqs = [row.seq for row in rows]
        assert seqs == [*range(1, len(seqs) + 1)]
    ready = _rows(engine, sa.select(Artifact.job_id).where(Artifact.status == "ready"))
    assert sorted(row.job_id for row in ready) == sorted(ids)
    return {
        "apis": 2,
        "workers": WORKERS,
        "killed_workers": KILLS,
        "runs": dict(outcomes),
        "children_started": len(started),
        "load_average": os.getloadavg(),
    }
