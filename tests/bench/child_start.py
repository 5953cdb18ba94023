"""What confinement adds to the start of a child, until its first instruction and until its end.

    python -m tests.bench.child_start            # both ways in turns, a few seconds

The child is a shell that writes one line: ``plain`` started as it is, ``confined`` by the words
that the worker puts before a run's command. Writes
``tests/bench/results/child_start_<cores>cores_<date>.json``.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from models.core import confine
from workers import containment
from workers.host import Grant

ROUNDS = 60
SHELL = ["/bin/sh", "-c", "echo here"]


def once(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Milliseconds until its first line and until its end, and CPU milliseconds of all of it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        first = time.perf_counter()
    ended = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1e3 * (first - began), 1e3 * (ended - began), 1e3 * cpu_s


def measure(folder: Path) -> dict[str, object]:
    """Both ways in turns; min and median of each figure."""
    ways = {"plain": [], "confined": containment.prefix(folder, Grant((), 1), "run", 0)}
    times: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, words in ways.items():
            times[way].append(once([*words, *SHELL], folder))
    names = ("first_line_ms", "end_ms", "cpu_ms")
    return {
        way: {
            name: {"min": round(min(column), 2), "median": round(statistics.median(column), 2)}
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }
        for way, rows in times.items()
    }


def main() -> None:
    """Measure and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder).resolve())
    today = datetime.now(UTC).date().isoformat()
    described = {
        "date": today,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "landlock": confine.landlock_version(),
        "load_before": os.getloadavg()[0],
        "rounds": ROUNDS,
    }
    results = Path(__file__).with_name("results")
    path = results / f"child_start_{os.cpu_count()}cores_{today}.json"
    path.write_text(json.dumps(described | figures, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
