"""Files that a waiting job refers to stay: against retention, later runs and deletion."""

import threading

import pytest

from app import storage
from app.db.session import make_session
from app.db.tables import Job, utc_now
from app.services import artifacts, collection, holds, jobs
from app.services.resolve import JobCreate
from models.catalog import kinds
from models.core.spec import ArtifactRef
from tests.app.factories import add_job, carry_out, claim, finish, requeue, write

KIND = next(name for name, spec in kinds().items() if spec.resumable)


@pytest.fixture
def source(client):
    """A running job of a kind that can go on from a checkpoint."""
    add_job(kind=KIND, method=KIND.partition(".")[0])
    return claim()


@pytest.fixture
def put(tmp_path):
    """Store a checkpoint of a run."""

    def put(run, step, data=None):
        path = write(tmp_path / "f", data or str(step).encode())
        return artifacts.store(run, path, "checkpoint", f"checkpoints/step-{step}.st", step)

    return put


def follower(client, run, step) -> str:
    """Id of a queued job that goes on from a checkpoint of a run."""
    ref = {"job": run.job_id, "artifact": f"checkpoints/step-{step}.st"}
    spec = dict(kinds()[KIND].minimal_example) | {"resume_from": ref}
    answer = client.post("/v1/jobs", json={"spec": spec})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def steps(run) -> list[int]:
    with make_session(write=False) as session:
        rows = artifacts.listing(session, run.tenant_id, run.job_id, "checkpoint")
        return sorted(row.step for row in rows)


def test_a_pinned_checkpoint_survives_retention_until_its_job_is_final(client, source, put):
    put(source, 1)
    job_id = follower(client, source, 1)
    for step in range(2, 7):
        put(source, step)
    carry_out(collection.collect())
    assert steps(source) == [1, 5, 6]
    assert len([*storage.list("t")]) == 3
    client.post(f"/v1/jobs/{job_id}/cancel")
    put(source, 7)
    assert steps(source) == [6, 7]


def test_bytes_that_a_later_run_replaced_are_still_there(client, source, put):
    old = put(source, 1)
    job_id = follower(client, source, 1)
    put(requeue(source), 1, b"other bytes")
    carry_out(collection.collect())
    with make_session(write=False) as session:
        pinned = session.get_one(Job, job_id).resolved_spec["resume_from"]
        key = artifacts.open_input(session, old.tenant_id, ArtifactRef(**pinned))
    assert key == old.storage_key
    assert b"".join(storage.open(key)) == b"1"
    client.post(f"/v1/jobs/{job_id}/cancel")
    carry_out(collection.collect())
    assert old.storage_key not in [info.key for info in storage.list("t")]


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_that_another_needs_is_not_deleted(client, source, put, state):
    put(source, 1)
    job_id = follower(client, source, 1)
    finish(source)
    run = claim() if state == "running" else None
    answer = client.delete(f"/v1/jobs/{source.job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert job_id in answer.json()["detail"]
    if run:
        finish(run)
    else:
        client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/jobs/{source.job_id}").status_code == 204


def test_what_went_away_after_it_was_pinned_is_no_input(client, source, put, monkeypatch):
    put(source, 1)
    note = holds.hold

    def late(session, job, spec):
        session.get_one(Job, source.job_id).deleted_at = utc_now()
        session.flush()
        note(session, job, spec)

    monkeypatch.setattr(holds, "hold", late)
    ref = {"job": source.job_id, "artifact": "checkpoints/step-1.st"}
    spec = dict(kinds()[KIND].minimal_example) | {"resume_from": ref}
    answer = client.post("/v1/jobs", json={"spec": spec})
    assert answer.status_code == 503
    assert "try again" in answer.json()["detail"]


def test_of_a_deletion_and_a_submission_at_once_one_wins(client, source, put):
    """Whoever comes first: no job is left that refers to a deleted one."""
    put(source, 1)
    finish(source)
    ref = {"job": source.job_id, "artifact": "checkpoints/step-1.st"}
    spec = dict(kinds()[KIND].minimal_example) | {"resume_from": ref}
    request = JobCreate.model_validate({"spec": spec})
    barrier, done = threading.Barrier(2), []

    def run(call):
        barrier.wait()
        try:
            with make_session() as session:
                call(session)
            done.append(call)
        except Exception as error:
            done.append(error)

    calls = [
        lambda session: jobs.submit(session, source.tenant_id, request),
        lambda session: jobs.delete(session, source.tenant_id, source.job_id),
    ]
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in done if not isinstance(each, Exception)]) == 1
