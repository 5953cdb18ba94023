"""One run from its folder to its end: start the child, record what it reports, close the run."""

import shutil

import structlog

from app.db.session import make_session
from app.db.tables import Job, Run
from app.errors import ServiceError, UnavailableError
from app.schemas.errors import ReportedError
from app.services import lifecycle
from app.services.outcome import Outcome
from app.settings import get_settings
from workers import host, run_folder, runner
from workers.guard import Guard, RunLimits
from workers.host import Grant
from workers.persist import LeaseLostError, close, internal_error, within_lease
from workers.recorder import Recorder, storage_code
from workers.spans import START, RunSpans

CODES = {64: "spec_invalid", 65: "data_invalid"}
EXIT_TIMEOUT = 124

log = structlog.get_logger(__name__)


def execute(run: Run, grant: Grant) -> None:
    """Execute a claimed run; whatever happens, its job gets a status or the lease is lost."""
    guard, spans = Guard(run, grant), RunSpans(run)
    guard.start()
    try:
        _carry_out(run, grant, guard, spans)
    except LeaseLostError:
        log.warning("run_given_up", job_id=run.job_id, run_number=run.number)
    except Exception as error:
        log.exception("run_failed", job_id=run.job_id, run_number=run.number)
        _close_stopped(run, guard, internal_error("the worker could not carry the run out", error))
    finally:
        guard.dismiss()
        spans.end()
        shutil.rmtree(run_folder.path_of(run), ignore_errors=True)


def _carry_out(run: Run, grant: Grant, guard: Guard, spans: RunSpans) -> None:
    try:
        path, job, lineage = within_lease(
            lambda: run_folder.prepare(run, spans), lambda: guard.lost
        )
    except (ServiceError, OSError, run_folder.RefusedError) as error:
        _close_stopped(run, guard, _refusal(error))
        return
    if guard.stop_reason is not None:
        _close_stopped(run, guard, ReportedError(code="internal", message="stopped at its start"))
        return
    oom_before = runner.oom_kills()
    log.info("run_started", kind=job.kind, queue=job.queue)
    spans.enter(START)
    child = runner.start(path, grant, deterministic=bool(job.resolved_spec.get("deterministic")))
    guard.watch(child, _limits(job))
    recorder = Recorder(run, child, guard, spans)
    try:
        within_lease(lambda: _record_process(run, child, grant), lambda: guard.lost)
        for line in child.events(get_settings().worker_tick_s):
            spans.note(line)
            recorder.record(line)
        code = child.wait()
        spans.leave()
        outcome = _outcome(code, guard, recorder, oom_grew=runner.oom_kills() > oom_before)
        outcome.lineage = lineage | host.versions()
        with spans.part("finish"):
            recorder.finish(outcome)
        spans.end(outcome)
        error_code = outcome.error.code if outcome.error else None
        log.info("run_ended", exit_code=code, error=error_code, stop_reason=outcome.stop_reason)
    finally:
        child.kill()
        child.wait()


def _limits(job: Job) -> RunLimits:
    return RunLimits(
        timeout_s=job.limits["timeout_s"], memory_mb=job.resources.get("memory_mb") or 0
    )


def _record_process(run: Run, child: runner.Child, grant: Grant) -> None:
    process = {"pid": child.process.pid, "pgid": child.process.pid, "devices": list(grant.gpus)}
    process["pid_started_at"] = host.process_started_at(child.process.pid)
    with make_session() as session:
        lifecycle.record_process(session, run, **process)


def _refusal(error: Exception) -> ReportedError:
    """Why a run could not be started."""
    match error:
        case run_folder.SpecRefusedError():
            code = "spec_invalid"
        case UnavailableError():  # before its other bases: the store is away for the moment
            code = "storage_unavailable"
        case run_folder.MissingInputError() | FileNotFoundError() | ServiceError():
            code = "data_missing"
        case OSError():
            code = storage_code(error)
        case _:
            code = "internal"
    return ReportedError(code=code, message=str(error))


def _close_stopped(run: Run, guard: Guard, error: ReportedError) -> None:
    """Close a run that has no child any more, or never had one."""
    outcome = Outcome(error=guard.error or error, stop_reason=guard.stop_reason)
    try:
        close(run, outcome, lambda: guard.lost)
    except LeaseLostError:
        log.warning("run_given_up", job_id=run.job_id, run_number=run.number)


def _outcome(code: int, guard: Guard, recorder: Recorder, *, oom_grew: bool) -> Outcome:
    """The runner's view of how the child ended."""
    error = recorder.error or (guard.error if code else None)
    if guard.error is not None and guard.error.code == "timeout" and code:
        code = EXIT_TIMEOUT
    if error is None and code == -9 and guard.stop_reason is None and oom_grew:
        message = "the kernel killed it for memory"
        error = ReportedError(code="host_out_of_memory", message=message)
    if error is None and code > 0 and guard.stop_reason is None:
        error = ReportedError(code=CODES.get(code, "internal"), message=f"exit code {code}")
    return Outcome(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        error=error,
        result=recorder.result,
        stop_reason=guard.stop_reason,
        peak_rss_mb=guard.peak_rss_mb or None,
        peak_gpu_mb=guard.peak_gpu_mb,
    )
