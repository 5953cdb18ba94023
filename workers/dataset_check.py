"""The check of an uploaded dataset, in a child with caps of memory and time."""

import shutil
import time
from typing import Any

from app.db.session import make_session
from app.db.tables import Dataset
from app.schemas.errors import ReportedError
from app.services import datasets
from app.services.child_lines import parse_error
from app.settings import get_settings
from workers import run_folder, runner
from workers.host import Grant


def check(dataset: Dataset, worker_id: str) -> None:
    """Validate an uploaded dataset in a child with memory and time caps."""
    settings = get_settings()
    path = run_folder.prepare_check(dataset)
    grant = Grant((), 1)
    child = runner.start(path, grant, "check", memory_mb=settings.upload_memory_mb)
    deadline = time.monotonic() + settings.upload_timeout_s
    last: dict[str, dict[str, Any]] = {}  # the newest event of each type
    try:
        for event in child.events(settings.worker_tick_s):
            if event is not None:
                last[event["type"]] = event
                child.alive(settings.lease_kill_s)
                continue
            if not _renew_check(dataset, worker_id, child) or time.monotonic() > deadline:
                child.kill()
        code = child.wait()
    finally:
        child.kill()
        child.wait()
        shutil.rmtree(path, ignore_errors=True)
    result = last["result"]["values"] if code == 0 and "result" in last else None
    error = None if result is not None else _check_error(last.get("error"), code)
    with make_session() as session:
        datasets.finish_check(session, dataset, worker_id, result, error)


def _renew_check(dataset: Dataset, worker_id: str, child: runner.Child) -> bool:
    with make_session() as session:
        held = datasets.renew_check(session, dataset, worker_id)
    if held:
        child.alive(get_settings().lease_kill_s)
    return held


def _check_error(event: dict[str, Any] | None, code: int) -> ReportedError:
    """What the child reported; without a report it went over its limits."""
    if event is not None and (reported := parse_error(event)) is not None:
        return reported
    message = f"the check ended with code {code}: over its limits of time or memory"
    return ReportedError(code="data_invalid", message=message, hint="upload a smaller file")
