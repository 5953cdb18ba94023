"""The thread beside every run: keeps its lease, its limits and its stop sequence."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from app.db.failures import is_temporary
from app.db.session import make_session
from app.db.tables import Run
from app.schemas.errors import ReportedError
from app.services import lifecycle
from app.settings import get_settings
from workers import runner
from workers.host import Grant, gpu_memory_mb, this_host

DISK_FLOOR_BYTES = 64 * 2**20
SAVED = ("checkpoint", "chunk")  # roles of files without which a later run cannot go on

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunLimits:
    """What one run may use: wall seconds and resident MiB (0: no limit)."""

    timeout_s: float
    memory_mb: int = 0


class Guard(threading.Thread):
    """Holds a run from its claim to :meth:`dismiss`, and watches its child once there is one.

    Attributes:
        lost: the lease is gone: nothing of this run counts any more.
        stop_reason: why the run was stopped, if this thread stopped it.
        error: the error that the stop stands for, such as a timeout.
    """

    def __init__(self, run: Run, grant: Grant) -> None:
        super().__init__(name=f"guard-{run.job_id}", daemon=True)
        self.run_row, self.grant = run, grant
        self.child: runner.Child | None = None
        self.limits = RunLimits(timeout_s=float("inf"))
        self.lost = False
        self.stop_reason: str | None = None
        self.error: ReportedError | None = None
        self.peak_rss_mb = 0.0
        self.peak_gpu_mb: float | None = None
        self._settings = get_settings()
        self._done = threading.Event()
        self._started_at = self._renewed_at = time.monotonic()
        self._next_renewal_at = self._renewed_at
        self._deadlines: list[tuple[float, str]] = []  # (monotonic time, terminate or kill)
        self._grace_s = float("inf")
        self._stopped_at = self._kill_at = float("inf")

    def watch(self, child: runner.Child, limits: RunLimits) -> None:
        """Take care of the run's child, too; one that starts after a stop is killed at once."""
        self.limits, self.child = limits, child
        child.alive(self._settings.lease_kill_s)
        if self.stop_reason is not None:
            child.kill()

    def run(self) -> None:
        """One check every tick; sooner than a lease can run out."""
        tick = min(self._settings.worker_tick_s, self._settings.lease_renew_s)
        while not self._done.wait(tick):
            try:
                self._check()
            except Exception:  # without this thread the lease and the limits are gone
                log.exception("guard_failed", job_id=self.run_row.job_id)

    def _check(self) -> None:
        self._keep_lease()
        self._check_limits()
        if this_host().draining.is_set():
            self.stop("shutdown", self._settings.worker_shutdown_s)
        self._escalate()

    def dismiss(self) -> None:
        """End the thread: the run is closed."""
        self._done.set()

    def may_store(self, role: str) -> bool:
        """Whether a file of the run may still be stored.

        After a stop checkpoints, and chunks that a checkpoint counts as done, have the time that
        the child has to save one, other files the time that it has without saving; none is left
        after a kill.
        """
        now = time.monotonic()
        if self.lost or now >= self._kill_at:
            return False
        return role in SAVED or now < self._stopped_at + self._settings.worker_stop_s

    # -- the lease ---------------------------------------------------------------------------

    def _keep_lease(self) -> None:
        now = time.monotonic()
        if now < self._next_renewal_at or self.lost:
            return
        self._next_renewal_at = now + self._settings.lease_renew_s
        try:
            with make_session() as session:
                renewal = lifecycle.renew(session, self.run_row)
        except Exception as error:
            if not is_temporary(error):
                log.exception("renewal_refused", job_id=self.run_row.job_id)
            log.warning("renewal_failed", job_id=self.run_row.job_id, error=str(error)[:200])
            self._without_database(time.monotonic() - self._renewed_at)  # the attempt took time
            return
        if renewal.lost:
            self._lose("lease_lost")
            return
        self._renewed_at = now
        if self.child is not None:
            self.child.alive(self._settings.lease_kill_s)
        self._obey(renewal)

    def _obey(self, renewal: lifecycle.RenewalResult) -> None:
        """Stop for a cancel or a pause."""
        if renewal.cancel_mode == "kill":
            self.stop("cancel", 0, save=False)
        elif renewal.cancel_mode is not None:
            grace_s = self._settings.worker_save_s if renewal.save else self._settings.worker_stop_s
            self.stop("cancel", grace_s, save=renewal.save)
        elif renewal.pause:
            self.stop("pause", self._settings.worker_save_s)

    def _without_database(self, silent_s: float) -> None:
        """The old run must be dead before the reaper may give the job to another worker."""
        if silent_s >= self._settings.lease_kill_s:
            self._lose("lease_lost")
        elif silent_s >= self._settings.lease_stop_s:
            self.stop("lease", self._settings.lease_kill_s - self._settings.lease_stop_s)
            self.error = ReportedError(code="lease_lost", message="the database was away too long")

    def _lose(self, reason: str) -> None:
        log.warning("lease_lost", job_id=self.run_row.job_id, run_number=self.run_row.number)
        self.lost = True
        self.stop_reason = reason
        if self.child is not None:
            self.child.kill()

    # -- the limits --------------------------------------------------------------------------

    def _check_limits(self) -> None:
        if self.child is None:
            return
        rss_mb, pids = self.child.usage()
        self.peak_rss_mb = max(self.peak_rss_mb, rss_mb)
        gpu_mb = gpu_memory_mb(pids, self.grant.gpus)
        if gpu_mb is not None:
            self.peak_gpu_mb = max(self.peak_gpu_mb or 0.0, gpu_mb)
        if time.monotonic() - self._started_at > self.limits.timeout_s:
            text = f"the run took longer than limits.timeout_s = {self.limits.timeout_s:g} s"
            self._end("timeout", text, "raise limits.timeout_s; retry goes on from the checkpoint")
        elif self.limits.memory_mb and rss_mb > self.limits.memory_mb:
            text = f"{rss_mb:.0f} MiB resident, resources.memory_mb is {self.limits.memory_mb}"
            self._end("host_out_of_memory", text, "raise resources.memory_mb")
        elif _disk_free_bytes(self.child.folder) < DISK_FLOOR_BYTES:
            self._end("storage_full", "the worker's disk is full", "free space in its state folder")

    def _end(self, code: str, message: str, hint: str) -> None:
        """Stop for good; only a timeout leaves time to save."""
        if self.stop_reason is None:
            self.error = ReportedError(code=code, message=message, hint=hint)
        save = code == "timeout"
        self.stop(code, self._settings.worker_save_s if save else 0, save=save)

    # -- the stop sequence -------------------------------------------------------------------

    def stop(self, reason: str, grace_s: float, *, save: bool = True) -> None:
        """Ask, after ``grace_s`` SIGTERM, then SIGKILL; a second call may only shorten the wait."""
        now = time.monotonic()
        if self.stop_reason is None:
            self.stop_reason = reason
            self._stopped_at = now
            if self.child is not None:
                self.child.stop(reason, save=save)
        elif grace_s >= self._grace_s:
            return
        self._grace_s = grace_s
        term_at = now + grace_s
        kill_at = term_at + (self._settings.worker_term_s if grace_s else 0)
        self._kill_at = kill_at
        self._deadlines = [(term_at, "terminate"), (kill_at, "kill")]

    def _escalate(self) -> None:
        while self._deadlines and time.monotonic() >= self._deadlines[0][0]:
            name = self._deadlines.pop(0)[1]
            if self.child is not None:
                getattr(self.child, name)()


def _disk_free_bytes(folder: Path) -> int:
    return psutil.disk_usage(str(folder)).free
