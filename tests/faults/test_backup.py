"""The restore drill: a backup taken while jobs run loses nothing that was answered before it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import make_database

JOBS, STEPS = 100, 8
SLOW = {"LEASE_S": 60, "LEASE_RENEW_S": 5, "LEASE_STOP_S": 40, "LEASE_KILL_S": 50}
TOTAL = STEPS * (STEPS + 1) // 2


def sextant(service, *arguments: str) -> None:
    """A command of the operator on the service's machine."""
    command = [Path(sys.executable).with_name("sextant"), *arguments]
    done = subprocess.run(command, env=service.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_restored_elsewhere_every_job_of_the_backup_ends(make_service, request, tmp_path, backend):
    def database(name: str) -> str:
        (tmp_path / name).mkdir()
        return make_database(backend, request, tmp_path / name)

    old = make_service(database("old"), behaviour="steps", steps=STEPS, **SLOW)
    old.start_api()
    old.start_worker(SEXTANT_WORKER_SLOTS="3")
    answered = [old.submit() for _ in range(JOBS)]
    more: list[str] = []
    submitting = threading.Thread(target=lambda: more.extend(old.submit() for _ in range(30)))
    submitting.start()
    old.wait(answered[3], timeout_s=300)
    folder = tmp_path / "backup"
    before = [*answered, *more]
    sextant(old, "backup", str(folder))
    submitting.join()
    old.stop()  # its machine is gone

    new = make_service(database("new"), behaviour="steps", steps=STEPS, **SLOW)
    sextant(new, "verify", str(folder))
    sextant(new, "restore", str(folder))
    sextant(new, "verify")
    new.start_api()
    new.start_worker(SEXTANT_WORKER_SLOTS="3")
    for job_id in before:
        job = new.wait(job_id, timeout_s=600)
        assert (job["status"], job["result"]) == ("succeeded", {"total": TOTAL}), job
    new.check(*before)
