"""What ``make install`` costs from an empty folder, by revision, one after the other in turn.

    python -m tests.bench.install [REVISION ...]      # default: HEAD; some 2 minutes each

Unpacks each revision into a folder of its own, installs, then runs a short training as a worker
runs it: without writing bytecode. ``TORCH_ARGS`` as for make. Packages are downloaded each time
unless pip's cache has them; so wall seconds are of this network, CPU seconds are not. Writes
``tests/bench/results/install_<cores>cores_<date>.json``.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from models.catalog import kinds

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
ROUNDS = 2
KIND = "dynamic_downsampling.train"
EPOCHS = 5  # enough steps for the program to be written


def timed(folder: Path, *command: str | Path, **env: str) -> dict[str, float]:
    """CPU and wall seconds of a command that ends well."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=folder, env=os.environ | env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": round(cpu_s, 1), "wall_s": round(time.monotonic() - started, 1)}


def measured(revision: str) -> dict[str, dict[str, float]]:
    """Costs of one installation and of a training after it."""
    with tempfile.TemporaryDirectory(prefix="sx-install-") as scratch:
        folder = Path(scratch, "sextant")
        folder.mkdir()
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, stdout=-1, check=True)
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        figures = {"install": timed(folder, "make", "install", PYTHONDONTWRITEBYTECODE="")}
        run = Path(scratch, "run")
        run.mkdir()
        spec = dict(kinds()[KIND].example) | {"epochs": EPOCHS}
        (run / "spec.json").write_text(json.dumps(spec))
        command = (folder / ".venv" / "bin" / "python", "-m", "models", "run", run)
        figures["training"] = timed(folder, *command, PYTHONDONTWRITEBYTECODE="1")
        return figures


def hash_of(revision: str) -> str:
    """The short hash of a revision: its name may move on."""
    command = ["git", "rev-parse", "--short", revision]
    return subprocess.run(command, cwd=ROOT, stdout=-1, text=True, check=True).stdout.strip()


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Least and median of each figure."""
    return {
        f"{part}_{unit}": {"min": min(values), "median": median(values)}
        for part in rounds[0]
        for unit in rounds[0][part]
        if (values := [each[part][unit] for each in rounds])
    }


def main() -> None:
    """Install each revision in turn, print and write."""
    revisions = [hash_of(each) for each in sys.argv[1:] or ["HEAD"]]
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {each: [] for each in revisions}
    for _ in range(ROUNDS):
        for revision in revisions:
            rounds[revision].append(measured(revision))
            print(revision, rounds[revision][-1], flush=True)
    figures: dict[str, Any] = {"rounds": ROUNDS, "load_average": os.getloadavg()[0]}
    figures |= {revision: summary(rounds[revision]) for revision in revisions}
    target = RESULTS / f"install_{os.cpu_count()}cores_{datetime.now(UTC):%Y-%m-%d}.json"
    target.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
