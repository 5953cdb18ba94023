"""What one run pours out or says wrongly costs neither the worker nor its neighbours."""

import signal
import statistics
import time

import pytest

from tests.conftest import make_database
from tests.service import wait_until


@pytest.mark.parametrize("backend", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_text_that_no_database_holds_ends_its_job_and_not_the_worker(
    make_service, request, tmp_path, backend
):
    url = make_database(backend, request, tmp_path)
    service = make_service(url, behaviour="nul")
    service.start_api()
    worker = service.start_worker()
    first, second = service.submit(), service.submit()
    for job_id in (first, second):
        job = service.wait(job_id)
        assert (job["status"], job["run_number"]) == ("failed", 1)
        assert job["error"]["message"] == "the tensor xy ? is not finite"
    assert service.client.get("/v1/jobs").status_code == 200
    worker.terminate()
    assert worker.wait(10) == 0
    service.check(first, second)


@pytest.mark.parametrize("way", ["cancel", pytest.param("sigterm", marks=pytest.mark.slow)])
def test_stops_are_heard_while_files_are_stored(make_service, sqlite, way):
    service = make_service(sqlite, behaviour="many")
    service.start_api()
    worker = service.start_worker()
    job_id = service.submit()
    wait_until(lambda: len(service.artifacts(job_id)) > 20)
    began = time.monotonic()
    if way == "cancel":
        service.client.post(f"/v1/jobs/{job_id}/cancel", json={"mode": "kill"})
        assert service.wait(job_id, timeout_s=5)["status"] == "cancelled"
    else:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        assert service.read(job_id)["status"] == "queued"
    assert time.monotonic() - began < 8
    page = service.client.get(f"/v1/jobs/{job_id}/artifacts?limit=200").json()
    assert page["data"]


@pytest.mark.slow
def test_floods_of_two_runs_leave_the_neighbours_alone(make_service, sqlite):
    service = make_service(
        sqlite, behaviour="storm", WORKER_SLOTS=2, QUOTA_EVENTS=3000, LEASE_S=6, LEASE_KILL_S=5,
        LEASE_STOP_S=4,
    )  # fmt: skip
    service.start_api()
    service.start_worker()
    floods = [service.submit() for _ in range(2)]
    for job_id in floods:
        service.wait(job_id, "running")
    took_s = []
    for _ in range(60):
        began = time.monotonic()
        assert service.post_job().status_code == 201
        took_s.append(time.monotonic() - began)
        time.sleep(0.1)
    assert statistics.quantiles(took_s, n=20)[-1] < 2
    for job_id in floods:
        assert service.read(job_id)["run_number"] == 1  # no lease was lost
        service.client.post(f"/v1/jobs/{job_id}/cancel", json={"save_checkpoint": False})
        assert service.wait(job_id)["status"] == "cancelled"
        assert _told(service, job_id) == 1


def _told(service, job_id) -> int:
    """How often the job says that it is slowed down."""
    after, found = 0, 0
    while True:
        page = service.client.get(f"/v1/jobs/{job_id}/events?limit=200&after={after}").json()
        codes = [event["data"].get("code") for event in page["data"]]
        found += codes.count("throttled")
        if not page["data"]:
            return found
        after = page["data"][-1]["seq"]
