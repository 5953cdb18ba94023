"""The check of an uploaded dataset, in a child with caps of memory and time."""

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from app.db.failures import is_temporary
from app.db.session import make_session
from app.db.tables import Dataset
from app.errors import ServiceError, UnavailableError
from app.schemas.errors import ReportedError
from app.services import datasets
from app.services.child_lines import BrokenLine, ErrorLine, Line, ResultLine
from app.settings import get_settings
from workers import run_folder, runner
from workers.host import Grant, this_host
from workers.persist import LeaseLostError, internal_error, within_lease

PICTURE = "preview.jpg"
PICTURE_BYTES = 128 * 1024
JPEG = b"\xff\xd8\xff"

log = structlog.get_logger(__name__)


def check(dataset: Dataset, worker_id: str) -> None:
    """Validate an uploaded dataset; whatever happens, it gets a status or the lease is lost."""
    lease = _Lease(dataset, worker_id)
    try:
        lease.finish(within_lease(lambda: _examine(lease), lease.lost))
    except _DrainingError:
        lease.release()
    except (LeaseLostError, UnavailableError) as error:  # another worker looks at it later
        log.warning("check_given_up", dataset_id=dataset.id, reason=str(error))
    except Exception as error:
        log.exception("check_failed", dataset_id=dataset.id)
        lease.finish(_Verdict(error=internal_error("the check could not be carried out", error)))
    finally:
        shutil.rmtree(run_folder.check_path_of(dataset), ignore_errors=True)


class _Verdict(NamedTuple):
    """What a check found: counts and a picture, or why the dataset cannot be used."""

    counts: dict[str, Any] | None = None
    error: ReportedError | None = None
    picture: bytes | None = None


class _DrainingError(Exception):
    """This worker shuts down."""


class _Lease:
    """The hold of this worker on a dataset."""

    def __init__(self, dataset: Dataset, worker_id: str) -> None:
        self.dataset, self._worker_id = dataset, worker_id
        self._renewed_at = time.monotonic()
        self._gone = False

    def lost(self) -> bool:
        """Whether another worker may have the dataset, or soon."""
        silent_s = time.monotonic() - self._renewed_at
        return self._gone or silent_s >= get_settings().lease_kill_s

    def renew(self) -> bool:
        """Extend it; False while the database is away, and once it is lost."""
        began_at = time.monotonic()
        try:
            with make_session() as session:
                held = datasets.renew_check(session, self.dataset, self._worker_id)
        except Exception as error:
            if not is_temporary(error):
                raise
            return False
        if held:
            self._renewed_at = began_at
        self._gone = not held
        return held

    def finish(self, verdict: "_Verdict") -> None:
        """Write the end of the check."""
        self._write(datasets.finish_check, *verdict)

    def release(self) -> None:
        """Leave the dataset to another worker."""
        self._write(datasets.release_check)

    def _write(self, call: Callable[..., bool], *values: Any) -> None:
        def once() -> None:
            with make_session() as session:
                call(session, self.dataset, self._worker_id, *values)

        within_lease(once, self.lost)


def _examine(lease: _Lease) -> _Verdict:
    try:
        path = run_folder.prepare_check(lease.dataset)
    except UnavailableError:
        raise
    except (ServiceError, run_folder.RefusedError, FileNotFoundError) as error:
        return _Verdict(error=ReportedError(code="data_missing", message=str(error)))
    settings = get_settings()
    child = runner.start(path, Grant((), 1), "check", memory_mb=settings.upload_memory_mb)
    try:
        last = _watch(child, lease)
        code = child.wait()
    finally:
        child.kill()
        child.wait()
    if lease.lost():
        raise LeaseLostError
    if code == 0 and isinstance(result := last.get("result"), ResultLine):
        return _Verdict(result.values, picture=_picture(path))
    if this_host().draining.is_set():
        raise _DrainingError
    return _Verdict(error=_check_error(last, code))


def _picture(folder: Path) -> bytes | None:
    """The picture that a child left; none where it is anything but a small JPEG of its own."""
    try:
        descriptor = os.open(folder / PICTURE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        content = os.read(descriptor, PICTURE_BYTES + 1) if regular else b""
    finally:
        os.close(descriptor)
    return content if content.startswith(JPEG) and len(content) <= PICTURE_BYTES else None


def _watch(child: runner.Child, lease: _Lease) -> dict[str, Line]:
    """The newest line of each type that the child sent before its end."""
    settings = get_settings()
    deadline = time.monotonic() + settings.upload_timeout_s
    last: dict[str, Line] = {}
    for line in child.events(settings.worker_tick_s):
        if line is not None:
            last[line.type] = line
            child.alive(settings.lease_kill_s)
            continue
        if lease.renew():
            child.alive(settings.lease_kill_s)
        if lease.lost() or time.monotonic() > deadline or this_host().draining.is_set():
            child.kill()
    return last


def _check_error(last: dict[str, Line], code: int) -> ReportedError:
    """What the child reported; without a report it went over its limits."""
    match last.get("error") or last.get("result"):
        case ErrorLine() as line:
            return line.reported()
        case BrokenLine() as line:
            message = f"the check answered what cannot be stored: {line.problem}"
            return ReportedError(code="internal", message=message)
    message = f"the check ended with code {code}: over its limits of time or memory"
    return ReportedError(code="data_invalid", message=message, hint="upload a smaller file")
