"""Keeps processes running: starts them in order, restarts what dies, stops them in reverse."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.local import lifeline
from app.local.lifeline import Lifeline

BACK_OFF_S = (0.5, 1, 2, 5, 10, 30)
STEADY_S = 60.0  # a part that ran this long starts again without waiting
LOOK_S = 0.25


@dataclass
class Part:
    """A process of the service, in a process group of its own.

    Attributes:
        stop_s: seconds from SIGTERM to SIGKILL.
    """

    name: str
    command: Sequence[str]
    stop_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started_at: float = 0.0
    restart_at: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """A context manager: the parts run inside it, and none of them after it.

    Args:
        parts: in the order of starting.
        logs: folder in which each part has ``NAME.log``.
        say: is called with each message for the user.
    """

    def __init__(self, parts: Sequence[Part], logs: Path, say: Callable[[str], None]) -> None:
        self.parts, self.logs, self.say = parts, logs, say
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        self._lifeline = Lifeline()

    def __enter__(self) -> "Supervisor":
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            for part in self.parts:
                self._start(part)
        except BaseException:
            self.stop()
            raise
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the parts, the last one first; interrupted once more, kill them."""
        try:
            self._stopping.set()
            if self._watch.is_alive():
                self._watch.join()
            for part in reversed(self.parts):
                self._end(part, part.stop_s)
        except KeyboardInterrupt:
            for part in self.parts:
                self._end(part, 0)
        finally:
            self._lifeline.close()

    def _start(self, part: Part) -> None:
        with (self.logs / f"{part.name}.log").open("ab") as log:
            part.process = subprocess.Popen(  # noqa: S603  # our own commands
                part.command,
                # the working directory may have an app/ of its own: keep it off the import path
                env={**os.environ, "PYTHONSAFEPATH": "1", **part.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops in order
            )
        part.started_at = time.monotonic()
        self._lifeline.started(part.process.pid)

    def _end(self, part: Part, patience_s: float) -> None:
        if part.process is None:
            return
        if part.alive:
            part.process.terminate()
        try:
            part.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.say(f"{part.name} did not stop within {patience_s:g} s and is killed")
        lifeline.send(part.process.pid, signal.SIGKILL)  # and what it may have left behind
        part.process.wait()
        self._lifeline.ended(part.process.pid)
        part.process = None

    def _keep(self) -> None:
        while not self._stopping.wait(LOOK_S):
            if not self._lifeline.alive:
                self._lifeline.close()
                self._lifeline = Lifeline()
                for part in self.parts:
                    if part.process is not None:
                        self._lifeline.started(part.process.pid)
            for part in self.parts:
                self._look_after(part)

    def _look_after(self, part: Part) -> None:
        now = time.monotonic()
        if part.alive:
            return
        if part.process is not None:
            code = part.process.returncode
            part.failures = 0 if now - part.started_at > STEADY_S else part.failures
            wait_s = BACK_OFF_S[min(part.failures, len(BACK_OFF_S) - 1)]
            self.say(
                f"{part.name} ended with code {code}; it starts again in {wait_s:g} s "
                f"(see {self.logs / part.name}.log)"
            )
            self._end(part, 0)
            part.failures += 1
            part.restart_at = now + wait_s
        elif now >= part.restart_at:
            self._start(part)
