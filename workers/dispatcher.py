"""A thread of every worker: starts work without a wake-up, ends runs with dead leases.

Safe when many run at once: every change is a compare-and-set. With it alone, without any broker,
the service works; a message only makes it start sooner.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import cache, partial

import psutil
import structlog
from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.db.session import database_now, make_session
from app.db.tables import Job
from app.services import datasets, lifecycle, sweeps, workers
from app.settings import get_settings
from workers import run_folder, runner
from workers.host import process_started_at, this_host, versions
from workers.settler import Settler
from workers.work import check_next, run_next

CLEAN_EVERY_S = 60.0

log = structlog.get_logger(__name__)


class Dispatcher(threading.Thread):
    """Runs until the worker drains, then waits for the runs it started."""

    def __init__(self, period_s: float) -> None:
        super().__init__(name="dispatcher", daemon=True)
        self._period_s = period_s
        self._cleaned_at = -CLEAN_EVERY_S
        self._working: list[threading.Thread] = []
        self._settle = Settler(_safely)

    def run(self) -> None:
        """A pass each period, and at once when a slot became free."""
        host = this_host()
        _safely(end_orphans)
        next_pass_at = 0.0
        while not host.draining.is_set():
            if time.monotonic() >= next_pass_at:
                next_pass_at = time.monotonic() + self._period_s
                _safely(self._pass)
            more = _safely(self._settle)
            _safely(advance_sweeps)
            _safely(self._fill)
            host.changed.wait(0.0 if more else max(0.0, next_pass_at - time.monotonic()))
            host.changed.clear()
        _safely(_heartbeat)
        for thread in self._working:
            thread.join()
        _safely(_leave)

    def _pass(self) -> None:
        _heartbeat()
        with make_session() as session:
            ended = lifecycle.expire(session)
            lifecycle.time_out_queued(session)
            lifecycle.release(session, database_now(session))
        if ended:
            run_folder.sweep()
        _safely(partial(advance_sweeps, look_at_metrics=True))
        if time.monotonic() - self._cleaned_at >= CLEAN_EVERY_S:
            self._cleaned_at = time.monotonic()
            run_folder.sweep()

    def _fill(self) -> None:
        """Start a thread for each free slot that has something to do."""
        host = this_host()
        self._working = [thread for thread in self._working if thread.is_alive()]
        if host.check_free:
            with make_session(write=False) as session:
                check_waits = datasets.check_waiting(session)
            if check_waits:
                self._start("check", check_next)
        for name in host.queues:
            for _ in range(host.slots_free):
                with make_session(write=False) as session:
                    if not _waiting(session, name):
                        break
                self._start(name, partial(run_next, name))

    def _start(self, name: str, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=lambda: _safely(work), name=f"work-{name}")
        thread.start()
        self._working.append(thread)


def advance_sweeps(*, look_at_metrics: bool = False) -> None:
    """Make jobs of sweeps where there is room, and end those that have no more."""
    with make_session(write=False) as session:
        due = sweeps.due(session, look_at_metrics=look_at_metrics)
    for sweep_id in due:
        _safely(partial(_advance, sweep_id, look_at_metrics))


def _advance(sweep_id: str, look_at_metrics: bool) -> None:
    with make_session() as session:
        sweeps.advance(session, sweep_id, look_at_metrics=look_at_metrics)


def _waiting(session: Session, name: str) -> bool:
    """Whether this worker could start something of a queue now."""
    now = database_now(session)
    jobs = exists(
        select(Job.id).where(lifecycle.eligible(session, this_host().info(), [name], now))
    )
    return bool(session.scalar(select(jobs)))


def _heartbeat() -> None:
    host = this_host()
    with make_session() as session:
        workers.beat(
            session,
            host.id,
            host=host.name,
            boot_id=host.boot_id,
            pid=os.getpid(),
            queues=list(host.queues),
            gpus=list(host.gpus),
            slots=host.slots,
            slots_free=host.slots_free,
            versions=versions(),
            draining=host.draining.is_set(),
        )


def _leave() -> None:
    with make_session() as session:
        workers.leave(session, this_host().id)


def end_orphans() -> None:
    """Kill what a dead worker of this host left: its children that did not notice."""
    host = this_host()
    with make_session(write=False) as session:
        runs = workers.open_runs(session, host.name, host.boot_id)
        pids = {row.id: row.pid for row in workers.live(session)}
    for run in runs:
        if psutil.pid_exists(pids.get(run.worker_id, -1)) or run.pid is None:
            continue
        if process_started_at(run.pid) == run.pid_started_at:
            log.warning("orphan_killed", job_id=run.job_id, pid=run.pid)
            runner.signal_family(run.pid, signal.SIGKILL)


def _safely(call: Callable[[], object]) -> object:
    """What ``call`` returns, None if it fails; the thread must outlive whatever happens in it."""
    try:
        return call()
    except SQLAlchemyError as error:
        log.warning("database_away", error=str(error)[:200])
    except Exception:
        log.exception("dispatcher_failed")
    return None


@cache
def start_dispatcher() -> Dispatcher:
    """The one dispatcher of this process, started at the first call."""
    settings = get_settings()
    period_s = settings.worker_dispatch_s if settings.broker_url else settings.worker_poll_s
    dispatcher = Dispatcher(period_s)
    dispatcher.start()
    return dispatcher
