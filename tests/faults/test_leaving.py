"""Workers that leave by themselves, and imports that do not wait for trainings."""

import io

import numpy as np
import pytest

from tests.service import wait_until


@pytest.fixture
def service(make_service, sqlite, broker):
    """With a broker: a worker then ends by Celery's shutdown."""
    made = make_service(sqlite, broker.url, behaviour="steps")
    made.start_api()
    return made


def test_a_worker_whose_time_is_over_saves_its_run_and_leaves(service):
    service.hold()
    worker = service.start_worker(SEXTANT_WORKER_DRAIN_AFTER_S="6")
    job_id = service.submit()
    service.wait_step(job_id, 7)
    assert worker.wait(30) == 0
    assert "its time is over" in service.logs()
    job = service.read(job_id)
    assert (job["status"], job["status_reason"]) == ("queued", "waiting_for_worker")
    assert service.artifacts(job_id, role="checkpoint")
    service.go()
    successor = service.start_worker(SEXTANT_WORKER_LEAVE_IDLE_S="3")
    job = service.wait(job_id)
    assert job["status"] == "succeeded"
    assert job["lineage"]["resumed_from"]
    assert successor.wait(30) == 0  # only once the job was done
    assert "nothing to do" in service.logs()
    runs = service.client.get(f"/v1/jobs/{job_id}/runs").json()["data"]
    assert [run["outcome"] for run in runs] == ["requeued", "succeeded"]
    service.check(job_id)


def test_an_import_does_not_wait_for_a_training(service):
    service.hold()
    service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, 7)
    content = io.BytesIO()
    np.savez(content, images=np.zeros((10, 8, 8), np.uint8), labels=np.arange(10) % 2)
    octets = {"Content-Type": "application/octet-stream"}
    for answer in (
        service.client.post("/v1/datasets", json={"name": "mine", "format": "npz"}),
        service.client.put("/v1/datasets/mine/content", content=content.getvalue(), headers=octets),
        service.client.post("/v1/datasets/mine/finalize"),
    ):
        assert answer.is_success, answer.text

    def checked() -> bool:
        return service.client.get("/v1/datasets/mine").json()["status"] != "checking"

    wait_until(checked, 60, f"the import is checked\n{service.logs()}")
    dataset = service.client.get("/v1/datasets/mine").json()
    assert dataset["status"] == "ready", dataset["error"]
    assert service.read(job_id)["status"] == "running"
    service.go()
    service.wait(job_id, "succeeded")
