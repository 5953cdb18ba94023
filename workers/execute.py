"""One run from its folder to its end: start the child, record what it reports, close the run."""

import shutil

from app.db.session import make_session
from app.db.tables import Job, Run
from app.errors import ServiceError
from app.schemas.errors import ReportedError
from app.services import lifecycle
from app.services.outcome import Outcome
from app.settings import get_settings
from workers import host, run_folder, runner
from workers.guard import Guard, RunLimits
from workers.host import Grant
from workers.recorder import Recorder, storage_code

CODES = {64: "spec_invalid", 65: "data_invalid"}
EXIT_TIMEOUT = 124


def execute(run: Run, grant: Grant) -> None:
    """Execute a claimed run; whatever happens, its job gets a status."""
    try:
        path, job, lineage = run_folder.prepare(run)
    except (run_folder.MissingInputError, FileNotFoundError, ServiceError) as error:
        _refuse(run, "data_missing", str(error))
        return
    except OSError as error:
        _refuse(run, storage_code(error), str(error))
        return
    oom_before = runner.oom_kills()
    child = runner.start(path, grant, deterministic=bool(job.resolved_spec.get("deterministic")))
    guard = Guard(run, child, _limits(job), grant)
    guard.start()
    recorder = Recorder(run, child)
    try:
        _record_process(run, child, grant)
        for event in child.events(get_settings().worker_tick_s):
            recorder.record(event)
        code = child.wait()
        outcome = _outcome(code, guard, recorder, oom_grew=runner.oom_kills() > oom_before)
        outcome.lineage = lineage | host.versions()
        recorder.finish(guard, outcome)
    finally:
        guard.dismiss()
        child.kill()
        child.wait()
        shutil.rmtree(path, ignore_errors=True)


def _limits(job: Job) -> RunLimits:
    return RunLimits(
        timeout_s=job.limits["timeout_s"], memory_mb=job.resources.get("memory_mb") or 0
    )


def _record_process(run: Run, child: runner.Child, grant: Grant) -> None:
    process = {"pid": child.process.pid, "pgid": child.pgid, "devices": list(grant.gpus)}
    process["pid_started_at"] = host.process_started_at(child.process.pid)
    with make_session() as session:
        lifecycle.record_process(session, run, **process)


def _refuse(run: Run, code: str, message: str) -> None:
    """Close a run that could not be started."""
    with make_session() as session:
        error = ReportedError(code=code, message=message)
        lifecycle.finish(session, run, Outcome(error=error))


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
