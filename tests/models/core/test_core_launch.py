"""Two ranks on a CPU under torchrun: one report, one training, stops and errors relayed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from models.core import launch

ROOT = Path(__file__).parents[3]
SPEC = {
    "kind": "dynamic_downsampling.train",
    "model": {"name": "resnet8"},
    "data": {"dataset": "digits"},
    "images": {"subset": 64, "image_size": 16},
    "max_steps": 8,
    "batch_size": 16,
}
NOTE_THREADS = """
import atexit, os, pathlib

def note():
    names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    pathlib.Path("threads-" + os.environ["RANK"]).write_text("".join(names))

if "RANK" in os.environ:
    with open("ranks", "a") as pids:
        print(os.getpid(), file=pids)
    atexit.register(note)
"""


@pytest.fixture
def start(tmp_path):
    pytest.importorskip("sklearn", reason="extra samples is not installed")
    started = []

    def launch(**fields):
        (tmp_path / "spec.json").write_text(json.dumps(SPEC | fields))
        (tmp_path / "resume").mkdir(exist_ok=True)
        (tmp_path / "sitecustomize.py").write_text(NOTE_THREADS)
        command = [sys.executable, "-m", "models", "run", str(tmp_path), "--ranks", "2"]
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=log, stderr=log
            )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.wait()


def events(folder, kind=None):
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [e for e in map(json.loads, lines) if kind in (None, e["type"])]


def wait_for_step(folder):
    end = time.monotonic() + 90
    while time.monotonic() < end and not events(folder, "metric"):
        time.sleep(0.1)
    assert events(folder, "metric"), (folder / "log").read_text()[-3000:]


def pids(folder):
    return [int(line) for line in (folder / "ranks").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_behind(folder):
    """Threads of the group while interpreters went down; one that wakes then aborts its process."""
    notes = [(folder / f"threads-{rank}").read_text().split() for rank in range(2)]
    return [name for note in notes for name in note if "gloo" in name]


def test_two_ranks_report_once(start, tmp_path):
    process = start()
    assert process.wait(120) == 0, (tmp_path / "log").read_text()[-3000:]
    assert len(events(tmp_path, "hello")) == len(events(tmp_path, "bye")) == 1
    assert len(events(tmp_path, "result")) == 1
    steps = [e["step"] for e in events(tmp_path, "metric") if "loss" in e["values"]]
    assert steps == sorted(set(steps))
    assert len(pids(tmp_path)) == 2
    assert load_file(tmp_path / "weights.safetensors")
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("first", "expected"), [("echo 0 > ranks.exit", None), ("echo 64 > ranks.exit", 64)]
)
def test_rank_0_says_how_a_run_ended(new_run, tmp_path, monkeypatch, first, expected):
    """Whatever torchrun makes of the others."""
    run = new_run()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncd {run.dir}\n{first}\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    if expected is None:
        launch.torchrun(run, 2)
        return
    with pytest.raises(launch.RanksEndedError) as ended:
        launch.torchrun(run, 2)
    assert ended.value.exit_code == expected


@pytest.mark.slow
def test_stop_is_relayed(start, tmp_path):
    process = start(max_steps=100_000)
    wait_for_step(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert events(tmp_path, "artifact")[-1]["role"] == "checkpoint"
    assert not any(alive(pid) for pid in pids(tmp_path))
    assert not left_behind(tmp_path)


@pytest.mark.slow
def test_errors_keep_their_exit_code(start, tmp_path):
    process = start(batch_size=15)
    assert process.wait(120) == 64
    (error,) = events(tmp_path, "error")
    assert error["code"] == "spec_invalid"
    assert "multiple of the 2 devices" in error["message"]


@pytest.mark.slow
def test_ranks_end_with_their_launcher(start, tmp_path):
    process = start(max_steps=100_000)
    wait_for_step(tmp_path)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(alive(pid) for pid in pids(tmp_path)):
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids(tmp_path))
