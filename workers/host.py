"""What this worker process is and has: its identity, its slots, its GPUs."""

import os
import platform
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import structlog
import uuid_utils

from app.services.lifecycle import WorkerInfo
from app.settings import get_settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Grant:
    """What one run may use: GPU UUIDs (none: CPU) and a number of cores."""

    gpus: tuple[str, ...]
    cpus: int


class Host:
    """Identity and free resources of this worker; thread-safe.

    Attributes:
        draining: set once the worker shuts down: nothing new is started.
        changed: set when a slot or GPU became free or the worker shuts down.
        claiming: held from reading what is free to taking it.
    """

    def __init__(self) -> None:
        settings = get_settings()
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid_utils.uuid4().hex[:8]}"
        self.name = socket.gethostname()
        self.boot_id = boot_id()
        self.gpus = find_gpus(settings.worker_gpus)
        self.queues = settings.worker_queue_names or _own_queues(self.gpus)
        self.slots = settings.worker_slots
        self.draining = threading.Event()
        self.changed = threading.Event()
        self.claiming = threading.Lock()
        self._slots_free = self.slots
        self._gpus_free = list(self.gpus)
        self._lock = threading.Lock()

    @property
    def slots_free(self) -> int:
        """Runs that could start now."""
        return 0 if self.draining.is_set() else self._slots_free

    def info(self) -> WorkerInfo:
        """This worker as a claimant."""
        return WorkerInfo(
            id=self.id,
            host=self.name,
            boot_id=self.boot_id,
            queues=self.queues,
            gpus_total=len(self.gpus),
            gpus_free=len(self._gpus_free),
        )

    @contextmanager
    def slot(self) -> Generator[bool]:
        """Hold a slot; yields False, without waiting, when none is free or the worker drains."""
        with self._lock:
            taken = self.slots_free > 0
            self._slots_free -= taken
        try:
            yield taken
        finally:
            with self._lock:
                self._slots_free += taken
            if taken:
                self.changed.set()

    def take(self, device: str, gpus: int, cpus: int | None) -> Grant:
        """Take the GPUs a job asks for (one where it says ``auto``) and its share of the cores."""
        wanted = 0 if device == "cpu" or not self.gpus else max(gpus, 1)
        with self._lock:
            given = tuple(self._gpus_free[:wanted])
            del self._gpus_free[:wanted]
        share = max(1, (os.cpu_count() or 1) // self.slots)
        return Grant(given, cpus or share)

    def give_back(self, grant: Grant) -> None:
        """Return the GPUs of a run that has ended."""
        with self._lock:
            self._gpus_free.extend(grant.gpus)


@cache
def this_host() -> Host:
    """The one Host of this process."""
    return Host()


def _own_queues(gpus: tuple[str, ...]) -> tuple[str, ...]:
    return ("gpu", "default") if gpus else ("default",)


def boot_id() -> str:
    """Changes at every boot: a pid noted before it says nothing afterwards."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(int(psutil.boot_time()))


def find_gpus(setting: str) -> tuple[str, ...]:
    """UUIDs of the GPUs this worker may use, by NVML; CUDA itself is never touched here."""
    if setting == "none":
        return ()
    if setting != "auto":
        return tuple(name.strip() for name in setting.split(","))
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        return tuple(str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles)
    except Exception as error:  # the library or the driver is missing: a CPU machine
        log.debug("no_gpu", reason=str(error))
        return ()


def gpu_memory_mb(pids: set[int], gpus: tuple[str, ...]) -> float | None:
    """Memory that processes hold on GPUs in MiB; None where it cannot be read."""
    if not gpus:
        return None
    try:
        import pynvml

        handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in gpus]
        used = [
            process.usedGpuMemory or 0
            for handle in handles
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid in pids
        ]
    except Exception as error:
        log.debug("no_gpu_memory", reason=str(error))
        return None
    return sum(used) / 2**20


def versions() -> dict[str, str]:
    """Versions of this worker, for its row and for the lineage of jobs."""
    from importlib.metadata import version

    return {"code": version("sextant-jobs"), "python": platform.python_version()}


def process_started_at(pid: int) -> float | None:
    """Start time of a process, which tells it from a later one with the same pid."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
