"""A state directory of an earlier release opens, and its jobs are read, retried and run.

``tests/data/state_c67ee55`` was written by the service of that commit: a flood and an ensemble that
succeeded, an ensemble that failed, and one that waits in the queue ``other``. Keys, weights,
checkpoints and pictures were taken out of it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.db.session import make_session
from app.main import create_app
from app.services import keys, lifecycle
from models.stored import load_stored
from tests.app.factories import WORKER
from tests.conftest import fresh_caches
from tests.smallest import smallest
from workers import run_folder
from workers.spans import RunSpans

STATE = Path(__file__).parent.parent / "data" / "state_c67ee55"
SENT = {"p": 0.4, "schedule": "cosine", "p_min": 0.01}
TODAY = {"initial": 0.4, "schedule": "cosine", "final": 0.01}


@pytest.fixture
def client(tmp_path, monkeypatch) -> Iterator[TestClient]:
    """Today's service over a copy of the old state."""
    shutil.copytree(STATE, tmp_path / "state")
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path / "state"))
    for name in ("DATABASE_URL", "STORE_URL", "BROKER_URL"):
        monkeypatch.delenv(f"SEXTANT_{name}", raising=False)
    fresh_caches()
    with TestClient(create_app()) as opened:  # brings the schema up to date
        with make_session() as session:
            key = keys.ensure_admin_key(session)
        opened.headers["Authorization"] = f"Bearer {key}"
        yield opened
    fresh_caches()


def jobs_of(client: TestClient) -> dict[str, dict]:
    """The four jobs by kind and status, each read by itself."""
    listed = client.get("/v1/jobs").json()["data"]
    read = [client.get(f"/v1/jobs/{job['id']}").json() for job in listed]
    return {f"{job['kind']} {job['status']}": job for job in read}


def test_every_job_is_read_as_it_was_sent(client):
    jobs = jobs_of(client)
    assert set(jobs) == {
        "terrain.simulate succeeded",
        "freetickets.train succeeded",
        "freetickets.train failed",
        "freetickets.train queued",
    }
    assert jobs["terrain.simulate succeeded"]["spec"]["solver"] == {"alpha": 0.7}
    assert jobs["terrain.simulate succeeded"]["result"]["steps"] > 0
    assert jobs["freetickets.train succeeded"]["spec"]["prune_rate"] == SENT
    assert jobs["freetickets.train succeeded"]["metadata"] == {"team": "a"}
    assert jobs["freetickets.train failed"]["error"]["code"] == "timeout"
    assert jobs["freetickets.train queued"]["queue"] == "other"


def test_what_runs_left_is_read(client):
    for job in jobs_of(client).values():
        address = f"/v1/jobs/{job['id']}"
        events = client.get(f"{address}/events").json()["data"]
        assert [event["seq"] for event in events] == [*range(1, len(events) + 1)]
        if job["status"] == "queued":
            continue
        assert client.get(f"{address}/metrics").status_code == 200
        assert client.get(f"{address}/logs").text.startswith(job["kind"])
        (run,) = client.get(f"{address}/runs").json()["data"]
        assert run["outcome"] == job["status"]
        for artifact in client.get(f"{address}/artifacts").json()["data"]:
            content = client.get(artifact["url"]).content
            assert hashlib.sha256(content).hexdigest() == artifact["sha256"]


def test_every_final_job_is_retried_in_the_fields_and_bounds_of_today(client):
    for job in jobs_of(client).values():
        answer = client.post(f"/v1/jobs/{job['id']}/retry", json={"from": "scratch"})
        if job["status"] == "queued":
            assert answer.status_code == 409
            continue
        assert answer.status_code == 201, answer.text
        again = answer.json()
        assert again["parent_job_id"] == job["id"]
        for spec in (again["spec"], again["resolved_spec"]):
            if job["kind"] == "freetickets.train":
                assert spec["prune_rate"] == TODAY
                assert spec["validation"] == 0  # nothing was held out then
                assert spec["escape"]["fraction"] == 0.6
                assert "q" not in spec["escape"]
            else:
                assert spec["solver"]["alpha"] < 0.7  # beyond it deep water was unstable


def test_the_waiting_job_is_prepared_by_a_worker_and_loaded_by_its_child(client):
    with make_session() as session:
        run = lifecycle.claim(session, WORKER, "other")
    folder, job, _ = run_folder.prepare(run, RunSpans(run))
    assert job.spec["escape"] == {"q": 0.9}
    spec, warnings = load_stored(json.loads((folder / "spec.json").read_bytes()))
    assert (spec.escape.fraction, warnings) == (0.9, [])
    assert spec.prune_rate.model_dump() == TODAY
    assert spec.validation == 0


def test_a_retry_of_a_job_of_today_holds_out_what_the_job_did(client):
    sent = smallest("freetickets.train")
    for spec, share in ((sent, 0.1), (sent | {"validation": 0.2}, 0.2)):
        job = client.post("/v1/jobs", json={"spec": spec}).json()
        client.post(f"/v1/jobs/{job['id']}/cancel")
        again = client.post(f"/v1/jobs/{job['id']}/retry", json={"from": "scratch"}).json()
        assert again["resolved_spec"]["validation"] == share
        assert again["spec"] == job["spec"]
