"""Real processes: parts that die start again; nothing is left however the parent ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from app.local import lifeline, supervisor
from app.local import up as embedded
from app.local.supervisor import Part, Supervisor
from app.settings import Settings
from tests.service import free_port, wait_until


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


SLEEP = python("import time; time.sleep(600)")
# a part with a process of its own in the group, as Valkey under its starter
FAMILY = python(f"import subprocess; subprocess.run({SLEEP})")
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
STUBBORN = python(f"{DEAF}; time.sleep(600)")
OBEDIENT = python("import signal, sys, time; signal.signal(15, sys.exit); time.sleep(600)")


@pytest.fixture
def messages() -> list[str]:
    return []


def pid_of(part: Part) -> int:
    assert part.process is not None
    return part.process.pid


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_part_that_dies_starts_again_and_none_is_left(tmp_path, messages):
    part = Part("sleeper", SLEEP, 5)
    with Supervisor([part], tmp_path, messages.append):
        first = pid_of(part)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: part.process is not None and part.alive and pid_of(part) != first)
        second = psutil.Process(pid_of(part))
    assert gone([second])
    assert "sleeper ended with code -9; it starts again in 0.5 s" in messages[0]


def test_what_a_dead_part_left_behind_is_killed_first(tmp_path, messages):
    part = Part("family", FAMILY, 5)
    with Supervisor([part], tmp_path, messages.append):
        wait_until(lambda: len(family(pid_of(part))) == 2)
        orphan = family(pid_of(part))[1]
        os.kill(pid_of(part), signal.SIGKILL)
        wait_until(lambda: gone([orphan]))


def test_a_part_that_never_lives_is_tried_less_and_less_often(tmp_path, messages, monkeypatch):
    monkeypatch.setattr(supervisor, "BACK_OFF_S", (0.0, 0.0, 600.0))
    part = Part("broken", python("raise SystemExit(3)"), 5)
    with Supervisor([part], tmp_path, messages.append):
        wait_until(lambda: len(messages) == 3)
        time.sleep(1.0)
    assert len(messages) == 3
    assert "ended with code 3" in messages[0]


def test_parts_stop_in_reverse_order(tmp_path, messages):
    parts = [Part(name, OBEDIENT, 5) for name in ("first", "second")]
    ended: list[str] = []
    watched = Supervisor(parts, tmp_path, messages.append)
    end = watched._end

    def note(part: Part, patience_s: float) -> None:
        end(part, patience_s)
        ended.append(part.name)

    watched._end = note  # ty: ignore[invalid-assignment]
    with watched:
        time.sleep(0.5)
    assert ended == ["second", "first"]


def test_a_part_that_does_not_listen_is_killed(tmp_path, messages):
    part = Part("deaf", STUBBORN, 0.3)
    with Supervisor([part], tmp_path, messages.append):
        wait_until(lambda: (tmp_path / "deaf.log").read_text() == "deaf\n")
        process = psutil.Process(pid_of(part))
    assert gone([process])
    assert messages == ["deaf did not stop within 0.3 s and is killed"]


PARENT = f"""
import sys, time
from pathlib import Path
from app.local.supervisor import Part, Supervisor
parts = [Part(name, {FAMILY}, 5) for name in ("a", "b")]
with Supervisor(parts, Path(sys.argv[1]), print):
    time.sleep(600)
"""


def test_no_part_outlives_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    wait_until(lambda: len(family(parent.pid)) >= 6)  # two parts of two, the lifeline, the parent
    processes = family(parent.pid)[1:]
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(processes))


def test_the_lifeline_kills_what_does_not_listen():
    process = subprocess.Popen(STUBBORN, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as output:
        output.readline()
        lifeline.end({process.pid}, patience_s=0.3)
    assert process.wait(5) == -signal.SIGKILL


def test_a_new_lifeline_takes_over(tmp_path, messages):
    part = Part("sleeper", SLEEP, 5)
    with Supervisor([part], tmp_path, messages.append) as watched:
        first = watched._lifeline
        first.process.kill()
        wait_until(lambda: watched._lifeline is not first)
        assert watched._lifeline.alive


def test_a_path_too_long_or_odd_for_a_socket_moves_to_a_short_one(tmp_path):
    for name in ("x" * 120, "with space"):
        with embedded.ExitStack() as stack:
            found = embedded._broker_url(Settings(), tmp_path / name, stack, print)
            path = Path(found["SEXTANT_BROKER_URL"].removeprefix("redis+socket://"))
            assert len(bytes(path)) < embedded.SOCKET_PATH_MAX_BYTES
            assert path.parent.is_dir()
        assert not path.parent.exists()


def test_without_the_wheel_workers_poll(tmp_path, messages, monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with embedded.ExitStack() as stack:
        assert embedded._broker_url(Settings(), tmp_path, stack, messages.append) == {}
    assert "poll" in messages[0]


def test_a_second_one_on_the_same_folder_is_refused(tmp_path):
    with (
        embedded.only_one(tmp_path),
        pytest.raises(embedded.StartError, match="another"),
        embedded.only_one(tmp_path),
    ):
        pass


def test_ports():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not embedded.port_is_free("127.0.0.1", taken.getsockname()[1])
    assert embedded.port_is_free("127.0.0.1", embedded.free_port("127.0.0.1"))


class SomeoneElse(BaseHTTPRequestHandler):
    """The ready API of another `sextant up`, or no API at all."""

    instance = ""

    def do_GET(self) -> None:
        self.send_response(200)
        if self.instance:
            self.send_header("Sextant-Instance", self.instance)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """No lines among the output of the tests."""


@pytest.mark.parametrize("instance", ["theirs", ""])
def test_the_readiness_of_another_api_is_not_ours(tmp_path, messages, instance):
    """Two starts at one moment find the port free; the API of one of them cannot listen."""
    handler = type("Handler", (SomeoneElse,), {"instance": instance})
    api = Part("api", python("raise SystemExit(1)"), 5)
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with (
            Supervisor([api], tmp_path, messages.append) as supervisor,
            pytest.raises(embedded.StartError, match="did not come up"),
        ):
            embedded._wait_until_ready(url, "ours", supervisor)
        server.shutdown()


# -- the whole service ---------------------------------------------------------------------------

# a suite that a shell started in the background inherits a Ctrl-C that is ignored
UP = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from app.cli import main; main()"
)


class Up:
    """``sextant up`` in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SEXTANT_")}
        command = [sys.executable, "-c", UP, "up"]
        command += ["--bind", f"127.0.0.1:{self.port}", *options]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=clean | {"SEXTANT_STATE_DIR": str(folder / "state")},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def part(self, words: str) -> psutil.Process | None:
        for process in family(self.process.pid):
            with suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    return process
        return None

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=1).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def up(tmp_path) -> Iterator[Up]:
    started = Up(tmp_path)
    yield started
    if started.process.poll() is None:
        processes = family(started.process.pid)
        started.process.kill()
        wait_until(lambda: gone(processes), 60)


def test_the_service_survives_its_parts_and_ctrl_c_leaves_nothing(up, tmp_path):
    wait_until(lambda: "key: sx_" in up.output.read_text(), 60, "the service is ready")
    assert up.url in up.output.read_text()
    for words in ("app.local.broker", "app.serve", "workers"):
        first = up.part(words)
        assert first is not None, words
        first.kill()
        wait_until(lambda w=words, f=first: (p := up.part(w)) and p.pid != f.pid, 20, words)
    wait_until(up.answers, 30, "the API answers again")
    processes = family(up.process.pid)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert gone(processes)
    assert up.output.read_text().rstrip().endswith("stopped")
    logs = {path.name for path in (tmp_path / "state" / "logs").iterdir()}
    assert logs >= {"api.log", "worker.log", "broker.log"}


def test_a_taken_port_is_refused_in_words(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        second = Up(tmp_path, "--bind", f"127.0.0.1:{taken.getsockname()[1]}")
        assert second.process.wait(30) == 1
    assert "is taken; stop what listens there or use --bind" in second.output.read_text()
