"""One run from its folder to its end: start the child, write down what it says, close the run."""

import shutil
import time
from collections import deque
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import make_session
from app.db.tables import Dataset, Job, Run
from app.services import artifacts, datasets, events, lifecycle
from app.services.errors import ServiceError
from app.services.outcome import Outcome
from app.settings import get_settings
from workers import folder as folders
from workers import host, runner
from workers.guard import Guard, Limits
from workers.host import Grant

RETRY_S = 1.0
BATCH_S = 1.0  # metric lines become one insert a second
RECORDED = {"progress", "metric", "event"}
CODES = {64: "spec_invalid", 65: "data_invalid"}
EXIT_TIMEOUT = 124

log = structlog.get_logger(__name__)


def execute(run: Run, grant: Grant) -> None:
    """Carry out a claimed run; whatever happens, its job gets a status."""
    try:
        path, job, lineage = folders.prepare(run)
    except (folders.MissingInputError, FileNotFoundError, ServiceError) as error:
        _refuse(run, "data_missing", str(error))
        return
    except OSError as error:
        _refuse(run, _storage_code(error), str(error))
        return
    oom_before = runner.oom_kills()
    child = runner.start(path, grant, deterministic=bool(job.resolved_spec.get("deterministic")))
    guard = Guard(run, child, _limits(job), grant)
    guard.start()
    recorder = Recorder(run, child)
    try:
        _note_process(run, child, grant)
        for event in child.events(get_settings().worker_tick_s):
            recorder.take(event)
        code = child.wait()
        outcome = _outcome(code, guard, recorder, oom_grew=runner.oom_kills() > oom_before)
        outcome.lineage = lineage | host.versions()
        recorder.finish(guard, outcome)
    finally:
        guard.dismiss()
        child.kill()
        child.wait()
        shutil.rmtree(path, ignore_errors=True)


def _limits(job: Job) -> Limits:
    return Limits(timeout_s=job.limits["timeout_s"], memory_mb=job.resources.get("memory_mb") or 0)


def _note_process(run: Run, child: runner.Child, grant: Grant) -> None:
    process = {"pid": child.process.pid, "pgid": child.pgid, "devices": list(grant.gpus)}
    process["pid_started_at"] = host.process_started_at(child.process.pid)
    with make_session() as session:
        lifecycle.started(session, run, **process)


def _refuse(run: Run, code: str, message: str) -> None:
    """Close a run that could not be started."""
    with make_session() as session:
        lifecycle.finish(session, run, Outcome(error={"code": code, "message": message}))


def _storage_code(error: OSError) -> str:
    import errno

    return "storage_full" if error.errno == errno.ENOSPC else "storage_unavailable"


def _outcome(code: int, guard: Guard, recorder: "Recorder", *, oom_grew: bool) -> Outcome:
    """The runner's view of how the child ended."""
    error = recorder.error or (guard.error if code else None)
    if guard.error is not None and guard.error["code"] == "timeout" and code:
        code = EXIT_TIMEOUT
    if error is None and code == -9 and guard.stop_reason is None and oom_grew:
        error = {"code": "host_out_of_memory", "message": "the kernel killed it for memory"}
    if error is None and code > 0 and guard.stop_reason is None:
        error = {"code": CODES.get(code, "internal"), "message": f"exit code {code}"}
    return Outcome(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        error=error,
        result=recorder.result,
        stop_reason=guard.stop_reason,
        peak_rss_mb=guard.peak_rss_mb or None,
        peak_gpu_mb=guard.peak_gpu_mb,
    )


class Recorder:
    """Writes what a child says, in order; while the database is away it remembers.

    Attributes:
        result, error: what the child said of its end, if it did.
    """

    def __init__(self, run: Run, child: runner.Child) -> None:
        self.run, self.child = run, child
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self._backlog: deque[dict[str, Any]] = deque()
        self._flushed_at = time.monotonic()
        self._log_size = 0
        self._log_due_at = 0.0

    def take(self, event: dict[str, Any] | None) -> None:
        """An event of the child, or None at a tick."""
        if event is None:
            self._flush()
            self._put_log()
            return
        match event["type"]:
            case "result":
                self.result = event.get("values")
            case "error":
                self.error = {key: event.get(key) for key in ("code", "message", "hint")}
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
                lifecycle.heard(session, self.run)
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
            code = _storage_code(error) if isinstance(error, OSError) else "internal"
            self.error = {"code": code, "message": f"{event['name']}: {error}"}
            self.child.kill()

    def _put_log(self) -> None:
        """Let readers see the log grow; the store says how soon it may be copied again."""
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


# -- datasets ------------------------------------------------------------------------------------


def check(dataset: Dataset, worker_id: str) -> None:
    """Validate an uploaded dataset in a child with memory and time caps."""
    settings = get_settings()
    path = folders.prepare_check(dataset)
    grant = Grant((), 1)
    child = runner.start(path, grant, "check", memory_mb=settings.upload_memory_mb)
    deadline = time.monotonic() + settings.upload_timeout_s
    said: dict[str, Any] = {}
    try:
        for event in child.events(settings.worker_tick_s):
            if event is not None:
                said[event["type"]] = event
                child.alive(settings.lease_kill_s)
                continue
            if not _renew_check(dataset, worker_id, child) or time.monotonic() > deadline:
                child.kill()
        code = child.wait()
    finally:
        child.kill()
        child.wait()
        shutil.rmtree(path, ignore_errors=True)
    counts = said["result"]["values"] if code == 0 and "result" in said else None
    error = None if counts is not None else _check_error(said.get("error"), code)
    with make_session() as session:
        datasets.finish_check(session, dataset, worker_id, counts, error)


def _renew_check(dataset: Dataset, worker_id: str, child: runner.Child) -> bool:
    with make_session() as session:
        held = datasets.renew_check(session, dataset, worker_id)
    if held:
        child.alive(get_settings().lease_kill_s)
    return held


def _check_error(said: dict[str, Any] | None, code: int) -> dict[str, Any]:
    if said is not None:
        return {key: said.get(key) for key in ("code", "message", "hint")}
    message = f"the check ended with code {code}: over its limits of time or memory"
    return {"code": "data_invalid", "message": message, "hint": "upload a smaller file"}
