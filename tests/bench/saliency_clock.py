"""Clocks, checks and memory that the saliency benchmarks share."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return time.perf_counter() - wall, time.process_time() - cpu, answer


def interleaved(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Each work once as a warm-up, then ``rounds`` times in turn; the first result is kept."""
    timings: dict[str, Any] = {name: {"wall_s": [], "cpu_s": []} for name in works}
    for name, work in works.items():
        timings[name]["first_s"], _, timings[name]["answer"] = timed(work)
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu, _ = timed(work)
            timings[name]["wall_s"].append(wall)
            timings[name]["cpu_s"].append(cpu)
    return timings


def summary(
    timings: dict[str, Any], ours: str, check: Callable[[Any, Any], float]
) -> dict[str, Any]:
    """Minimum and median of each work, ratios of the best peer to ours, difference of answers."""
    figures: dict[str, Any] = {}
    for name, entry in timings.items():
        figures[name] = {"first_s": round(entry["first_s"], 3)}
        for clock in ("wall_s", "cpu_s"):
            figures[name][f"{clock}_min"] = round(min(entry[clock]), 4)
            figures[name][f"{clock}_median"] = round(statistics.median(entry[clock]), 4)
        if name != ours:
            figures[name]["max_difference"] = check(entry["answer"], timings[ours]["answer"])
    peers = [name for name in timings if name != ours]
    for figure in ("wall_s_min", "wall_s_median", "cpu_s_min", "cpu_s_median"):
        best = min(figures[name][figure] for name in peers)
        figures[f"ratio_{figure}"] = round(best / figures[ours][figure], 2)
    return figures


def gap(a: Any, b: Any) -> float:
    return float((torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max())


def resident(name: str) -> int:
    """A field of this process' Linux status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))


def describe() -> dict[str, Any]:
    versions = {}
    for name in ("torch", "captum", "quantus", "numpy", "scikit-image"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor(),
    )  # fmt: skip
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


MEMORY = ("occlusion_32", "occlusion_16", "rise_100", "rise_1000", "deletion_224")


def memory(quick: bool) -> dict[str, Any]:
    """Peak resident memory beyond net and plan, MiB, each job in a process of its own."""
    peaks = {}
    for name in MEMORY[:1] if quick else MEMORY:
        command = [sys.executable, "-m", "tests.bench.saliency", "--memory-of", name]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = json.loads(process.stdout.splitlines()[-1])
    return peaks
