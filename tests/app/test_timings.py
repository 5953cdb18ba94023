"""Seconds of an estimate: noted from runs that succeeded, fitted, told with their interval."""

import math
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.db.session import database_now, make_session
from app.db.tables import Job, Run, RunTiming, Worker
from app.services import timings
from app.services.lifecycle import Outcome, finish
from app.services.timings import FittedLine, TimedWork
from models.catalog import kinds
from models.core.spec import Estimate
from tests.app.factories import add_job, claim, requeue
from tests.smallest import smallest

KIND = "terrain.simulate"
COST = {"work": 100.0, "work_unit": "cell-steps"}


def done(seconds: float, work: float = 100.0, *, device: str = "cpu", **values) -> None:
    """A run of ``KIND`` that took so long and has just succeeded."""
    add_job(kind=KIND, estimate={**COST, "work": work}, lineage={"device": device}, **values)
    run = claim()
    with make_session() as session:
        started = database_now(session) - timedelta(seconds=seconds)
        devices = [] if device == "cpu" else ["GPU-1"]
        changed = update(Run).where(Run.job_id == run.job_id)
        session.execute(changed.values(started_at=started, devices=devices))
    with make_session() as session:
        run = session.get_one(Run, (run.job_id, 1))
        finish(session, run, Outcome(exit_code=0))


def rows() -> list[RunTiming]:
    with make_session(write=False) as session:
        return list(session.scalars(select(RunTiming).order_by(RunTiming.at)))


def predicted(work: float = 100.0, device: str = "cpu", unit: str = "cell-steps", kind=KIND):
    with make_session(write=False) as session:
        cost = Estimate(work=work, work_unit=unit)
        return timings.predict(session, kind, cost, device, "default")


@pytest.fixture
def unshipped(monkeypatch):
    """As if the release came with no rates."""
    monkeypatch.setattr(timings, "shipped_timings", lambda _kind, _unit: ())


# -- noted -----------------------------------------------------------------------------------


def test_a_run_that_succeeded_is_noted(settings):
    done(12)
    row = rows()[0]
    assert (row.kind, row.device, row.work_unit, row.work) == (KIND, "cpu", "cell-steps", 100)
    assert row.seconds == pytest.approx(12, abs=0.5)


def test_runs_that_did_less_than_all_of_the_work_are_not_noted(settings):
    add_job(kind=KIND, estimate=COST)
    failed, again = claim(), None
    with make_session() as session:
        finish(session, failed, Outcome(exit_code=70))
    add_job(kind=KIND, estimate=COST)
    again = requeue(claim())
    with make_session() as session:
        finish(session, again, Outcome(exit_code=0))
    done(3, resolved_spec={"resume_from": {"job": "job_1", "artifact": "a"}})
    add_job(kind=KIND, estimate=None)
    old = claim()
    with make_session() as session:
        assert finish(session, old, Outcome(exit_code=0)).status == "succeeded"
    assert rows() == []


def test_the_newest_of_a_sort_are_kept(settings, monkeypatch):
    monkeypatch.setattr(timings, "KEPT", 3)
    for seconds in (1, 2, 3, 4, 5):
        done(seconds)
    done(9, device="GPU A")
    assert [round(row.seconds) for row in rows()] == [3, 4, 5, 9]


# -- fitted ----------------------------------------------------------------------------------


def test_the_line_through_exact_samples_is_found():
    samples = [TimedWork(work, 4 + 0.5 * work) for work in (1, 10, 1000)]
    line = timings.fit(samples, [])
    assert (line.start_s, line.s_per_work) == pytest.approx((4, 0.5))


@pytest.mark.parametrize(
    "samples", [[(1, 5), (100, 4)], [(1, 1), (2, 4), (3, 9)], [(7, 3), (7, 3.5)], [(7, 3)]]
)
def test_no_number_of_a_line_is_negative_and_it_meets_its_samples(samples):
    line = timings.fit([TimedWork(*each) for each in samples], [])
    assert line.start_s >= 0
    assert line.s_per_work >= 0
    assert line.start_s + line.s_per_work > 0
    middle = samples[len(samples) // 2]
    assert line.at(middle[0]) == pytest.approx(middle[1], rel=0.6)


def test_a_few_own_runs_scale_the_line_of_the_release_and_many_replace_it():
    shipped = [TimedWork(work, 4 + 0.5 * work) for work in (1, 1000)]
    slower = [TimedWork(1, 9.0)]
    line = timings.fit(slower, shipped)
    assert (line.start_s, line.s_per_work) == pytest.approx((8, 1))
    many = [TimedWork(work, 1 + work) for work in range(1, 1 + timings.OWN)]
    line = timings.fit(many, shipped)
    assert (line.start_s, line.s_per_work) == pytest.approx((1, 1))


def test_the_interval_widens_with_scattered_samples_and_unseen_sizes():
    line = FittedLine(0, 1)
    exact = [TimedWork(100, 100), TimedWork(200, 200)]
    assert timings.spread(line, exact, 150) == 2
    assert timings.spread(line, exact, 400) == pytest.approx(2 * 1.25)
    assert timings.spread(line, exact, 50) == pytest.approx(2 * 1.25)
    scattered = [TimedWork(100, 300), TimedWork(100, 100 / 3)]
    assert timings.spread(line, scattered, 100) == pytest.approx(math.exp(2 * math.log(3)))


# -- told ------------------------------------------------------------------------------------


def test_seconds_are_told_with_interval_device_and_runs(settings, unshipped):
    for seconds in (9, 10, 11):
        done(seconds)
    told = predicted()
    assert told["seconds"] == pytest.approx(10, rel=0.1)
    assert told["interval_s"] == pytest.approx([told["seconds"] / 2, told["seconds"] * 2], rel=0.1)
    assert (told["device"], told["runs"], told["no_seconds"]) == ("cpu", 3, None)
    assert predicted(200)["seconds"] == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(12.345, 12.3), (1.0, 1.0), (0.98765, 0.988), (0.0123, 0.012)]
)
def test_seconds_are_told_to_a_tenth_and_parts_of_one_to_a_thousandth(seconds, shown):
    assert timings._rounded(seconds) == shown


def test_what_nobody_measured_has_a_reason(settings, unshipped):
    told = predicted()
    assert told["seconds"] is told["interval_s"] is None
    assert told["no_seconds"] == f"no run of {KIND} (cell-steps) has been measured on a cpu yet"
    assert "on a GPU yet" in predicted(device="cuda")["no_seconds"]


def test_a_unit_or_device_of_its_own_has_seconds_of_its_own(settings, unshipped):
    done(10)
    done(2, device="GPU A")
    assert predicted(unit="cells")["seconds"] is None
    assert predicted(kind="terrain.compare")["seconds"] is None
    gpu = predicted(device="cuda")
    assert (gpu["device"], gpu["runs"]) == ("GPU A", 1)
    assert gpu["seconds"] == pytest.approx(2, abs=0.5)


def test_auto_is_a_gpu_where_a_worker_of_the_queue_has_one(settings, unshipped):
    done(10)
    done(2, device="GPU A")
    assert predicted(device="auto")["device"] == "cpu"
    with make_session() as session:
        now = database_now(session)
        fields = {"host": "h", "boot_id": "b", "pid": 1, "slots": 1, "slots_free": 1}
        session.add(Worker(id="w", queues=["default"], gpus=["GPU-1"], heartbeat_at=now, **fields))
    assert predicted(device="auto")["device"] == "GPU A"


@pytest.mark.parametrize("kind", kinds())
def test_the_smallest_spec_of_every_kind_has_seconds_before_any_run(client, kind):
    spec = smallest(kind)
    answer = client.post("/v1/jobs?dry_run=true", json={"spec": spec, "resources": CPU})
    assert answer.status_code == 200, answer.text
    told = answer.json()["estimate"]
    low, high = told["interval_s"]
    assert 0 < low < told["seconds"] < high
    assert (told["runs"], told["device"], told["no_seconds"]) == (0, "cpu", None)
    made = client.post("/v1/jobs", json={"spec": spec, "resources": CPU}).json()
    assert made["estimate"] == told
    with make_session(write=False) as session:
        assert session.get_one(Job, made["id"]).estimate["work"] == told["work"]


CPU = {"device": "cpu"}
