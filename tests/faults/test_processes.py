"""Processes killed, stopped and replaced: no job lost, none run twice at once, nothing left."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from app.db.session import make_engine
from tests.service import Service, wait_until

STEPS = 60
TOTAL = STEPS * (STEPS + 1) // 2


@pytest.fixture(scope="module")
def api(database_url, valkey_url, tmp_path_factory) -> Iterator[Service]:
    """An API whose jobs take about two seconds; no test here ends it."""
    folder = tmp_path_factory.mktemp("service")
    made = Service(folder, database_url, valkey_url, behaviour="steps", steps=STEPS, step_s=0.03)
    made.start_api()
    yield made
    made.stop()


@pytest.fixture
def service(api) -> Iterator[Service]:
    """The same API as if it had just started: no worker, no job, no file."""
    yield api
    api.begin_again()


def kill_group(process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def stop_between_writes(service, worker) -> None:
    """Freeze the worker; on PostgreSQL in a write too, whose locks the server takes back.

    SQLite's one lock stays with a process that is frozen in a write until it goes on or is gone.
    """
    engine = make_engine(service.database_url)
    if engine.dialect.name == "postgresql":
        os.kill(worker.pid, signal.SIGSTOP)
        return
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        os.kill(worker.pid, signal.SIGSTOP)
    engine.dispose()


def test_kill_9_of_the_worker(service):
    service.hold()
    worker = service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 12)
    kill_group(worker)
    wait_until(lambda: not service.children(), 3, "the child died with its worker")
    service.go()
    service.start_worker()
    job = service.wait(job_id)
    assert job["status"] == "succeeded", job
    assert job["result"] == {"total": TOTAL}  # went on from a checkpoint, counted nothing twice
    runs = service.client.get(f"/v1/jobs/{job_id}/runs").json()["data"]
    assert [run["outcome"] for run in runs] == ["worker_lost", "succeeded"]
    wait_until(lambda: not [*(service.state / "runs").iterdir()], 5, "no run folder left")
    service.check(job_id)


@pytest.mark.parametrize(
    "inits", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["child", "init"]
)
def test_kill_9_of_the_child(service, inits):
    """Or of its init, with which it dies."""
    service.hold()
    service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 12)
    (child,) = service.children(inits=inits)
    child.send_signal(signal.SIGKILL)
    service.go()
    job = service.wait(job_id)
    assert (job["status"], job["run_number"]) == ("succeeded", 2)
    assert job["result"] == {"total": TOTAL}
    service.check(job_id)


def test_sigterm_of_the_worker_is_a_deploy(service):
    service.hold()
    worker = service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 7)
    worker.terminate()
    assert worker.wait(15) == 0  # without the job, which is held
    job = service.read(job_id)
    assert (job["status"], job["status_reason"]) == ("queued", "waiting_for_worker")
    checkpoint = service.artifacts(job_id, role="checkpoint")[-1]
    service.go()
    service.start_worker()
    job = service.wait(job_id)
    assert job["result"] == {"total": TOTAL}
    assert job["lineage"]["resumed_from"] == checkpoint["name"]
    runs = service.client.get(f"/v1/jobs/{job_id}/runs").json()["data"]
    assert [run["outcome"] for run in runs] == ["requeued", "succeeded"]
    service.check(job_id)


@pytest.mark.slow
def test_a_stopped_worker_loses_its_job_and_its_child(service):
    service.hold()
    worker = service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 3)
    stop_between_writes(service, worker)
    wait_until(lambda: not service.children(), 10, "the child died without its worker")
    service.go()
    service.start_worker()
    job = service.wait(job_id)
    assert (job["status"], job["run_number"]) == ("succeeded", 2)
    os.kill(worker.pid, signal.SIGCONT)
    time.sleep(1)
    assert service.read(job_id)["result"] == {"total": TOTAL}
    service.check(job_id)


@pytest.mark.slow
def test_no_worker_then_one(service):
    job_id = service.submit()
    assert service.read(job_id)["status_reason"] == "waiting_for_worker"
    service.start_worker()
    assert service.wait(job_id)["status"] == "succeeded"
    service.check(job_id)


def test_two_hundred_identical_posts_are_one_job(service):
    answers = []

    def post() -> None:
        answers.append(service.post_job(headers={"Idempotency-Key": "the same"}))

    threads = [threading.Thread(target=post) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len(service.client.get("/v1/jobs").json()["data"]) == 1


@pytest.mark.parametrize(
    "stage",
    [
        "queued",
        "running",
        *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("starting", "finishing")),
    ],
)
def test_cancel_at_every_stage(service, stage):
    if stage != "queued":
        service.start_worker()
    if stage != "finishing":
        service.hold()
    job_id = service.submit()
    match stage:
        case "starting":
            service.wait(job_id, "running", timeout_s=10)
        case "running":
            service.wait_step(job_id, 5)
        case "finishing":
            service.wait_step(job_id, STEPS)
    first = service.client.post(f"/v1/jobs/{job_id}/cancel")
    second = service.client.post(f"/v1/jobs/{job_id}/cancel", json={"mode": "kill"})
    assert {first.status_code, second.status_code} <= {200, 202, 409}
    job = service.wait(job_id)
    allowed = {"cancelled"} if stage in ("queued", "running") else {"cancelled", "succeeded"}
    assert job["status"] in allowed
    if job["status"] == "cancelled":
        assert service.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    else:
        assert service.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 409
    service.check(job_id)


@pytest.mark.slow
def test_cancel_keeps_a_checkpoint_from_which_a_retry_goes_on(service):
    service.hold()
    service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 8)
    service.client.post(f"/v1/jobs/{job_id}/cancel")
    assert service.wait(job_id)["status"] == "cancelled"
    service.go()
    step = max(a["step"] for a in service.artifacts(job_id) if a["role"] == "checkpoint")
    answer = service.client.post(f"/v1/jobs/{job_id}/retry", json={"from": "latest"})
    assert answer.status_code == 201, answer.text
    again = service.wait(answer.json()["id"])
    assert again["parent_job_id"] == job_id
    assert again["result"] == {"total": TOTAL}
    metrics = service.client.get(f"/v1/jobs/{again['id']}/metrics?names=loss").json()
    assert metrics["series"]["loss"][0]["step"] == step + 1
    service.check(job_id, again["id"])


@pytest.mark.slow
def test_cancel_while_the_worker_dies(service):
    service.hold()
    worker = service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 3)
    kill_group(worker)
    service.client.post(f"/v1/jobs/{job_id}/cancel")
    service.start_worker()
    assert service.wait(job_id)["status"] == "cancelled"
    service.check(job_id)


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back(service):
    service.hold()
    worker = service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 17)
    kill_group(worker)
    # a file may be stored whose row was not yet written: nobody resumes from that one
    name = max(a["name"] for a in service.artifacts(job_id) if a["role"] == "checkpoint")
    (newest,) = service.state.glob(f"store/**/{name}")
    newest.write_text("damaged")
    service.go()
    service.start_worker()
    job = service.wait(job_id)
    assert job["result"] == {"total": TOTAL}
    events = service.client.get(f"/v1/jobs/{job_id}/events?limit=200").json()["data"]
    assert [e for e in events if e["type"] == "warning" and "damaged" in e["data"]["message"]]


@pytest.mark.slow
def test_deaf_child_is_killed_after_its_grace(make_service, sqlite):
    service = make_service(sqlite, behaviour="deaf")
    service.start_api()
    service.start_worker()
    job_id = service.submit()
    wait_until(service.children, 10)
    service.client.post(f"/v1/jobs/{job_id}/cancel", json={"save_checkpoint": False})
    assert service.wait(job_id, timeout_s=10)["status"] == "cancelled"
    service.check(job_id)


@pytest.mark.parametrize(
    ("behaviour", "status", "code", "runs"),
    [
        ("crash", "failed", "worker_lost", 3),
        pytest.param("full", "failed", "storage_full", 1, marks=pytest.mark.slow),
    ],
)
def test_poison_jobs_are_bounded(make_service, sqlite, behaviour, status, code, runs):
    service = make_service(sqlite, behaviour=behaviour)
    service.start_api()
    worker = service.start_worker()
    job_id = service.submit()
    job = service.wait(job_id)
    assert (job["status"], job["error"]["code"], job["run_number"]) == (status, code, runs)
    assert worker.poll() is None
    service.check(job_id)


@pytest.mark.slow
def test_limits_of_time_and_memory(make_service, sqlite):
    service = make_service(sqlite, behaviour="greedy")
    service.start_api()
    service.start_worker()
    late = service.submit(limits={"timeout_s": 1, "max_runs": 1})
    assert service.wait(late)["error"]["code"] == "timeout"
    large = service.submit(resources={"memory_mb": 200}, limits={"max_runs": 1})
    assert service.wait(large)["error"]["code"] == "host_out_of_memory"
    service.check(late, large)


@pytest.mark.slow
def test_a_flood_of_output_is_capped(make_service, sqlite):
    service = make_service(sqlite, behaviour="flood", WORKER_LOG_LIMIT_BYTES=2**20)
    service.start_api()
    service.start_worker()
    job_id = service.submit()
    assert service.wait(job_id)["status"] == "succeeded"
    log = service.client.get(f"/v1/jobs/{job_id}/logs").content
    assert 2**19 < len(log) < 2**20 + 200
    assert log.endswith(b"last line\n")
    service.check(job_id)


@pytest.mark.slow
def test_the_state_folder_is_private(make_service, tmp_path):
    before = os.umask(0o022)
    try:
        state = tmp_path / "service0" / "state"
        service = make_service(f"sqlite:///{state}/sextant.db", behaviour="steps", step_s=0)
        service.start_api()
        service.start_worker()
        service.wait(service.submit())
    finally:
        os.umask(before)
    paths = [state, *state.rglob("*")]
    assert [path.name for path in paths if path.suffix == ".safetensors"]
    for path in paths:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.slow
def test_leftovers_of_a_child_are_killed(make_service, sqlite):
    service = make_service(sqlite, behaviour="parent")
    service.start_api()
    service.start_worker()
    job_id = service.submit()
    job = service.wait(job_id)
    assert job["status"] == "succeeded"
    sleeper = job["result"]["sleeper"]
    assert not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == "zombie"
    service.check(job_id)
