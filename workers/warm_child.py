"""A child that keeps one net of one tenant loaded; confined as the children of runs are."""

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from app.settings import get_settings
from workers import containment
from workers.host import Grant
from workers.runner import signal_family

CORES = 1  # threads of one net wait for each other wherever runs keep the cores busy
ANSWER_BYTES = 4 * 2**20
READ_BYTES = 65_536
END_S = 10.0
LOG = "log.txt"
LOG_TAIL_BYTES = 2000


class ChildGoneError(Exception):
    """The child has ended, reply nothing in time, or something else than an answer."""


class StillLoadingError(Exception):
    """There was no time to wait for the net; the child goes on loading it."""


class WarmChild:
    """A process with a loaded net, started by its first question; one at a time, under ``lock``.

    Attributes:
        closed: it has ended and is not started again.
    """

    def __init__(self, prepare: Callable[[], Path]) -> None:
        self.lock = threading.Lock()
        self.asked_at = time.monotonic()
        self.closed = False
        self._prepare = prepare
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = bytearray()
        self._loaded = False

    def ask(
        self, contents: Sequence[bytes], options: Mapping[str, Any], deadline: float
    ) -> dict[str, Any]:
        """What the net says of some files; the first question waits until it is loaded.

        Args:
            contents: the files.
            options: of the kind.
            deadline: monotonic time by which it must have answered.

        Raises:
            StillLoadingError: if the net is not loaded by then.
            ChildGoneError: if it does not answer; the child must be closed then.
        """
        self.asked_at = time.monotonic()
        try:
            process = self._process or self._start()
            self._wait_loaded(process, deadline)
            _send(process, contents, options, deadline)
            return self._line(process, deadline)
        except (OSError, ValueError) as error:
            raise ChildGoneError(f"{error}: {self._log()}") from error

    def _start(self) -> subprocess.Popen[bytes]:
        self._folder = self._prepare()
        self._process = _started(self._folder, Grant((), CORES))
        return self._process

    def _wait_loaded(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        if self._loaded:
            return
        try:
            self._line(process, deadline)
        except TimeoutError as error:
            raise StillLoadingError("the net is being loaded") from error
        self._loaded = True

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
        pipe = _descriptor(process.stdout)
        while b"\n" not in self._rest:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("it did not answer in time")
            if not (read := os.read(pipe, READ_BYTES)):
                raise OSError("it has ended")
            self._rest += read
            if len(self._rest) > ANSWER_BYTES:
                raise OSError(f"its answer is longer than {ANSWER_BYTES} bytes")
        line, _, rest = self._rest.partition(b"\n")
        self._rest = bytearray(rest)
        return json.loads(line)

    def _log(self) -> str:
        """The end of what the child has printed."""
        if self._folder is None or not (path := self._folder / LOG).exists():
            return ""
        return path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def memory_mb(self) -> float:
        """Resident memory of its processes in MiB; 0 before its start and after its end."""
        if self._process is None:
            return 0.0
        try:
            root = psutil.Process(self._process.pid)
            family = [root, *root.children(recursive=True)]
            return sum(process.memory_info().rss for process in family) / 2**20
        except psutil.Error:
            return 0.0

    def close(self) -> None:
        """End the process and all it started, and remove its folder."""
        self.closed = True
        if self._process is not None:
            _end(self._process)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        signal_family(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()  # its init: the child ends with it
        process.wait()


def _send(
    process: subprocess.Popen[bytes],
    contents: Sequence[bytes],
    options: Mapping[str, Any],
    deadline: float,
) -> None:
    sizes = [len(content) for content in contents]
    head = json.dumps({"sizes": sizes, "options": dict(options)}).encode()
    left = memoryview(b"\n".join([head, b"".join(contents)]))
    pipe = _descriptor(process.stdin)
    while left:
        if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
            raise OSError("it took no question in time")
        left = left[os.write(pipe, left) :]


def _descriptor(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise AssertionError("both pipes were asked for")
    return pipe.fileno()


def _started(folder: Path, grant: Grant) -> subprocess.Popen[bytes]:
    settings = get_settings()
    environment = containment.environment(grant, folder, deterministic=False)
    command = containment.prefix(folder, grant, "serve", settings.worker_memory_mb)
    command += shlex.split(settings.worker_command) or [sys.executable, "-m", "models"]
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # our own command
            [*command, "serve", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            start_new_session=True,
            cwd=folder,
            env=environment,
            umask=0o077,
        )
    os.set_blocking(_descriptor(process.stdin), False)
    return process
