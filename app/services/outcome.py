"""What the end of a run means for its job: the table of statuses in ARCHITECTURE.md as code."""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.db.tables import Job, Run
from app.settings import get_settings

REQUEUED = {"worker_lost", "lease_lost", "storage_unavailable"}
REQUEUED_ONCE = {"host_out_of_memory"}


@dataclass
class Outcome:
    """How a run ended, as the runner saw it.

    Attributes:
        exit_code: of the child; None when a signal ended it.
        error: ``code, message, hint`` the child reported or the runner found out.
        result: the child's result, if it reported one.
        stop_reason: why the runner stopped it (``cancel``, ``shutdown``, ``timeout``), if it did.
    """

    exit_code: int | None = None
    signal: int | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    stop_reason: str | None = None
    peak_rss_mb: float | None = None
    peak_gpu_mb: float | None = None
    lineage: dict[str, Any] = field(default_factory=dict)


def verdict(job: Job, run: Run, outcome: Outcome, now: datetime) -> tuple[str, dict[str, Any]]:
    """New status and the values that go with it; the table of statuses in ARCHITECTURE.md."""
    free: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None}
    if outcome.lineage:
        free["lineage"] = job.lineage | outcome.lineage
    if outcome.exit_code == 0 and outcome.error is None:
        return "succeeded", free | {"result": outcome.result, "error": None}
    if job.cancel_requested_at is not None:
        return "cancelled", free | {"result": outcome.result}
    if outcome.stop_reason == "shutdown":
        return "queued", free | {"queued_at": now}
    error = describe_error(run, outcome)
    if _may_run_again(job, error["code"]):
        return "queued", free | _back_off(job, error, now)
    return "failed", free | {"error": error, "failures": job.failures + 1}


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


def describe_error(run: Run, outcome: Outcome) -> dict[str, Any]:
    """The job's ``error`` object."""
    found = outcome.error or {}
    code = found.get("code") or "worker_lost"
    return {
        "code": code,
        "message": found.get("message") or _end_in_words(outcome),
        "class": "infrastructure" if code in REQUEUED | REQUEUED_ONCE else "job",
        "retryable": code in REQUEUED | REQUEUED_ONCE,
        "run_number": run.number,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "traceback_artifact_id": found.get("traceback_artifact_id"),
        "hint": found.get("hint"),
    }


def _end_in_words(outcome: Outcome) -> str:
    if outcome.signal is not None:
        return f"the child process was ended by signal {outcome.signal}"
    return f"the child process ended with exit code {outcome.exit_code}"
