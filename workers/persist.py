"""Writes of a run that must not be lost: repeated while its lease is held."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from app.db.failures import is_temporary
from app.db.session import make_session
from app.db.tables import Run
from app.schemas.errors import ReportedError
from app.services import lifecycle
from app.services.outcome import Outcome

RETRY_S = 1.0
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """The database stayed away until the lease was gone: nothing of the run counts any more."""


def within_lease(call: Callable[[], Result], lost: Callable[[], bool]) -> Result:
    """What ``call`` returns; repeated while the database is away and the lease is not ``lost``.

    Raises:
        LeaseLostError: once the lease is lost.
        Exception: whatever else ``call`` raises.
    """
    while True:
        if lost():
            raise LeaseLostError
        try:
            return call()
        except Exception as error:
            if not is_temporary(error):
                raise
            log.warning("database_away", error=str(error)[:200])
        time.sleep(RETRY_S)


def close(run: Run, outcome: Outcome, lost: Callable[[], bool]) -> None:
    """Write the end of a run; one that the database refuses ends as ``internal``.

    Raises:
        LeaseLostError: if the database stayed away too long.
    """
    try:
        within_lease(lambda: _finish(run, outcome), lost)
    except LeaseLostError:
        raise
    except Exception as error:
        log.exception("outcome_refused", job_id=run.job_id, run_number=run.number)
        plain = Outcome(exit_code=outcome.exit_code, stop_reason=outcome.stop_reason)
        plain.error = internal_error("the end of the run could not be stored", error)
        within_lease(lambda: _finish(run, plain), lost)


def _finish(run: Run, outcome: Outcome) -> None:
    with make_session() as session:
        lifecycle.finish(session, run, outcome)


def internal_error(what: str, error: BaseException) -> ReportedError:
    """A failure of the service or of what a run handed over, with the class of the exception."""
    cause = getattr(error, "orig", None) or error
    first = str(cause).strip().partition("\n")[0][:300]
    message = f"{what}: {type(cause).__name__}: {first}"
    return ReportedError(code="internal", message=message)
