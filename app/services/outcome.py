"""What the end of a run means for its job: the table of statuses in ARCHITECTURE.md as code."""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.db.tables import Job, JobStatus, Run
from app.schemas.errors import JobError, ReportedError
from app.settings import get_settings

REQUEUED = {"worker_lost", "lease_lost", "storage_unavailable"}
REQUEUED_ONCE = {"host_out_of_memory"}


@dataclass
class Outcome:
    """How a run ended, as the runner saw it.

    Attributes:
        exit_code: of the child; None when a signal ended it.
        error: what the child or the runner reported.
        result: the child's result, if it reported one.
        stop_reason: why the runner stopped it (``cancel``, ``pause``, ``shutdown``,
            ``timeout``), if it did.
    """

    exit_code: int | None = None
    signal: int | None = None
    error: ReportedError | None = None
    result: dict[str, Any] | None = None
    stop_reason: str | None = None
    peak_rss_mb: float | None = None
    peak_gpu_mb: float | None = None
    lineage: dict[str, Any] = field(default_factory=dict)


def verdict(
    job: Job, run: Run, outcome: Outcome, now: datetime
) -> tuple[JobStatus, dict[str, Any]]:
    """New status and the values that go with it; the table of statuses in ARCHITECTURE.md."""
    free: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None}
    if outcome.lineage:
        free["lineage"] = job.lineage | outcome.lineage
    if outcome.exit_code == 0 and outcome.error is None:
        return JobStatus.SUCCEEDED, free | {"result": outcome.result, "error": None}
    if job.cancel_requested_at is not None:
        return JobStatus.CANCELLED, free | {"result": outcome.result}
    if outcome.stop_reason in ("shutdown", "pause"):  # held or not, the row says
        return JobStatus.QUEUED, free | {"queued_at": now}
    error = job_error(outcome, run.number)
    if _may_run_again(job, error["code"]):
        return JobStatus.QUEUED, free | _back_off(job, error, now)
    return JobStatus.FAILED, free | {"error": error, "failures": job.failures + 1}


def _may_run_again(job: Job, code: str) -> bool:
    again = code in REQUEUED or (code in REQUEUED_ONCE and job.failures == 0)
    return again and job.failures + 1 < job.limits["max_runs"]


def _back_off(job: Job, error: dict[str, Any], now: datetime) -> dict[str, Any]:
    wait_s = min(300.0, get_settings().worker_backoff_s * 2**job.failures)
    wait_s *= random.uniform(0.8, 1.2)  # noqa: S311  # spread of retries, no secret
    return {
        "status_reason": "backoff",
        "failures": job.failures + 1,
        "not_before": now + timedelta(seconds=wait_s),
        "queued_at": now,
        "error": error,
    }


def job_error(outcome: Outcome, run_number: int = 0) -> dict[str, Any]:
    """The job's ``error`` as it is stored; ``run_number`` is 0 where no run began."""
    reported = outcome.error or ReportedError(code="worker_lost", message=_end_in_words(outcome))
    retryable = reported.code in REQUEUED | REQUEUED_ONCE
    return JobError(
        **dict(reported),
        class_="infrastructure" if retryable else "job",
        retryable=retryable,
        run_number=run_number,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        traceback_artifact_id=None,
    ).model_dump()


def _end_in_words(outcome: Outcome) -> str:
    if outcome.signal is not None:
        return f"the child process was ended by signal {outcome.signal}"
    return f"the child process ended with exit code {outcome.exit_code}"
