"""What a child can reach, by a stub that tries; what it leaves behind, by one that hides it."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from app import storage
from app.settings import get_settings
from models.core import confine
from tests.service import wait_until
from workers import containment, runner
from workers import run_folder as folders
from workers.host import Grant

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.skipif(sys.platform != "linux", reason="children are confined on Linux alone"),
]
landlock = pytest.mark.skipif(not confine.landlock_version(), reason="a kernel without Landlock")
filtered = pytest.mark.skipif(not confine.can_filter(), reason="no numbers of system calls")


@pytest.fixture
def outside(settings) -> Path:
    """A file of the service that no child needs, of this process's user."""
    path = settings.state_dir / "admin.key"
    path.parent.mkdir(exist_ok=True)
    path.write_text("hush")
    return path


@pytest.fixture
def reach(stub, run_folder, monkeypatch):
    """Run the stub that tries, by name and argument; what came of each."""

    def reach(**tries: object) -> dict[str, str]:
        monkeypatch.setenv("LC_REACH", json.dumps({k: str(v) for k, v in tries.items()}))
        child = runner.start(run_folder, Grant((), 1))
        lines = [line for line in child.events(0.05) if line is not None]
        assert child.wait() == 0, (run_folder / "log.txt").read_text()
        return next(line.values for line in lines if line.type == "result")

    stub("reach")
    return reach


@landlock
def test_files_of_the_service_are_out_of_reach(reach, outside, run_folder):
    found = reach(
        read=outside,
        write=outside,
        remove=outside,
        list=outside.parent,
        write_new=outside.with_name("new"),
        read_own=run_folder / "spec.json",
        write_own=run_folder / "weights.safetensors",
    )
    refused = dict.fromkeys(("read", "write", "remove", "list", "write_new"), "EACCES")
    assert found == refused | {"read_own": "done", "write_own": "done"}
    assert outside.read_text() == "hush"


def test_the_environment_of_the_worker_is_out_of_reach(reach):
    """Which holds the address of the database and the pepper."""
    pid = os.getpid()
    found = reach(read_environ=f"/proc/{pid}/environ", read_memory=f"/proc/{pid}/mem")
    assert set(found.values()) == {"EACCES"}


@filtered
def test_the_worker_cannot_be_traced(reach):
    assert reach(trace="") == {"trace": "EPERM"}


@pytest.mark.skipif(confine.landlock_version() < 6, reason="Landlock before its version 6")
def test_the_worker_cannot_be_signalled(reach):
    assert reach(kill=os.getpid()) == {"kill": "EPERM"}


@filtered
def test_no_network_of_any_kind(reach, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        port = server.getsockname()[1]
        found = reach(tcp=port, udp=port, unix=tmp_path / "socket")
    assert set(found.values()) == {"EACCES"}


def test_the_network_stays_where_the_operator_or_several_gpus_ask_for_it(reach, stub):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = containment.prefix(Path("/x"), Grant(("a", "b"), 1), "run", 0)
        assert "network=all" in command
        assert "network=local" in containment.prefix(Path("/x"), Grant(("a",), 1), "run", 0)
        stub("reach", worker_network="true")
        assert reach(tcp=port) == {"tcp": "done"}


@landlock
@filtered
def test_inputs_are_copies_that_no_child_changes(reach, settings, run_folder, tmp_path):
    """Not the bytes of the store under another name, which its user could write or lock."""
    (tmp_path / "weights").write_bytes(b"weights")
    put = storage.put("t/a/weights", tmp_path / "weights")
    stored, copy = storage.local_path("t/a/weights"), run_folder / "inputs" / put.sha256
    mode = stored.stat().st_mode
    assert folders.fetch("t/a/weights", copy, put.sha256)
    assert not stored.samefile(copy)
    tries = {"chmod": copy, "chmod_stored": stored, "write": stored, "remove": stored}
    assert reach(**tries, read=copy) == {
        **{"chmod": "EPERM", "chmod_stored": "EPERM", "write": "EACCES", "remove": "EACCES"},
        "read": "done",
    }
    assert (stored.read_bytes(), stored.stat().st_mode) == (b"weights", mode)
    assert copy.stat().st_mode & 0o777 == 0o400


def test_a_file_of_ten_gibibytes_is_a_failure_with_a_way_out(stub, run_folder):
    stub("huge")
    child = runner.start(run_folder, Grant((), 1))
    lines = [line for line in child.events(0.05) if line is not None]
    assert child.wait() == 70
    error = next(line for line in lines if line.type == "error")
    assert error.code == "storage_full"
    assert "SEXTANT_WORKER_FILE_LIMIT_BYTES" in error.hint
    assert (run_folder / "huge").stat().st_size == 0


@pytest.mark.parametrize("way", ["end", "kill"])
def test_a_daemon_does_not_outlive_its_run(stub, run_folder, monkeypatch, way):
    """Forked twice, with a session of its own and no descriptor of the run."""
    stub("daemon")
    if way == "kill":
        monkeypatch.setenv("LC_STAY", "1")
    child = runner.start(run_folder, Grant((), 1))
    pid = 0
    for line in child.events(0.05):
        if line is not None and line.type == "result":
            pid = int(line.values["daemon"])
            assert psutil.pid_exists(pid)
            if way == "kill":
                child.kill()
    assert child.wait() == (0 if way == "end" else -signal.SIGKILL)
    assert pid
    assert not psutil.pid_exists(pid)


def test_a_daemon_does_not_outlive_its_worker(stub, run_folder, monkeypatch):
    """Nor where the worker is killed: the init of the child sees it."""
    stub("daemon")
    monkeypatch.setenv("LC_STAY", "1")
    code = (
        "import sys, pathlib; from workers import runner; from workers.host import Grant;"
        "child = runner.start(pathlib.Path(sys.argv[1]), Grant((), 1));"
        "[None for line in child.events(0.05)]"
    )
    worker = psutil.Popen([sys.executable, "-c", code, str(run_folder)])
    wait_until(lambda: (run_folder / "daemon").exists() and worker.children(recursive=True), 30)
    wait_until(lambda: (run_folder / "daemon").read_text(), 5)
    pid = int((run_folder / "daemon").read_text())
    worker.kill()
    worker.wait()
    wait_until(lambda: not psutil.pid_exists(pid), 15, "the daemon has ended")


def test_a_check_may_not_write_what_later_runs_execute(reach, run_folder, monkeypatch):
    """The bytes that it reads are the strangest; compiled code is shared between runs."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert not [word for word in containment.prefix(run_folder, Grant((), 1), "check", 0)
                if word.startswith("write=") and "cache" in word]  # fmt: skip
    cached = get_settings().state_dir.resolve() / "cache"
    words = containment.prefix(run_folder, Grant((), 1), "run", 0)
    assert f"write={cached / 'numba'}" in words


def test_a_readable_folder_around_the_state_folder_is_only_listed(settings, monkeypatch, tmp_path):
    """As a checkout on PYTHONPATH, in which ``sextant-state`` lies."""
    around = str(settings.state_dir.parent)
    monkeypatch.setenv("PYTHONPATH", around)
    monkeypatch.setattr(sys, "path", [*sys.path, around])
    words = containment.prefix(tmp_path / "run", Grant((), 1), "run", 0)
    assert f"list={around}" in words
    assert f"read={around}" not in words


def test_without_confinement_limits_and_init_stay(stub, run_folder):
    stub("huge", worker_confined="false")
    words = containment.prefix(run_folder, Grant((), 1), "run", 512)
    assert not [word for word in words if word.startswith(("read=", "network="))]
    assert f"address_space={512 * 2**20}" in words
    child = runner.start(run_folder, Grant((), 1))
    assert [line for line in child.events(0.05) if line and line.type == "error"]
    assert child.wait() == 70
