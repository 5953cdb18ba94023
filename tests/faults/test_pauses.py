"""Pauses over real processes: what was computed is kept, whoever is killed in between."""

import signal
from collections.abc import Iterator

import pytest

from tests.service import Service, wait_until

STEPS = 40
TOTAL = STEPS * (STEPS + 1) // 2


@pytest.fixture(scope="module")
def service(database_url, valkey_url, tmp_path_factory) -> Iterator[Service]:
    """An API, and jobs that wait halfway as long as the test holds them."""
    folder = tmp_path_factory.mktemp("service")
    made = Service(folder, database_url, valkey_url, behaviour="steps", steps=STEPS)
    made.start_api()
    yield made
    made.stop()


def change(service: Service, job_id: str, verb: str) -> None:
    assert service.client.post(f"/v1/jobs/{job_id}/{verb}").is_success


def is_held(service: Service, job_id: str) -> bool:
    job = service.read(job_id)
    return (job["status"], job["status_reason"]) == ("queued", "paused")


@pytest.mark.parametrize(
    "killed", ["while it is held", pytest.param("while it saves", marks=pytest.mark.slow)]
)
def test_a_paused_job_goes_on_where_it_was(service, killed):
    service.hold()
    worker = service.start_worker()
    job_id = service.submit()
    service.wait_step(job_id, STEPS // 2)
    change(service, job_id, "pause")
    if killed == "while it is held":
        wait_until(lambda: is_held(service, job_id), 20, "held")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    service.go()
    service.start_worker()
    wait_until(lambda: is_held(service, job_id), 20, "held")
    change(service, job_id, "resume")
    job = service.wait(job_id)
    assert (job["status"], job["result"]) == ("succeeded", {"total": TOTAL})
    assert job["run_number"] == 2
    service.check(job_id)
    service.begin_again()
