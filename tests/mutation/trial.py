"""One run of some tests in a process of its own, forked so that no library is imported anew."""

import importlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest

LIBRARIES = (
    *("torch", "numpy", "scipy.signal", "PIL.Image", "pyarrow.parquet", "rasterio", "numba"),
    *("fastapi.testclient", "sqlalchemy.orm", "celery", "obstore.store", "alembic.command"),
    *("beartype", "jaxtyping", "hypothesis.stateful", "time_machine", "httpx", "typer.testing"),
)
LOG = ".tests.log"
BROKEN = 99  # exit code of a process that never came to its tests
OURS = ("app", "models", "workers", "migrations", "tests", "sextant_client")


class Ended(NamedTuple):
    """How the tests ended.

    Attributes:
        outcome: ``survived``, ``killed``, or ``killed by time``.
        failed: id of the first test that failed; empty if none did, or none was begun.
        seconds: wall seconds.
    """

    outcome: str
    failed: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.outcome == "survived"


def preload() -> None:
    """Import what the tests need of others, once."""
    for name in LIBRARIES:
        importlib.import_module(name)


class _FirstFailure:
    """A plugin that writes the id of the first test that failed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._path.exists():
            self._path.write_text(report.nodeid)


class Trial:
    """Tests of a copy of the checkout, on SQLite alone."""

    def __init__(self, copy: Path, tests: list[str]) -> None:
        self._copy = copy
        self._tests = tests
        self._note = copy / ".first_failure"

    def run(self, limit_s: float) -> Ended:
        """Run them until the first failure, at most ``limit_s`` wall seconds."""
        self._note.unlink(missing_ok=True)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(self._child())
            except BaseException:  # it must not return into the parent's code
                traceback.print_exc()
                os._exit(BROKEN)
        code = _wait(pid, began + limit_s)
        seconds = round(time.monotonic() - began, 1)
        failed = self._note.read_text() if self._note.exists() else ""
        if code in (BROKEN, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise RuntimeError(
                f"{self._tests} did not run: {(self._copy / LOG).read_text()[-3000:]}"
            )
        if code is None:
            return Ended("killed by time", failed, seconds)
        return Ended("survived" if code == 0 else "killed", failed, seconds)

    def _child(self) -> int:
        os.setsid()
        for descriptor, name in ((0, os.devnull), (1, LOG), (2, LOG)):
            opened = os.open(self._copy / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, descriptor)
        os.chdir(self._copy)
        sys.path[:0] = [str(self._copy)]
        os.environ["PYTHONPATH"] = str(self._copy)  # else the children of tests run unchanged code
        for name in [n for n in sys.modules if n.partition(".")[0] in OURS]:
            del sys.modules[name]
        sys.argv = ["pytest"]
        options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "not postgresql"]
        options += ["-m", "not slow and not gpu and not bench and not docs"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins preloaded
        return int(pytest.main([*options, *self._tests], [_FirstFailure(self._note)]))


def _wait(pid: int, deadline: float) -> int | None:
    """Exit code of a process, None if it was killed at the deadline; nothing of its group stays."""
    code = None
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.1)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return code
    if code is None:
        os.waitpid(pid, 0)
    return code
