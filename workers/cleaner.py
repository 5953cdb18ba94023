"""Threads of every worker that clean up, each one chore at a bounded share of the time.

Of all workers one does a chore at a time, under a lease. The chore rests after each of its steps
for four times as long as the step took, so that jobs, streams and other chores go on beside it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import make_session
from app.services import (
    chores,
    collection,
    counters,
    growth,
    idempotency,
    outbox,
    retention,
    workers,
)
from app.settings import get_settings
from workers.host import this_host

REST = 4.0  # times as long as a step took
MINUTE_S, HOUR_S = 60.0, 3600.0

log = structlog.get_logger(__name__)


class ChoreDefinition(NamedTuple):
    """A chore: how often it is done, and its steps."""

    name: str
    every_s: float
    steps: Callable[[], Iterator[None]]


def tidy() -> Iterator[None]:
    """Forget answers that are no longer repeated and workers that are gone, sum up counters."""
    more = True
    while more:
        with make_session() as session:
            more = idempotency.forget_expired(session)
        yield
    with make_session() as session:
        workers.forget_gone(session)
        outbox.forget_old(session)
    more = True
    while more:
        with make_session() as session:
            more = counters.compact(session)
        yield


CHORES = (
    ChoreDefinition("tidy", MINUTE_S, tidy),
    ChoreDefinition("collect", MINUTE_S, collection.collect),
    ChoreDefinition("retention", HOUR_S, retention.apply),
    ChoreDefinition("sweep", HOUR_S, collection.sweep),
    ChoreDefinition("size", HOUR_S, growth.note),
)


class Cleaner(threading.Thread):
    """Does one chore whenever it is due and no other worker has it, until the worker drains."""

    def __init__(self, chore: ChoreDefinition) -> None:
        super().__init__(name=f"cleaner-{chore.name}", daemon=True)
        self._chore = chore
        self._stop = this_host().draining

    def run(self) -> None:
        """Look for something to do every few seconds."""
        while not self._stop.wait(get_settings().worker_dispatch_s):
            try:
                self.pass_once()
            except SQLAlchemyError as error:
                log.warning("database_away", error=str(error)[:200])
            except Exception:
                log.exception("cleaner_failed", chore=self._chore.name)

    def pass_once(self) -> bool:
        """Do the chore if it is due; False if it is not, or not to its end."""
        chore, owner = self._chore, this_host().id
        with make_session(write=False) as session:
            if not chores.due(session, chore.name, chore.every_s):
                return False
        with make_session() as session:
            if not chores.take(session, chore.name, chore.every_s, owner):
                return False
        done = True  # also where it fails: it is tried again a period later
        try:
            done = self._work()
        finally:
            with make_session() as session:
                chores.leave(session, chore.name, owner, done=done)
        return done

    def _work(self) -> bool:
        """Carry out the steps; False when the lease was lost or the worker drains."""
        settings = get_settings()
        renewed_at = began = time.monotonic()
        for _ in self._chore.steps():
            took_s = time.monotonic() - began
            if time.monotonic() - renewed_at > settings.lease_renew_s:
                renewed_at = time.monotonic()
                with make_session() as session:
                    if not chores.renew(session, self._chore.name, this_host().id):
                        return False
            if self._stop.wait(min(REST * took_s, settings.lease_renew_s)):
                return False
            began = time.monotonic()
        return True


@cache
def start_cleaners() -> tuple[Cleaner, ...]:
    """The cleaners of this process, started at the first call."""
    cleaners = tuple(Cleaner(chore) for chore in CHORES)
    for cleaner in cleaners:
        cleaner.start()
    return cleaners
