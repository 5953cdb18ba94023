"""Stores what a child reports, in order, and the end of its run."""

import errno
import time
from collections import deque
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import make_session
from app.db.tables import Run
from app.schemas.errors import ReportedError
from app.services import artifacts, events, lifecycle
from app.services.child_lines import parse_error
from app.services.outcome import Outcome
from workers import runner
from workers.guard import Guard

RETRY_S = 1.0
BATCH_S = 1.0  # metric lines become one insert a second
RECORDED = {"progress", "metric", "event"}
log = structlog.get_logger(__name__)


def storage_code(error: OSError) -> str:
    """Why bytes could not be stored, as the code of an error."""
    return "storage_full" if error.errno == errno.ENOSPC else "storage_unavailable"


class Recorder:
    """Stores what a child reports, in order; keeps a backlog while the database is away.

    Attributes:
        result, error: what the child reported of its end, if it did.
    """

    def __init__(self, run: Run, child: runner.Child) -> None:
        self.run, self.child = run, child
        self.result: dict[str, Any] | None = None
        self.error: ReportedError | None = None
        self._backlog: deque[dict[str, Any]] = deque()
        self._flushed_at = time.monotonic()
        self._log_size = 0
        self._log_due_at = 0.0

    def record(self, event: dict[str, Any] | None) -> None:
        """Take an event of the child, or None at a tick."""
        if event is None:
            self._flush()
            self._put_log()
            return
        match event["type"]:
            case "result":
                self.result = event.get("values")
            case "error":
                self.error = parse_error(event)
            case "hello":
                self._backlog.append(event)
                self._flush()
            case "artifact" | "progress" | "metric" | "event":
                self._backlog.append(event)
        if time.monotonic() - self._flushed_at >= BATCH_S:
            self._flush()

    def _flush(self) -> bool:
        """Write the backlog; False, with the rest kept, when the database is away."""
        self._flushed_at = time.monotonic()
        try:
            while self._backlog:
                self._write_front()
        except SQLAlchemyError as error:
            log.warning("database_away", job_id=self.run.job_id, error=str(error)[:200])
            return False
        return True

    def _write_front(self) -> None:
        """Write the first item, together with those behind it that fit into one insert."""
        kind = self._backlog[0]["type"]
        if kind in RECORDED:
            same = next(groupby(self._backlog, key=lambda event: event["type"] in RECORDED))[1]
            batch = list(same)
            with make_session() as session:
                events.record_many(session, self.run, batch)
        elif kind == "hello":
            batch = [self._backlog[0]]
            with make_session() as session:
                lifecycle.mark_running(session, self.run)
        else:
            batch = [self._backlog[0]]
            self._store(batch[0])
        for _ in batch:
            self._backlog.popleft()

    def _store(self, event: dict[str, Any]) -> None:
        try:
            artifacts.store(
                self.run,
                _inside(self.child.folder, event["name"]),
                event["role"],
                event["name"],
                event.get("step"),
                event.get("metadata") or {},
            )
        except (OSError, ValueError) as error:
            code = storage_code(error) if isinstance(error, OSError) else "internal"
            self.error = ReportedError(code=code, message=f"{event['name']}: {error}")
            self.child.kill()

    def _put_log(self) -> None:
        """Let readers see the log grow; ``put_log`` decides when the next copy is due."""
        path = self.child.log_path
        size = path.stat().st_size if path.exists() else 0
        if size == self._log_size or time.monotonic() < self._log_due_at:
            return
        try:
            self._log_due_at = time.monotonic() + artifacts.put_log(self.run, path)
            self._log_size = size
        except (SQLAlchemyError, OSError) as error:
            log.warning("log_not_stored", job_id=self.run.job_id, error=str(error)[:200])

    def finish(self, guard: Guard, outcome: Outcome) -> None:
        """Write everything, then the end; goes on trying while the lease is held."""
        _persist(guard, self._flush)
        _persist(guard, self._keep_log)
        outcome.error = self.error or outcome.error
        _persist(guard, lambda: self._close(outcome))

    def _keep_log(self) -> bool:
        """Make the log an artifact; a store that takes no more is no reason to fail the run."""
        if self.child.log_path.stat().st_size == 0:
            return True
        name = f"logs/run-{self.run.number}.log"
        try:
            artifacts.store(self.run, self.child.log_path, "log", name)
        except SQLAlchemyError:
            return False
        except OSError as error:
            log.warning("log_not_stored", job_id=self.run.job_id, error=str(error)[:200])
        return True

    def _close(self, outcome: Outcome) -> bool:
        try:
            with make_session() as session:
                lifecycle.finish(session, self.run, outcome)
        except SQLAlchemyError as error:
            log.warning("database_away", job_id=self.run.job_id, error=str(error)[:200])
            return False
        return True


def _persist(guard: Guard, write: Callable[[], bool]) -> None:
    """Repeat ``write`` until it succeeds or the lease is lost."""
    while not guard.lost and not write():
        time.sleep(RETRY_S)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError("the name leads out of the run's folder")
    return path
