"""Stores what a child reports, in order, and the end of its run.

A batch is bounded by lines and bytes, and by the time that the one before took; after each the
database is left to others for three times as long. A run over its quota is slowed down by not
reading its pipe: nothing is lost, and the job says so once.
"""

import errno
import time
from collections import deque
from itertools import takewhile
from pathlib import Path
from typing import Any

import structlog

from app.db.failures import is_temporary
from app.db.session import make_session
from app.db.tables import Run
from app.schemas.errors import ReportedError
from app.services import artifacts, events, lifecycle
from app.services.child_lines import (
    ArtifactLine,
    BrokenLine,
    ByeLine,
    ErrorLine,
    EventLine,
    HelloLine,
    Line,
    MetricLine,
    ProgressLine,
    ResultLine,
)
from app.services.outcome import Outcome
from app.settings import get_settings
from workers import runner
from workers.allowance import PER_S, Allowances
from workers.guard import Guard
from workers.line_queue import cost_bytes
from workers.persist import RETRY_S, close, internal_error, within_lease
from workers.spans import RunSpans

EVERY_S = 1.0  # metric lines become one insert a second
BACKLOG_BYTES = 2**20  # beyond it the child's pipe is not read
BATCH_LINES = 500
BATCH_BYTES = 2**19
BATCH_S = 0.25  # a batch that took longer makes the next one smaller
PAUSE = 3.0  # times as long as a batch took, before the next one
LOOK_S = 0.05
RECORDED = ProgressLine | MetricLine | EventLine

log = structlog.get_logger(__name__)


def storage_code(error: OSError) -> str:
    """Why bytes could not be stored, as the code of an error."""
    return "storage_full" if error.errno == errno.ENOSPC else "storage_unavailable"


class Recorder:
    """Stores what a child reports, in order; keeps a backlog while the database is away.

    Attributes:
        result, error: what the child reported of its end, if it did.
        left_out: files that were not stored because the run was stopped meanwhile.
    """

    def __init__(self, run: Run, child: runner.Child, guard: Guard, spans: RunSpans) -> None:
        self.run, self.child, self.guard, self._spans = run, child, guard, spans
        self.result: dict[str, Any] | None = None
        self.error: ReportedError | None = None
        self.left_out = 0
        self._backlog: deque[Line] = deque()
        self._backlog_bytes = 0
        self._allowances = Allowances(get_settings(), time.monotonic())
        self._batch_lines = BATCH_LINES
        self._flushed_at = time.monotonic()
        self._rested_at = self._allowed_at = 0.0  # when the next batch may be written
        self._said: set[str] = set()  # warnings that are given once
        self._log_size = 0
        self._log_due_at = 0.0

    # -- taking lines ------------------------------------------------------------------------

    def record(self, line: Line | None) -> None:
        """Take a line of the child, or None at a tick; returns when there is room for more."""
        if line is not None:
            self._take(line)
        if line is None or isinstance(line, HelloLine) or self._due():
            self._flush()
        if line is None:
            self._put_log()
        while self._backlog_bytes > BACKLOG_BYTES and not self.guard.lost:
            time.sleep(LOOK_S)
            self._flush()
            self._put_log()

    def _take(self, line: Line) -> None:
        match line:
            case ResultLine():
                self.result = line.values
            case ErrorLine():
                self.error = line.reported()
            case BrokenLine():
                self._take_broken(line)
            case HelloLine() if "hello" in self._said:
                pass
            case ByeLine():
                pass
            case _:
                self._append(line)

    def _append(self, line: Line) -> None:
        if isinstance(line, HelloLine):
            self._said.add("hello")
        if not self.guard.lost:
            self._backlog.append(line)
            self._backlog_bytes += cost_bytes(line)

    def _take_broken(self, line: BrokenLine) -> None:
        """Without an artifact, a result or an error the outcome is wrong; else a warning does."""
        log.warning("broken_line", job_id=self.run.job_id, type=line.type, problem=line.problem)
        text = f"a line of type {line.type!r} of the run is not well formed: {line.problem}"
        if line.essential:
            self._fail(ReportedError(code="internal", message=text))
        else:
            self._warn("broken_line", f"{text}; such lines are left out")

    def _warn(self, code: str, message: str) -> None:
        if message not in self._said and (code == "throttled" or code not in self._said):
            self._said |= {code, message}
            fields = {"code": code, "message": message}
            self._append(EventLine.model_validate({"type": "event", "event": "warning", **fields}))

    def _fail(self, error: ReportedError) -> None:
        self.error = error
        self.child.kill()

    # -- writing them ------------------------------------------------------------------------

    def _due(self) -> bool:
        waited = time.monotonic() - self._flushed_at >= EVERY_S
        return waited or self._backlog_bytes > BATCH_BYTES

    def _flush(self) -> bool:
        """Write what may be written now; False, with the rest kept, when the database is away."""
        self._flushed_at = time.monotonic()
        try:
            while self._backlog and self._pause_s() == 0:
                self._write_front()
        except Exception as error:
            if is_temporary(error):
                log.warning("database_away", job_id=self.run.job_id, error=str(error)[:200])
                return False
            log.exception("lines_refused", job_id=self.run.job_id, run_number=self.run.number)
            self._fail(internal_error("what the run reported could not be stored", error))
            self._drop(len(self._backlog))
        return True

    def _pause_s(self) -> float:
        """Seconds until the next batch: others write meanwhile, or a quota is used up.

        A quota holds nothing up while the run stops: its end would wait for the pipe.
        """
        quota_at = 0.0 if self.guard.stop_reason else self._allowed_at
        return max(0.0, max(self._rested_at, quota_at) - time.monotonic())

    def _write_front(self) -> None:
        """Write the first line, together with those behind it that fit into one insert."""
        first = self._backlog[0]
        batch: list[Line] = [first]
        if isinstance(first, RECORDED):
            batch = self._next_batch()
            self._write(batch)
        elif isinstance(first, ArtifactLine):
            self._store(first)
        else:
            with make_session() as session:
                lifecycle.mark_running(session, self.run)
        self._drop(len(batch))
        self._count(batch)

    def _next_batch(self) -> list[Line]:
        batch: list[Line] = []
        room = BATCH_BYTES
        for line in takewhile(lambda line: isinstance(line, RECORDED), self._backlog):
            room -= cost_bytes(line)
            if batch and (room < 0 or len(batch) >= self._batch_lines):
                break
            batch.append(line)
        return batch

    def _write(self, batch: list[Line]) -> None:
        began_at = time.monotonic()
        with make_session() as session:
            events.record_many(session, self.run, batch)
        took_s = time.monotonic() - began_at
        self._rested_at = began_at + (1 + PAUSE) * took_s
        fitting = 2 * self._batch_lines
        if took_s > BATCH_S:
            fitting = max(1, int(len(batch) * BATCH_S / took_s))
        self._batch_lines = min(BATCH_LINES, fitting)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._backlog_bytes -= cost_bytes(self._backlog.popleft())

    def _count(self, batch: list[Line]) -> None:
        now = time.monotonic()
        for name, wait_s in self._allowances.take(batch, now).items():
            self._allowed_at = max(self._allowed_at, now + wait_s)
            text = (
                f"the run has reported more than {self._allowances.quotas[name]} {name}: from here "
                f"on at most {PER_S[name]:g} a second are taken, so it waits for the service"
            )
            self._warn("throttled", text)

    # -- files -------------------------------------------------------------------------------

    def _store(self, line: ArtifactLine) -> None:
        if not self.guard.may_store(line.role):
            self.left_out += 1
            return
        try:
            path = _inside(self.child.folder, line.name)
            with self._spans.part("store", file=line.name):
                artifacts.store(self.run, path, line.role, line.name, line.step, line.metadata)
        except (OSError, ValueError) as error:
            code = storage_code(error) if isinstance(error, OSError) else "internal"
            self._fail(ReportedError(code=code, message=f"{line.name}: {error}"))

    def _put_log(self) -> None:
        """Let readers see the log grow; ``put_log`` decides when the next copy is due."""
        path = self.child.log_path
        size = path.stat().st_size if _is_plain(path) else 0
        if size == self._log_size or time.monotonic() < self._log_due_at:
            return
        try:
            self._log_due_at = time.monotonic() + artifacts.put_log(self.run, path)
            self._log_size = size
        except OSError as error:
            log.warning("log_not_stored", job_id=self.run.job_id, error=str(error)[:200])

    def _keep_log(self) -> None:
        """Make the log an artifact; a store that takes no more is no reason to fail the run."""
        path = self.child.log_path
        if not _is_plain(path) or path.stat().st_size == 0:
            return
        try:
            artifacts.store(self.run, path, "log", f"logs/run-{self.run.number}.log")
        except OSError as error:
            log.warning("log_not_stored", job_id=self.run.job_id, error=str(error)[:200])

    # -- the end -----------------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """Write everything, then the end; goes on trying while the lease is held.

        Raises:
            LeaseLostError: if it was lost meanwhile.
        """
        while self._backlog and not self.guard.lost:
            time.sleep(min(LOOK_S, self._pause_s()) if self._flush() else RETRY_S)
        within_lease(self._keep_log, self._lost)
        outcome.error = self.error or outcome.error
        if self.left_out:
            outcome.stop_reason = self.guard.stop_reason
            outcome.error = outcome.error or self.guard.error or self._incomplete()
        close(self.run, outcome, self._lost)

    def _incomplete(self) -> ReportedError:
        text = f"stopped before {self.left_out} of its files were stored"
        return ReportedError(code="internal", message=text)

    def _lost(self) -> bool:
        return self.guard.lost


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError("the name leads out of the run's folder")
    if not path.is_file():
        raise ValueError("there is no such file in the run's folder")
    return path


def _is_plain(path: Path) -> bool:
    """Whether a child has left its log what it was: neither a link to elsewhere nor a pipe."""
    return path.is_file() and not path.is_symlink()
