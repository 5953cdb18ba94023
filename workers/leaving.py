"""A thread that ends its worker: at a time that is set, or once there has been nothing to do.

For workers that a batch system or an autoscaler starts: they leave as by SIGTERM, which lets every
run save and go back to the queue.
"""

import os
import signal
import threading
import time

import structlog

from app.settings import get_settings
from workers.host import this_host

LOOK_S = 1.0

log = structlog.get_logger(__name__)


class Leaver(threading.Thread):
    """Looks every second whether its worker should leave.

    Args:
        drain_after_s: seconds from now after which it leaves, whatever it does; 0: never.
        leave_idle_s: seconds without a run or a check after which it leaves; 0: never.
    """

    def __init__(self, drain_after_s: float, leave_idle_s: float) -> None:
        super().__init__(name="leaver", daemon=True)
        self._drain_after_s = drain_after_s or float("inf")
        self._leave_idle_s = leave_idle_s or float("inf")
        self._began_at = self._worked_at = time.monotonic()

    def run(self) -> None:
        """Until the worker drains."""
        host = this_host()
        while not host.draining.wait(LOOK_S):
            if reason := self._reason(busy=host.busy):
                log.info("worker_leaves", reason=reason)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _reason(self, *, busy: bool) -> str | None:
        now = time.monotonic()
        if busy:
            self._worked_at = now
        if now - self._began_at >= self._drain_after_s:
            return "its time is over"
        return "nothing to do" if now - self._worked_at >= self._leave_idle_s else None


def start_leaver() -> None:
    """Start it, where the settings ask for it."""
    settings = get_settings()
    if settings.worker_drain_after_s or settings.worker_leave_idle_s:
        Leaver(settings.worker_drain_after_s, settings.worker_leave_idle_s).start()
