"""Pipelines and sweeps go on after their worker was killed: nothing lost, nothing made twice."""

import signal

import pytest

from tests.service import wait_until
from tests.smallest import smallest

STEPS = 20


@pytest.fixture
def service(make_service, sqlite):
    made = make_service(sqlite, behaviour="steps", steps=STEPS, step_s=0.02)
    made.start_api()
    return made


def kill(worker) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()


@pytest.mark.slow
def test_a_pipeline_outlives_its_worker(service):
    worker = service.start_worker()
    weights = {"job": "fit", "artifact": "weights.safetensors"}
    jobs = [
        {"id": "fit", "spec": smallest("lcw.train")},
        {"id": "draw", "spec": smallest("lcw.sample") | {"model": weights}},
        {"id": "last", "spec": smallest("lcw.sample"), "depends_on": ["draw"]},
    ]
    made = service.client.post("/v1/pipelines", json={"jobs": jobs}).json()["jobs"]
    ids = [job["id"] for job in made.values()]
    service.wait_step(ids[0], 5)
    kill(worker)
    service.start_worker()
    final = [service.wait(job_id, timeout_s=60) for job_id in ids]
    assert [job["status"] for job in final] == ["succeeded"] * 3
    assert final[1]["started_at"] >= final[0]["finished_at"]
    assert final[2]["started_at"] >= final[1]["finished_at"]
    (file,) = service.artifacts(ids[0], "weights")
    assert final[1]["resolved_spec"]["model"]["sha256"] == file["sha256"]
    service.check(*ids)


@pytest.mark.slow
def test_a_sweep_outlives_its_worker(service):
    worker = service.start_worker()
    request = {
        "job": {"spec": smallest("freetickets.train")},
        "parameters": {"optimizer.lr": {"values": [0.1, 0.2]}},
        "seeds": [1, 2],
        "objective": {"metric": "loss", "goal": "min"},
        "max_parallel": 2,
    }
    path = f"/v1/sweeps/{service.client.post('/v1/sweeps', json=request).json()['id']}"
    wait_until(lambda: service.client.get(path).json()["jobs"]["succeeded"], 60)
    kill(worker)
    service.start_worker()
    wait_until(lambda: service.client.get(path).json()["status"] != "running", 90)
    sweep = service.client.get(path).json()
    assert (sweep["status"], sweep["jobs"]["succeeded"], sweep["jobs"]["total"]) == (
        "finished",
        4,
        4,
    )
    ids = [job["id"] for trial in sweep["trials"] for job in trial["jobs"]]
    assert len(set(ids)) == 4
    assert [trial["objective"]["mean"] for trial in sweep["trials"]] == [1 / STEPS] * 2
    service.check(*ids)
