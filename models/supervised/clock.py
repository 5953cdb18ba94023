"""How long the steps of each mode take and how much GPU memory they need."""

import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

WARMUP_STEPS = 5  # of each mode: algorithm search, allocation and graph capture happen here
KEPT = 1000  # samples a mode that medians come from


class StepClock:
    """Seconds of training, and samples of single steps after the warm-up of their mode.

    Steps on a GPU are timed by events, which do not make the host wait; :meth:`collect` reads them.

    Attributes:
        seconds: of training so far, steps with their batches; tests and checkpoints excluded.
        warmup_seconds: part of ``seconds`` spent in the first steps of each mode.
        counts: steps by mode.
        peak_bytes: most GPU memory in use in a warm-up step, by mode; empty on a CPU.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._fresh: dict[str, int] = {}
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._samples: dict[str, deque[float]] = {}
        self.counts: dict[str, int] = {}
        self.peak_bytes: dict[str, int] = {}
        self.seconds = 0.0
        self.warmup_seconds = 0.0

    @contextmanager
    def step(self, mode: str) -> Generator[None]:
        """Time one step of a mode."""
        self.counts[mode] = self.counts.get(mode, 0) + 1
        self._fresh[mode] = self._fresh.get(mode, 0) + 1
        if self._fresh[mode] <= WARMUP_STEPS:
            measured = self._warming(mode)
        elif self._on_gpu:
            measured = self._between_events(mode)
        else:
            measured = self._on_cpu(mode)
        with measured:
            yield

    @contextmanager
    def _warming(self, mode: str) -> Generator[None]:
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        yield
        if self._on_gpu:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            self.peak_bytes[mode] = max(peak, self.peak_bytes.get(mode, 0))
        self.warmup_seconds += time.perf_counter() - started

    @contextmanager
    def _between_events(self, mode: str) -> Generator[None]:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._pending.append((mode, first, last))

    @contextmanager
    def _on_cpu(self, mode: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        self._add(mode, time.perf_counter() - started)

    def _add(self, mode: str, seconds: float) -> None:
        self._samples.setdefault(mode, deque(maxlen=KEPT)).append(seconds)

    def collect(self) -> None:
        """Read the events of finished steps; the caller has waited for the GPU."""
        for mode, first, last in self._pending:
            last.synchronize()
            self._add(mode, first.elapsed_time(last) / 1000)
        self._pending.clear()

    def median_ms(self, mode: str) -> float | None:
        """Median milliseconds of a step; None before there is a sample."""
        samples = self._samples.get(mode)
        return 1000 * median(samples) if samples else None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can hold it."""
        return {
            "seconds": self.seconds,
            "warmup_seconds": self.warmup_seconds,
            "counts": self.counts,
            "peak_bytes": self.peak_bytes,
            "samples": {mode: list(samples) for mode, samples in self._samples.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.seconds, self.warmup_seconds = state["seconds"], state["warmup_seconds"]
        self.counts, self.peak_bytes = dict(state["counts"]), dict(state["peak_bytes"])
        for mode, samples in state["samples"].items():
            self._samples[mode] = deque(samples, maxlen=KEPT)
