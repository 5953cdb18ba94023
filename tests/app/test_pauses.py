"""Pause and resume: of waiting and running jobs, twice, and against everything else at once."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from app.db.session import make_session
from app.db.tables import Job, WebhookDelivery
from app.errors import ConflictError
from app.services import dependencies, jobs, lifecycle, pauses, webhooks
from app.services.keys import DEFAULT_TENANT
from app.services.lifecycle import Outcome
from tests.app.factories import WORKER, add_job, claim, events_of, finish, start_run

STOPPED = Outcome(exit_code=75, stop_reason="pause")


def change(call, job_id: str):
    with make_session() as session:
        return call(session, DEFAULT_TENANT, job_id)


def end(run, outcome: Outcome):
    with make_session() as session:
        return lifecycle.finish(session, run, outcome)


def read(job_id: str):
    with make_session(write=False) as session:
        return jobs.read(session, DEFAULT_TENANT, job_id)


def state(job_id: str) -> tuple[str, str | None]:
    found = read(job_id)
    return found.status, found.status_reason


def claimed():
    with make_session() as session:
        return lifecycle.claim(session, WORKER, "default")


def renewal(run):
    with make_session() as session:
        return lifecycle.renew(session, run)


def told(job_id: str) -> list[tuple[str, str | None]]:
    return [(e.data["status"], e.data["status_reason"]) for e in events_of(job_id, "status")]


def test_a_queued_job_is_held_and_goes_on(settings):
    job_id, other = add_job(), add_job()
    assert change(pauses.pause, job_id)
    assert not change(pauses.pause, job_id)
    assert state(job_id) == ("queued", "paused")
    assert read(job_id).queue_position is None
    assert claim().job_id == other
    assert claimed() is None
    assert change(pauses.resume, job_id)
    assert not change(pauses.resume, job_id)
    assert claim().job_id == job_id
    assert told(job_id) == [("queued", "paused"), ("queued", None), ("running", "starting")]


def test_a_running_job_stops_without_a_failure_and_is_held(settings):
    run = start_run()
    assert not renewal(run).pause
    change(pauses.pause, run.job_id)
    assert state(run.job_id) == ("running", "pausing")
    assert renewal(run).pause
    end(run, STOPPED)
    assert state(run.job_id) == ("queued", "paused")
    assert claimed() is None
    change(pauses.resume, run.job_id)
    again = claim()
    assert (again.job_id, again.number, read(run.job_id).run_number) == (run.job_id, 2, 2)
    with make_session(write=False) as session:
        assert session.get_one(Job, run.job_id).failures == 0
        assert [row.outcome for row in jobs.runs(session, DEFAULT_TENANT, run.job_id)] == [
            "paused", None
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(exit_code=0), ("succeeded", None)),
        (Outcome(signal=9, stop_reason="pause"), ("queued", "paused")),
        (Outcome(signal=9), ("queued", "paused")),
        (Outcome(exit_code=75, stop_reason="shutdown"), ("queued", "paused")),
        (Outcome(exit_code=70), ("queued", "paused")),
    ],
)
def test_what_the_end_of_a_run_means_while_it_is_to_be_held(settings, outcome, expected):
    run = start_run()
    change(pauses.pause, run.job_id)
    end(run, outcome)
    assert state(run.job_id) == expected
    assert claimed() is None
    assert (read(run.job_id).paused_at is None) == (expected[0] == "succeeded")


def test_a_worker_that_is_lost_meanwhile(settings):
    run = start_run()
    change(pauses.pause, run.job_id)
    with make_session() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(Job).values(lease_expires_at=past))
    with make_session() as session:
        assert lifecycle.expire(session) == [run.job_id]
    assert state(run.job_id) == ("queued", "paused")
    assert end(run, STOPPED) is None
    change(pauses.resume, run.job_id)
    assert state(run.job_id) == ("queued", "backoff")


def test_resumed_before_its_child_has_stopped(settings):
    run = start_run()
    change(pauses.pause, run.job_id)
    assert renewal(run).pause
    change(pauses.resume, run.job_id)
    assert not renewal(run).pause
    end(run, STOPPED)
    assert claim().job_id == run.job_id


def test_cancel_wins(settings):
    waiting, run = add_job(), None
    change(pauses.pause, waiting)
    run = start_run()
    change(pauses.pause, run.job_id)
    for job_id in (waiting, run.job_id):
        with make_session() as session:
            jobs.cancel(session, DEFAULT_TENANT, job_id, "graceful", save=True)
    assert state(waiting) == ("cancelled", None)
    assert state(run.job_id) == ("running", "cancelling")
    assert renewal(run).cancel_mode == "graceful"
    end(run, STOPPED)
    assert state(run.job_id) == ("cancelled", None)
    for call in (pauses.pause, pauses.resume):
        with pytest.raises(ConflictError, match="final"):
            change(call, run.job_id)


def test_one_that_is_being_cancelled_is_not_paused(settings):
    run = start_run()
    with make_session() as session:
        jobs.cancel(session, DEFAULT_TENANT, run.job_id, "graceful", save=True)
    with pytest.raises(ConflictError, match="being cancelled"):
        change(pauses.pause, run.job_id)


def test_pauses_and_claims_at_once_leave_each_job_held_or_told_to_stop(settings):
    ids = [add_job() for _ in range(12)]
    runs = []

    def take():
        while (run := claimed()) is not None:
            runs.append(run)

    def hold():
        for job_id in ids[::-1]:
            change(pauses.pause, job_id)

    threads = [threading.Thread(target=call) for call in (take, hold, take)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = {run.job_id for run in runs}
    for job_id in ids:
        expected = ("running", "pausing") if job_id in taken else ("queued", "paused")
        assert state(job_id) == expected
    assert all(renewal(run).pause for run in runs)


def test_the_time_to_wait_in_the_queue_begins_anew(settings):
    limits = {"timeout_s": 60, "queue_timeout_s": 30, "max_runs": 3}
    past = datetime.now(UTC) - timedelta(seconds=1)
    job_id = add_job(limits=limits, queue_timeout_at=past)
    change(pauses.pause, job_id)
    with make_session() as session:
        assert lifecycle.time_out_queued(session) == []
    change(pauses.resume, job_id)
    with make_session() as session:
        assert lifecycle.time_out_queued(session) == []
        left = session.get_one(Job, job_id).queue_timeout_at - datetime.now(UTC)
    assert timedelta(seconds=20) < left <= timedelta(seconds=31)


def test_one_that_waits_for_another_stays_held_once_that_has_succeeded(client, spec):
    first = client.post("/v1/jobs", json={"spec": spec}).json()["id"]
    second = client.post("/v1/jobs", json={"spec": spec, "depends_on": [first]}).json()["id"]
    assert client.post(f"/v1/jobs/{second}/pause", json={}).status_code == 202
    finish(claim())
    with make_session() as session:
        dependencies.settle(session, second)
    assert state(second) == ("queued", "paused")
    assert claimed() is None
    client.post(f"/v1/jobs/{second}/resume", json={})
    assert claim().job_id == second


def test_over_http(client, spec):
    job = client.post("/v1/jobs", json={"spec": spec}).json()
    path = f"/v1/jobs/{job['id']}"
    held = client.post(f"{path}/pause", json={})
    assert (held.status_code, held.json()["status_reason"]) == (202, "paused")
    assert held.json()["paused_at"] is not None
    assert client.post(f"{path}/pause").status_code == 200
    assert client.post(f"{path}/resume").json()["paused_at"] is None
    finish(claim())
    refused = client.post(f"{path}/pause", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert client.post(f"/v1/jobs/job_{'0' * 32}/pause", json={}).status_code == 404


def test_webhooks_are_told(client, monkeypatch):
    monkeypatch.setattr(webhooks, "check_url", str)
    with make_session() as session:
        webhooks.create(session, DEFAULT_TENANT, "https://example.org", progress=False)
    run = start_run()
    change(pauses.pause, run.job_id)
    end(run, STOPPED)
    change(pauses.resume, run.job_id)
    with make_session(write=False) as session:
        rows = session.query(WebhookDelivery).order_by(WebhookDelivery.id)
        assert [row.type for row in rows] == ["job.started", "job.paused", "job.resumed"]
