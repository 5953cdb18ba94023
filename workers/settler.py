"""Lets jobs that wait for others go on, or ends them, a little at a time."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from app.db.session import database_now, make_session
from app.services import dependencies

LATE = timedelta(seconds=60)  # how much later than it says a source may have been committed
ALL_EVERY_S = 300.0
SHARE_S = 1.0  # then the dispatcher has its turn again: it keeps the worker alive


class Settler:
    """Looks at the sources that have ended since the look before; now and then at every row.

    Args:
        safely: carries a call out; must raise nothing.
    """

    def __init__(self, safely: Callable[[Callable[[], object]], object]) -> None:
        self._safely = safely
        self._since: datetime | None = None
        self._all_at = 0.0

    def __call__(self) -> bool:
        """Settle for a second; whether more is left than that was enough for."""
        if time.monotonic() >= self._all_at:
            self._since = None
        with make_session(write=False) as session:
            now = database_now(session)
        if not self._settle(time.monotonic() + SHARE_S):
            return True
        if self._since is None:
            self._all_at = time.monotonic() + ALL_EVERY_S
        self._since = now - LATE
        return False

    def _settle(self, until: float) -> bool:
        """Settle what is due, and what becomes due by it; whether that was all."""
        tried: set[str] = set()
        while time.monotonic() < until:
            with make_session(write=False) as session:
                due = dependencies.due(session, self._since, besides=tried)
            if not due:
                return True
            for job_id in sorted(due):
                tried.add(job_id)
                self._safely(partial(_settle_one, job_id))
                if time.monotonic() >= until:
                    return False
        return False


def _settle_one(job_id: str) -> None:
    with make_session() as session:
        dependencies.settle(session, job_id)
