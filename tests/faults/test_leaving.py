"""Workers that leave by themselves, and imports that do not wait for trainings."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.service import wait_until

RECIPE = Path(__file__).parents[2] / "docs" / "deploy" / "slurm" / "worker.sbatch"


@pytest.fixture
def service(make_service, sqlite, broker):
    """With a broker: a worker then ends by Celery's shutdown."""
    made = make_service(sqlite, broker.url, behaviour="steps")
    made.start_api()
    return made


@pytest.mark.slow
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


def test_the_recipe_for_slurm_saves_what_runs_when_its_time_is_over(service, tmp_path):
    service.hold()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_TMPDIR": str(tmp_path),
        "PATH": path,
        "SEXTANT_SECRETS_DIR": str(tmp_path),
        "SEXTANT_STORE_URL": f"file://{service.state / 'store'}",
    }
    with (service.folder / "slurm.log").open("wb") as log:
        batch = subprocess.Popen(
            ["bash", RECIPE],
            env=service.env | slurm,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        job_id = service.submit(queue="gpu", resources={"device": "cpu"})
        service.wait_step(job_id, 7, timeout_s=60)
        batch.send_signal(signal.SIGTERM)  # --signal=B:TERM reaches the script alone
        assert batch.wait(60) == 0, service.logs()
    finally:
        if batch.poll() is None:
            os.killpg(batch.pid, signal.SIGKILL)
    job = service.read(job_id)
    assert (job["status"], job["status_reason"]) == ("queued", "waiting_for_worker")
    assert service.artifacts(job_id, role="checkpoint")
    assert not [*tmp_path.glob("sextant-7")]
    service.go()
