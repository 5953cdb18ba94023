"""Lets jobs that wait for others go on, or ends them, a little at a time."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from app.db.session import database_now, make_session
from app.services import dependencies
from app.services.dependencies import BEGINNING, Place

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
        self._place: Place | None = BEGINNING  # of the look at every row; None between two
        self._all_at = 0.0

    def __call__(self) -> bool:
        """Settle for a second; whether more is left than that was enough for."""
        until = time.monotonic() + SHARE_S
        with make_session(write=False) as session:
            now = database_now(session)
        if not self._settle_ended(self._since or now - LATE, until):
            return True
        self._since = now - LATE
        return not self._settle_all(until)

    def _settle_ended(self, since: datetime, until: float) -> bool:
        """Settle what is due, and what becomes due by it; whether that was all."""
        tried: set[str] = set()
        while time.monotonic() < until:
            with make_session(write=False) as session:
                due = dependencies.due(session, since, besides=tried)
            if not due:
                return True
            for job_id in sorted(due):
                if time.monotonic() >= until:
                    return False
                tried.add(job_id)
                self._safely(partial(_settle_one, job_id))
        return False

    def _settle_all(self, until: float) -> bool:
        """Go on with the look at every row, if it is time for one; whether it is over."""
        if self._place is None and time.monotonic() >= self._all_at:
            self._place = BEGINNING
        while self._place is not None:
            if time.monotonic() >= until:
                return False
            with make_session(write=False) as session:
                look = dependencies.look(session, self._place)
            for place in look.due:
                if time.monotonic() >= until:
                    return False
                self._safely(partial(_settle_one, place[0]))
                self._place = place
            self._place = look.last
            self._all_at = time.monotonic() + ALL_EVERY_S
        return True


def _settle_one(job_id: str) -> None:
    with make_session() as session:
        dependencies.settle(session, job_id)
