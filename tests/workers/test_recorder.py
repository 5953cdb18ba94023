"""A run's lines on their way into both databases: bounded, slowed down, never stuck."""

import os
import time

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from app.db.session import make_session
from app.db.tables import Artifact, Event, Job
from app.services import events
from app.services.child_lines import EventLine, MetricLine
from app.services.outcome import Outcome
from tests.app.factories import events_of, line, requeue, start_run
from tests.conftest import fresh_caches
from workers import recorder as recorders
from workers.guard import Guard
from workers.host import Grant
from workers.persist import LeaseLostError
from workers.recorder import Recorder
from workers.spans import RunSpans


class FakeChild:
    """A child that has ended; only whether it was killed counts."""

    def __init__(self, folder):
        self.folder = folder.resolve()
        self.log_path = folder / "log.txt"
        self.killed = False
        self.log_path.touch()

    def kill(self):
        self.killed = True

    def stop(self, reason, *, save):
        pass


@pytest.fixture
def make_recorder(settings, tmp_path, monkeypatch):
    """Call with settings to get the recorder of a new run; its guard does not tick."""

    def make(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"SEXTANT_{name.upper()}", str(value))
        fresh_caches()
        run = start_run()
        guard, child = Guard(run, Grant((), 1)), FakeChild(tmp_path)
        guard.child = child
        return Recorder(run, child, guard, RunSpans(run))

    return make


@pytest.fixture
def recorder(make_recorder):
    """The recorder of a new run."""
    return make_recorder()


def job_of(recorder):
    with make_session(write=False) as session:
        return session.get_one(Job, recorder.run.job_id)


def count(table):
    with make_session(write=False) as session:
        return session.scalar(select(func.count()).select_from(table))


def warn(number, text="w"):
    return line(type="event", event="warning", code=f"c{number}", message=text)


def leave_files(recorder, number, role="report"):
    for each in range(number):
        name = f"{role}-{each}"
        (recorder.child.folder / name).write_text("x")
        recorder._take(line(type="artifact", name=name, role=role, step=each))


# -- what no database takes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "error", "code": "data_invalid", "message": "the tensor x\0y \ud800"},
        {"type": "error", "code": "data_invalid", "message": "m", "hint": "h\0\udfff"},
        {"type": "artifact", "name": "a", "role": None},
        {"type": "artifact", "name": "a\0", "role": "report"},
        {"type": "artifact", "name": "missing", "role": "report"},
        {"type": "artifact", "name": "a", "role": "report", "step": 2**63},
        {"type": "result", "values": "none"},
    ],
)
def test_a_run_whose_lines_are_wrong_fails_and_is_over(recorder, fields):
    recorder.record(line(**fields))
    recorder.record(None)
    recorder.finish(Outcome(exit_code=0))
    job = job_of(recorder)
    assert job.status == "failed"
    assert job.error["code"] in ("internal", "data_invalid")
    assert "\0" not in str(job.error)


def test_a_result_with_nul_and_half_characters_is_kept_without(recorder):
    recorder.record(line(type="result", values={"a\0": ["b\ud800", float("nan")]}))
    recorder.finish(Outcome(exit_code=0, lineage={"x": 1}))
    assert not recorder.error
    assert recorder.result == {"a": ["b?", None]}


@pytest.mark.parametrize(
    "unfiltered",
    [
        MetricLine.model_construct(type="metric", step=2**63, at=None, values={"x": 1.0}),
        EventLine.model_construct(type="event", event="warning", _fields_set=set(), code="\ud800"),
    ],
)
def test_lines_that_the_database_refuses_fail_the_run_at_once(recorder, unfiltered):
    """As if the filter had a hole."""
    if isinstance(unfiltered, EventLine):
        unfiltered.__pydantic_extra__ = {"n": object()}
    recorder.record(unfiltered)
    recorder.record(None)
    assert recorder.child.killed
    recorder.finish(Outcome(signal=9))
    job = job_of(recorder)
    assert (job.status, job.error["code"]) == ("failed", "internal")
    assert "could not be stored" in job.error["message"]


def test_an_end_that_the_database_refuses_is_a_failure(recorder):
    recorder.finish(Outcome(exit_code=0, result={"x": object()}))
    job = job_of(recorder)
    assert (job.status, job.error["code"], job.result) == ("failed", "internal", None)


def test_a_broken_line_without_weight_is_left_out_with_one_warning(recorder):
    for step in (2**63, -1, 3):
        recorder.record(line(type="metric", step=step, values={"x": 1.0}))
    recorder.finish(Outcome(exit_code=0, result={}))
    assert job_of(recorder).status == "succeeded"
    (warning,) = events_of(recorder.run.job_id, "warning")
    assert warning.data["code"] == "broken_line"
    assert "step" in warning.data["message"]


def test_the_backlog_outlives_a_database_that_is_away(recorder, monkeypatch):
    write, away = events.record_many, iter([True, True, False, False, False])

    def sometimes(*args):
        if next(away):
            raise OperationalError("", None, Exception("database is locked"))
        return write(*args)

    monkeypatch.setattr(recorders, "RETRY_S", 0.01)
    monkeypatch.setattr(events, "record_many", sometimes)
    recorder.record(warn(1))
    recorder.record(None)
    assert not recorder.child.killed
    recorder.finish(Outcome(exit_code=0))
    assert [event.data["code"] for event in events_of(recorder.run.job_id, "warning")] == ["c1"]
    assert job_of(recorder).status == "succeeded"


def test_a_lost_run_holds_nothing_and_writes_nothing(recorder):
    requeue(recorder.run)
    recorder.guard.lost = True
    for number in range(50):
        recorder.record(warn(number, "x" * 60_000))
    assert not recorder._backlog
    with pytest.raises(LeaseLostError):
        recorder.finish(Outcome(exit_code=0))
    assert job_of(recorder).status == "running"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_that_is_no_file_any_more_is_not_read(recorder, tmp_path, kind):
    recorder.child.log_path.unlink()
    if kind == "pipe":
        os.mkfifo(recorder.child.log_path)
    else:
        (tmp_path / "secret").write_text("pepper")
        recorder.child.log_path.symlink_to(tmp_path / "secret")
    recorder.record(None)
    recorder.finish(Outcome(exit_code=0))
    assert count(Artifact) == 0


def test_a_pipe_in_place_of_an_artifact_does_not_hold_the_worker(recorder):
    os.mkfifo(recorder.child.folder / "weights")
    recorder.record(line(type="artifact", name="weights", role="weights"))
    recorder.record(None)
    assert recorder.error.code == "internal"


# -- stops are heard while files are stored --------------------------------------------------


def test_a_kill_ends_the_storing_of_files(recorder, monkeypatch):
    leave_files(recorder, 30)
    store = recorders.artifacts.store

    def kill_after_ten(*args):
        row = store(*args)
        if count(Artifact) == 10:
            with make_session() as session:
                job = session.get_one(Job, recorder.run.job_id)
                job.cancel_requested_at = job.updated_at
            recorder.guard.stop("cancel", 0, save=False)
        return row

    monkeypatch.setattr(recorders.artifacts, "store", kill_after_ten)
    recorder.finish(Outcome(exit_code=0, result={"done": True}))
    assert recorder.left_out == 20
    assert count(Artifact) == 10
    assert job_of(recorder).status == "cancelled"


def test_after_a_stop_what_a_later_run_needs_has_longer_than_other_files(recorder, monkeypatch):
    """A checkpoint counts chunks as done, so they are stored as long as it is."""
    recorder.guard.stop("shutdown", 60)
    monkeypatch.setattr(recorder.guard, "_stopped_at", time.monotonic() - 30)
    leave_files(recorder, 3)
    for role in ("chunk", "checkpoint"):
        leave_files(recorder, 1, role)
    recorder.finish(Outcome(exit_code=0))
    with make_session(write=False) as session:
        assert set(session.scalars(select(Artifact.role))) == {"chunk", "checkpoint"}
    job = job_of(recorder)
    assert job.status == "queued"  # not succeeded: three of its files are missing
    assert job.failures == 0


def test_files_reported_before_a_timeout_of_storing_are_no_success(recorder):
    leave_files(recorder, 2)
    recorder.guard._end("storage_full", "the worker's disk is full", "free space")
    recorder.finish(Outcome(exit_code=0))
    assert job_of(recorder).error["code"] == "storage_full"


# -- floods ----------------------------------------------------------------------------------


def test_a_batch_is_bounded_by_lines_and_by_bytes(recorder):
    for number in range(1200):
        recorder._take(warn(number))
    assert len(recorder._next_batch()) == recorders.BATCH_LINES
    recorder._backlog.clear()
    for number in range(100):
        recorder._take(warn(number, "x" * 30_000))
    batch = recorder._next_batch()
    assert 1 < len(batch) <= recorders.BATCH_BYTES // 30_000


def test_a_slow_database_makes_batches_smaller_and_has_pauses(recorder, monkeypatch):
    write = events.record_many

    def slowly(*args):
        time.sleep(0.5)
        return write(*args)

    monkeypatch.setattr(events, "record_many", slowly)
    for number in range(1000):
        recorder._take(warn(number))
    recorder._flush()
    assert count(Event) < 510  # one batch
    assert 1 <= recorder._batch_lines <= 250
    assert 1.4 < recorder._pause_s() < 10


def test_a_thousand_events_are_two_transactions(recorder, monkeypatch):
    calls = []
    write = events.record_many
    monkeypatch.setattr(
        events, "record_many", lambda *args: calls.append(len(args[2])) or write(*args)
    )
    for number in range(1000):
        recorder._take(warn(number))
    recorder.finish(Outcome(exit_code=0))
    assert calls[0] == 500
    assert sum(calls) == 1000
    assert [e.data["code"] for e in events_of(recorder.run.job_id, "warning")] == [
        f"c{number}" for number in range(1000)
    ]


@pytest.mark.parametrize("name", ["events", "metrics", "artifacts"])
def test_over_its_quota_a_run_is_slowed_down_and_says_so_once(make_recorder, monkeypatch, name):
    monkeypatch.setitem(recorders.PER_S, name, 1.0 if name == "artifacts" else 1000.0)
    recorder = make_recorder(**{f"quota_{name}": 2})
    began = time.monotonic()
    match name:
        case "events":
            lines = [warn(number) for number in range(1200)]
        case "metrics":
            lines = [line(type="metric", step=n, values={"x": n}) for n in range(1200)]
        case _:
            lines = []
            leave_files(recorder, 4)
    for each in lines:
        recorder.record(each)
    recorder.finish(Outcome(exit_code=0, result={}))
    assert time.monotonic() - began > 0.5
    told = [e for e in events_of(recorder.run.job_id, "warning") if e.data["code"] == "throttled"]
    assert len(told) == 1
    assert f"more than 2 {name}" in told[0].data["message"]
    assert job_of(recorder).status == "succeeded"


def test_a_full_backlog_waits_and_a_stop_lifts_the_quota(make_recorder):
    recorder = make_recorder(quota_events=1)
    recorder.record(warn(0))
    recorder.record(None)
    for number in range(1, 400):
        recorder._take(warn(number))
    time.sleep(recorder._pause_s())
    recorder._flush()
    assert recorder._pause_s() > 5
    recorder.guard.stop("cancel", 60)
    assert recorder._pause_s() < 4
