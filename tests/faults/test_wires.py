"""Broker and database away, emptied, full: submissions are answered, jobs finish, none twice."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import queue
from tests.conftest import make_database
from tests.service import Service, Wire, wait_until


@pytest.fixture
def service(make_service, sqlite, broker) -> Service:
    """API and one worker on a broker that the test breaks."""
    made = make_service(sqlite, broker.url, behaviour="steps", steps=20, step_s=0.03)
    made.start_api()
    made.start_worker()
    return made


@pytest.mark.slow
def test_broker_restarted(service, broker):
    running = service.submit()
    service.wait(running, "running")
    broker.stop()
    meanwhile = service.submit()
    assert service.wait(running)["status"] == "succeeded"
    broker.start()
    after = service.submit()
    for job_id in (meanwhile, after):
        assert service.wait(job_id)["status"] == "succeeded"
    service.check(running, meanwhile, after)


@pytest.mark.slow
def test_broker_flushed(service, broker):
    jobs = [service.submit() for _ in range(3)]
    broker.client().flushall()
    for job_id in jobs:
        assert service.wait(job_id)["status"] == "succeeded"
    service.check(*jobs)


@pytest.mark.slow
def test_queues_named_like_keys_of_the_broker_library_are_queues(make_service, sqlite, broker):
    names = ("unacked", "unacked_index", "unacked_mutex")
    service = make_service(
        sqlite, broker.url, behaviour="steps", steps=2, QUEUES=",".join(names), WORKER_DISPATCH_S=30
    )
    service.start_api()
    service.start_worker(SEXTANT_WORKER_QUEUES=",".join((*names, "default")))
    for name in (*names, "default"):
        job_id = service.submit(queue=name)
        assert service.wait(job_id, timeout_s=10)["status"] == "succeeded"  # the broker woke it


def test_a_queue_that_nobody_serves_keeps_the_broker_small(make_service, sqlite, broker):
    service = make_service(sqlite, broker.url, behaviour="steps", QUEUES="idle")
    service.start_api()
    client = broker.client()
    name = queue.broker_name("idle")
    client.rpush(name, *["wake-up"] * (queue.WAITING_LIMIT - 1))
    for _ in range(5):
        service.submit(queue="idle")
    wait_until(lambda: client.llen(name) >= queue.WAITING_LIMIT)
    time.sleep(0.3)
    assert client.llen(name) == queue.WAITING_LIMIT


@pytest.mark.slow
def test_broker_full(service, broker):
    broker.client().config_set("maxmemory", "1")
    job_id = service.submit()
    assert service.wait(job_id)["status"] == "succeeded"
    service.check(job_id)


@pytest.mark.slow
def test_broker_absent_from_the_start(make_service, sqlite, tmp_path):
    service = make_service(sqlite, f"redis+socket://{tmp_path}/nobody.sock", behaviour="steps")
    service.start_api()
    service.start_worker()
    job_id = service.submit()
    assert service.wait(job_id)["status"] == "succeeded"
    service.check(job_id)


@pytest.mark.slow
def test_no_broker_configured(make_service, sqlite):
    service = make_service(sqlite, behaviour="steps")
    service.start_api()
    service.start_worker()
    job_id = service.submit()
    assert service.wait(job_id)["status"] == "succeeded"
    service.check(job_id)


@pytest.mark.slow
def test_api_killed_between_commit_and_publish(make_service, sqlite, broker, tmp_path):
    """The API's way to the broker swallows everything, so the wake-up cannot have been sent."""
    wire = Wire(tmp_path / "api.sock", broker.socket)
    wire.silent = True
    service = make_service(sqlite, broker.url, behaviour="steps")
    api = service.start_api(SEXTANT_BROKER_URL=f"redis+socket://{wire.listen}")
    service.start_worker()
    job_id = service.submit()
    api.send_signal(signal.SIGKILL)
    api.wait()
    service.start_api()
    assert service.wait(job_id, timeout_s=10)["status"] == "succeeded"
    service.check(job_id)


def _behind_wire(request, folder: Path) -> tuple[str, Wire]:
    """A PostgreSQL database that is reached through a wire of the test."""
    url = sa.make_url(make_database("postgresql", request, folder))
    host = str(url.query["host"])
    (folder / "pg").mkdir()
    name = ".s.PGSQL.5432"
    wire = Wire(folder / "pg" / name, Path(host) / name)
    query = {**url.query, "host": str(folder / "pg")}
    return url.set(query=query).render_as_string(hide_password=False), wire


@pytest.mark.parametrize(
    ("away_s", "runs"), [(1.0, 1), pytest.param(5.0, 2, marks=pytest.mark.slow)]
)
def test_database_away(make_service, request, broker, tmp_path, away_s, runs):
    """Shorter than the grace: the run goes on and writes later. Longer: killed, then resumed."""
    url, wire = _behind_wire(request, tmp_path)
    lease = {"LEASE_S": 30, "LEASE_KILL_S": 25, "LEASE_STOP_S": 20} if runs == 1 else {}
    service = make_service(url, broker.url, behaviour="steps", steps=100, step_s=0.03, **lease)
    service.start_api()
    service.start_worker()
    service.hold()
    job_id = service.submit()
    service.wait_step(job_id, 10)
    wire.cut()
    answer = service.client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["code"] == "unavailable"
    assert service.client.get("/readyz").status_code == 503
    time.sleep(away_s)
    if runs == 2:
        # dead before the reaper may give the job away
        wait_until(lambda: not service.children(), 10, "the child is dead")
    wire.join()
    service.go()
    job = service.wait(job_id)
    assert job["result"] == {"total": 5050}
    assert job["run_number"] == runs
    service.check(job_id)


@pytest.mark.parametrize("full", ["store", pytest.param("runs", marks=pytest.mark.slow)])
def test_disk_full(make_service, sqlite, tmp_path, full):
    """A file system of 1 MiB under store or run folder: the job fails, the service goes on."""
    small = tmp_path / "service0" / "state" / full
    small.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    service = make_service(sqlite, behaviour="big")
    try:
        service.start_api()
        worker = service.start_worker()
        job_id = service.submit()
        job = service.wait(job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", "storage_full")
        assert worker.poll() is None
        service.check(job_id)
        assert not [a for a in service.artifacts(job_id) if a["name"] == "weights.safetensors"]
        assert sum(path.stat().st_size for path in small.rglob("*") if path.is_file()) < 2**19
    finally:
        service.stop()
        subprocess.run(["umount", str(small)], check=True)
