"""What a run reports: rows, order without gaps, fence, rate and remaining time."""

import math
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from app.db.session import make_session
from app.db.tables import Job, Metric
from app.services import events, lifecycle
from app.services.child_lines import ProgressLine
from app.services.events import Pace
from tests.app import factories
from tests.app.factories import events_of, finish, requeue, start_run


def record(run, *lines):
    with make_session() as session:
        return events.record_many(session, run, [factories.line(**fields) for fields in lines])


def metric(step, **values):
    return {"type": "metric", "step": step, "at": time.time(), "values": values}


def progress(step, total=100, **more):
    return {"type": "progress", "step": step, "total_steps": total, "unit": "step", **more}


def job(job_id):
    with make_session(write=False) as session:
        return session.get_one(Job, job_id)


def metrics_of(job_id):
    with make_session(write=False) as session:
        rows = session.scalars(select(Metric).where(Metric.job_id == job_id))
        return {(row.name, row.step, row.run_number): (row.value, row.non_finite) for row in rows}


def test_a_repeated_batch_changes_nothing(settings):
    run = start_run()
    batch = [metric(1, loss=0.5, acc=0.25), metric(2, loss="nan", acc="-inf"), metric(2, acc=1)]
    assert record(run, *batch)
    assert record(run, *batch)
    assert metrics_of(run.job_id) == {
        ("loss", 1, 1): (0.5, None),
        ("acc", 1, 1): (0.25, None),
        ("loss", 2, 1): (None, "nan"),
        ("acc", 2, 1): (1.0, None),
    }


def test_metric_and_progress_events_are_sampled(settings):
    run = start_run()
    for step in range(1, 6):
        record(run, metric(step, loss=step), progress(step))
    assert [e.data for e in events_of(run.job_id, "metric")] == [
        {"step": 1, "values": {"loss": 1.0}}
    ]
    assert [e.data["step"] for e in events_of(run.job_id, "progress")] == [1]
    assert job(run.job_id).progress["step"] == 5
    assert len(metrics_of(run.job_id)) == 5


def test_a_run_that_lost_its_job_writes_nothing(settings):
    old = start_run()
    new = requeue(old)
    before = len(events_of(old.job_id))
    warning = {"type": "event", "event": "warning", "code": "c", "message": "m"}
    assert not record(old, metric(1, loss=1.0), progress(1), warning)
    assert len(events_of(old.job_id)) == before
    assert not metrics_of(old.job_id)
    assert job(old.job_id).progress is None
    assert record(new, metric(1, loss=2.0))
    finish(new)
    assert not record(new, metric(2, loss=2.0))


def test_lineage_is_merged_and_warnings_become_events(settings):
    run = start_run(lineage={"seed": 1})
    record(
        run,
        {"type": "event", "event": "lineage", "torch": "2"},
        {"type": "event", "event": "warning", "code": "slow", "message": "m\0\ud800"},
        {"type": "event", "event": "phase", "name": "two", "loss": math.nan},
    )
    assert job(run.job_id).lineage == {"seed": 1, "torch": "2"}
    assert events_of(run.job_id, "warning")[0].data == {"code": "slow", "message": "m?"}
    assert events_of(run.job_id, "log")[0].data == {"event": "phase", "name": "two", "loss": None}


@pytest.mark.parametrize(
    "line",
    [
        {"type": "metric", "step": -1, "values": {"x": 1}},
        {"type": "metric", "step": 2**53, "values": {"x": 1}},
        {"type": "metric", "step": 1, "values": {"x": "much"}},
        {"type": "metric", "step": 1, "values": {"": 1}},
        {"type": "metric", "step": 1, "values": {"x": 10**400}},
        {"type": "metric", "step": 1, "at": 1e300, "values": {"x": 1}},
        {"type": "metric"},
        {"type": "progress", "step": None},
        {"type": "event"},
        {"type": "what"},
        {},
        {"type": "metric", "step": 2**63, "values": {"x": 1}},
        {"type": "progress", "step": 2**63, "total_steps": 2**63},
        {"type": "artifact", "name": "a", "role": None},
    ],
)
def test_a_broken_line_is_skipped(settings, line):
    run = start_run()
    assert record(run, line, metric(1, loss=1.0))
    assert metrics_of(run.job_id) == {("loss", 1, 1): (1.0, None)}


def test_seq_has_no_gaps_with_concurrent_writers(settings):
    run = start_run()

    def write(name):
        for number in range(10):
            with make_session() as session:
                lifecycle.add_event(session, run.job_id, name, {"n": number}, run)
                if number % 3 == 2:  # what is rolled back must leave no gap
                    session.rollback()

    threads = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = events_of(run.job_id)
    assert [event.seq for event in found] == [*range(1, len(found) + 1)]
    for name in ("w0", "w1", "w2", "w3"):
        numbers = [event.data["n"] for event in found if event.type == name]
        assert numbers == sorted(numbers)


def test_pages_join_to_the_whole(settings):
    run = start_run()
    with make_session() as session:
        for number in range(7):
            lifecycle.add_event(session, run.job_id, "log", {"n": number}, run)
    found, after = [], 0
    with make_session(write=False) as session:
        while rows := events.page(session, run.tenant_id, run.job_id, after, 3):
            found += [row.seq for row in rows]
            after = rows[-1].seq
        assert not events.page(session, "ten_other", run.job_id, 0, 3)
    assert found == [event.seq for event in events_of(run.job_id)]


def test_two_thousand_points_a_second(settings):
    run = start_run()
    batches = [
        [metric(step, a=1.0, b=2.0, c=3.0, d=4.0) for step in range(n * 500, (n + 1) * 500)]
        for n in range(3)
    ]
    record(run, *batches[0])
    start = time.perf_counter()
    for batch in batches[1:]:
        record(run, *batch)
    per_second = 4000 / (time.perf_counter() - start)
    with make_session(write=False) as session:
        assert session.scalar(select(func.count()).select_from(Metric)) == 6000
    assert per_second > 2000


# -- rate and remaining time -----------------------------------------------------------------


def line(step, total=1000, phase=None):
    return ProgressLine(type="progress", step=step, total_steps=total, phase=phase)


def test_no_estimate_from_fewer_than_three_samples():
    pace = Pace()
    for second in range(4):
        assert pace.eta_s(line(second)) is None
        pace.take(line(second), float(second))
    assert pace.eta_s(line(3)) == pytest.approx(997)


@given(
    rate=st.floats(0.5, 500),
    start_up=st.floats(0, 300),
    seed=st.integers(0, 2**16),
)
def test_eta_within_15_percent_after_a_fifth_of_the_run(rate, start_up, seed):
    noise, pace, total = random.Random(seed), Pace(), 2000  # noqa: S311  # no secret
    now, ends_at = start_up, start_up + total / rate
    done = 0.0
    while done < total / 5:
        pace.take(line(int(done), total), now)
        passed = max(1.0, 1 / rate) * noise.uniform(0.5, 1.5)
        now, done = now + passed, done + passed * rate
    if pace.samples >= 3:
        left = pace.eta_s(line(int(done), total))
        assert left == pytest.approx(ends_at - now, rel=0.15)


def test_a_new_phase_or_a_restart_is_no_progress():
    pace = Pace()
    pace.take(line(0, phase="a"), 0.0)
    pace.take(line(10, phase="a"), 1.0)
    pace.take(line(10, phase="b"), 500.0)  # a long validation in between
    pace.take(line(20, phase="b"), 501.0)
    pace.take(line(5, phase="b"), 502.0)  # fallen back to a checkpoint
    assert pace.rate == pytest.approx(10)
    assert pace.samples == 2


def test_progress_of_a_job(settings):
    run = start_run()
    record(run, progress(25, 100, epoch=2, phase="fit"))
    found = job(run.job_id).progress
    assert found["fraction"] == 0.25
    assert (found["epoch"], found["phase"], found["rate_unit"]) == (2, "fit", "step/s")
    assert found["rate"] is None
    assert found["eta_s"] is None
    record(run, progress(26, None))
    assert job(run.job_id).progress["fraction"] is None
