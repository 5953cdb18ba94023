"""Ends the parts of ``sextant up`` when their parent is gone, however it went.

``python -m app.local.lifeline`` reads lines from its standard input: ``+N`` a process group was
started, ``-N`` it has ended. The parent holds the other end of the pipe; its death, ``kill -9``
too, closes it, and every group still listed is asked to stop and then killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

PATIENCE_S = 45.0  # workers save checkpoints and give their jobs back
TICK_S = 0.2


class Lifeline:
    """The parent's end: reports what it has started and what has ended to the watching process."""

    def __init__(self) -> None:
        read, self._pipe = os.pipe()
        command = [sys.executable, "-P", "-m", "app.local.lifeline"]
        self.process = subprocess.Popen(command, stdin=read, start_new_session=True)  # noqa: S603  # our own command
        os.close(read)

    @property
    def alive(self) -> bool:
        """Whether somebody watches."""
        return self.process.poll() is None

    def started(self, group: int) -> None:
        """A process group was started."""
        self._report(f"+{group}")

    def ended(self, group: int) -> None:
        """It has ended."""
        self._report(f"-{group}")

    def _report(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the watcher was killed: the parent makes a new one
            os.write(self._pipe, f"{line}\n".encode())

    def close(self) -> None:
        """Let go: what is still listed is ended."""
        os.close(self._pipe)
        self.process.wait()


def main() -> int:
    """Keep the list until the pipe closes, then end what is on it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    end(groups, PATIENCE_S)
    return 0


def end(groups: Iterable[int], patience_s: float) -> None:
    """SIGTERM to every group, SIGKILL to those that live on after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    for group in groups:
        send(group, signal.SIGTERM)
    while time.monotonic() < deadline and any(map(lives, groups)):
        time.sleep(TICK_S)
    for group in groups:
        send(group, signal.SIGKILL)


def send(group: int, number: signal.Signals) -> None:
    """Signal a process group, if there still is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return


def lives(group: int) -> bool:
    """Whether a process of the group is alive; a zombie that nobody has reaped is not."""
    return any(_group(process) == group for process in psutil.process_iter())


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):
        return None


if __name__ == "__main__":
    sys.exit(main())
