"""Starts and watches a child process: its events, its log, its stop, its end.

The child holds two pipes: events come from it, stop requests go to it. When this process dies, the
control pipe ends and the child leaves by itself. On Linux the process that is started here is the
child's init (``models/core/confine.py``): it confines the child, ends as the child did, and only
once no process that the child has started is left.
"""

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from app.services.child_lines import Line, read_line
from app.settings import get_settings
from workers import containment
from workers.host import Grant
from workers.line_queue import LineQueue
from workers.logfile import CappedLog

LINE_LIMIT_BYTES = 65_536
UNREAD_BYTES = 2**20  # unread lines beyond this hold the child up
REAP_S = 5.0


class Child:
    """A running child and the threads that drain it."""

    def __init__(
        self, process: subprocess.Popen[bytes], events: int, control: int, folder: Path
    ) -> None:
        self.process = process
        self.folder = folder
        self._control: int | None = control
        self._control_lock = threading.Lock()
        self._reaped = False
        self._lines = LineQueue(UNREAD_BYTES)
        self.log_path = folder / "log.txt"
        self._log_thread = _thread(self._drain_log)
        self._event_thread = _thread(self._drain_events, events)

    # -- its reports -------------------------------------------------------------------------

    def events(self, tick: float) -> Iterator[Line | None]:
        """Each line, and None at least once every ``tick`` seconds; ends with the child.

        Leftovers of the group are killed before the end: they could hold the pipe open.
        """
        next_tick = time.monotonic() + tick
        while True:
            wait_s = max(0.0, next_tick - time.monotonic())
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=wait_s)
                if line is None:
                    return
                yield line
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + tick
                if self.process.poll() is not None:
                    self.kill()
                yield None

    def _drain_events(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as pipe:
            while line := pipe.readline(LINE_LIMIT_BYTES):
                self._lines.put(read_line(line))
                while line and not line.endswith(b"\n"):  # the rest of one that is too long
                    line = pipe.readline(LINE_LIMIT_BYTES)
        self._lines.put(None)

    def _drain_log(self) -> None:
        with CappedLog(self.log_path, get_settings().worker_log_limit_bytes) as capped:
            while chunk := self.process.stdout.read1(65_536):  # ty: ignore[missing-attribute]
                capped.write(chunk)

    # -- messages to it ----------------------------------------------------------------------

    def stop(self, reason: str, *, save: bool) -> None:
        """Ask the child to stop at its next step."""
        self._send({"stop": {"reason": reason, "save": save}})

    def alive(self, seconds: float) -> None:
        """Let the child go on for ``seconds`` more; without this it leaves by itself."""
        self._send({"alive_s": seconds})

    def _send(self, message: dict[str, Any]) -> None:
        with self._control_lock:
            if self._control is not None:
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(self._control, json.dumps(message).encode() + b"\n")

    def terminate(self) -> None:
        """SIGTERM to every process of the child."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every process of the child; its init kills what is left then."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._reaped or (containment.HAS_INIT and self.process.poll() is not None):
            return  # nothing is left, and the pid may be someone else's
        signal_family(self.process.pid, number)

    # -- its end -----------------------------------------------------------------------------

    def wait(self) -> int:
        """Reap the child and everything it left; its exit code, negative for a signal."""
        code = self.process.wait()
        if self._reaped:
            return code
        self.kill()
        self._lines.close()
        for thread in (self._event_thread, self._log_thread):
            thread.join(REAP_S)
        self._reaped = True
        with self._control_lock:
            if self._control is not None:
                os.close(self._control)
                self._control = None
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def usage(self) -> tuple[float, set[int]]:
        """Resident memory of the child's processes in MiB, and their pids."""
        total, pids = 0.0, set()
        for process in _family(self.process.pid):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss / 2**20
                pids.add(process.pid)
        return total, pids


def signal_family(pid: int, number: int) -> None:
    """Send a signal to every process of the child whose init is ``pid``.

    The init itself lives on and kills what was started meanwhile; one that has no child yet ends.
    Without an init it is a signal to the group of the child.
    """
    if not containment.HAS_INIT:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        return
    family = _family(pid)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    if not family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        below = root.children(recursive=True)
    except psutil.Error:
        return []
    return below if containment.HAS_INIT else [root, *below]


def start(
    folder: Path,
    grant: Grant,
    action: str = "run",
    *,
    deterministic: bool = False,
    memory_mb: int = 0,
) -> Child:
    """Start ``python -m models ACTION folder`` confined, under an init of its own.

    Args:
        folder: of the run or check.
        grant: its GPUs and cores.
        action: ``run`` or ``check``.
        deterministic: whether it must repeat bit for bit.
        memory_mb: address space of one process in MiB; 0: as the settings say.
    """
    events_read, events_write = os.pipe()
    control_read, control_write = os.pipe()
    os.set_blocking(control_write, False)
    settings = get_settings()
    environment = containment.environment(grant, folder, deterministic=deterministic)
    command = containment.prefix(folder, grant, action, memory_mb or settings.worker_memory_mb)
    command += shlex.split(settings.worker_command) or [sys.executable, "-m", "models"]
    command += ["--events", str(events_write), "--control", str(control_read), action]
    command += [str(folder)]
    if len(grant.gpus) > 1:
        command += ["--ranks", str(len(grant.gpus))]
    try:
        process = subprocess.Popen(  # noqa: S603  # our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(events_write, control_read),
            cwd=folder,
            env=environment,
            umask=0o077,
        )
    finally:
        os.close(events_write)
        os.close(control_read)
    return Child(process, events_read, control_write, folder)


def _thread(target: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def oom_kills() -> int:
    """How often the kernel killed a process for memory since boot."""
    path = Path("/proc/vmstat")
    if not path.exists():
        return 0
    fields = dict(line.split() for line in path.read_text().splitlines())
    return int(fields.get("oom_kill", 0))
