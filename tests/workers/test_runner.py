"""The runner against a stub child: events, stop, limits of the log, nothing left behind."""

import os
import signal
import time

import psutil
import pytest

from app.services.child_lines import BrokenLine, Line
from tests.service import wait_until
from workers import runner
from workers.host import Grant

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def start(folder) -> runner.Child:
    return runner.start(folder, Grant((), 1))


def drain(child: runner.Child) -> list[Line]:
    return [event for event in child.events(0.05) if event is not None]


def test_events_come_in_order_and_the_end_is_reported(stub, run_folder):
    stub("steps", steps=6, step_s=0)
    child = start(run_folder)
    events = drain(child)
    assert child.wait() == 0
    assert events[0].type == "hello"
    assert events[-1].type == "bye"
    assert [e.step for e in events if e.type == "metric"] == [1, 2, 3, 4, 5, 6]
    assert next(e for e in events if e.type == "result").values == {"total": 21}


def test_a_tick_comes_however_silent_the_child_is(stub, run_folder):
    stub("deaf")
    child = start(run_folder)
    began, ticks = time.monotonic(), 0
    for event in child.events(0.05):
        ticks += event is None
        if ticks == 10:
            child.kill()
    assert child.wait() == -signal.SIGKILL
    assert time.monotonic() - began < 15


def test_stop_ends_within_a_step_and_leaves_a_checkpoint(stub, run_folder):
    stub("steps", steps=10_000)
    child = start(run_folder)
    seen = []
    for event in child.events(0.05):
        seen += [event] if event else []
        if event and event.type == "metric" and event.step == 7:
            child.stop("cancel", save=True)
    assert child.wait() == 75
    last_step = max(e.step for e in seen if e.type == "metric")
    saved = [e for e in seen if e.type == "artifact"]
    assert last_step < 20
    assert saved[-1].step == last_step


def test_stop_without_save_leaves_none(stub, run_folder):
    stub("steps", steps=10_000)
    child = start(run_folder)
    seen = []
    for event in child.events(0.05):
        seen += [event] if event else []
        if event and event.type == "metric" and event.step == 2:
            child.stop("cancel", save=False)
    assert child.wait() == 75
    assert not [e for e in seen if e.type == "artifact" and e.step % 5]


def test_sigterm_means_stop_with_a_checkpoint(stub, run_folder):
    stub("steps", steps=10_000)
    child = start(run_folder)
    seen = []
    for event in child.events(0.05):
        seen += [event] if event else []
        if event and event.type == "metric" and event.step == 3:
            child.terminate()
    assert child.wait() == 75
    assert [e for e in seen if e.type == "artifact"]


def test_the_child_leaves_when_the_control_pipe_ends(stub, run_folder):
    stub("deaf")
    child = start(run_folder)
    next(event for event in child.events(0.05) if event and event.type == "hello")
    os.close(child._control)
    child._control = None
    assert child.process.wait(timeout=3) != 0
    child.wait()


def test_the_child_leaves_when_its_worker_stays_silent(stub, run_folder):
    stub("deaf")
    child = start(run_folder)
    next(event for event in child.events(0.05) if event and event.type == "hello")
    child.alive(0.5)
    assert child.process.wait(timeout=4) != 0
    child.wait()


def test_the_log_keeps_head_and_tail_and_broken_lines_are_skipped(stub, run_folder):
    stub("flood", worker_log_limit_bytes=4 * 2**20)
    child = start(run_folder)
    events = drain(child)
    assert child.wait() == 0
    text = child.log_path.read_bytes()
    assert 3 * 2**20 < len(text) < 4 * 2**20 + 100
    assert text.splitlines()[1] == b"first line"  # after the one that tells versions
    assert text.endswith(b"last line\n")
    assert b"bytes left out here" in text
    assert next(e for e in events if e.type == "result").values == {"done": True}


def test_the_end_of_a_line_that_is_too_long_is_no_line(stub, run_folder):
    stub("slip")
    child = start(run_folder)
    events = drain(child)
    assert child.wait() == 0
    assert not [e for e in events if e.type == "result"]
    assert [e.size_bytes for e in events if isinstance(e, BrokenLine)] == [65_536]
    assert [e for e in events if e.type == "event" and e.event == "warning"]


def test_unread_lines_hold_the_child_up_and_cost_bounded_memory(stub, run_folder):
    stub("storm")
    child = start(run_folder)
    wait_until(lambda: child._lines.full(), 10)
    time.sleep(0.2)
    assert runner.UNREAD_BYTES <= child._lines.qsize() < runner.UNREAD_BYTES + 100_000
    assert len(child._lines.queue) < 2100
    child.kill()
    began = time.monotonic()
    assert child.wait() == -signal.SIGKILL
    assert time.monotonic() - began < runner.REAP_S  # the reading thread has ended


def test_no_process_of_the_group_is_left(stub, run_folder):
    stub("parent")
    child = start(run_folder)
    drain(child)
    assert child.wait() == 0
    sleeper = int((run_folder / "sleeper").read_text())
    assert not psutil.pid_exists(sleeper)


def test_the_environment_holds_no_secret(stub, run_folder, monkeypatch):
    stub("deaf")
    monkeypatch.setenv("SEXTANT_AUTH_PEPPER", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    child = start(run_folder)
    next(event for event in child.events(0.05) if event and event.type == "hello")
    (below,) = psutil.Process(child.process.pid).children()
    environment = below.environ()
    child.kill()
    child.wait()
    assert "hush" not in environment.values()
    assert "SEXTANT_DATABASE_URL" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_crash_is_an_exit_code(stub, run_folder):
    stub("crash")
    child = start(run_folder)
    drain(child)
    assert child.wait() == -signal.SIGSEGV


def test_full_disk_has_its_own_code(stub, run_folder):
    stub("full")
    child = start(run_folder)
    events = drain(child)
    assert child.wait() == 70
    assert next(e for e in events if e.type == "error").code == "storage_full"
