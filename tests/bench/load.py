"""What the service benchmark measures, one function a figure."""

import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psutil
import sqlalchemy as sa

from app.db.session import make_engine
from app.db.tables import Job, Metric, new_id
from app.http.event_streams import MAX_STREAMS_PER_KEY
from models.catalog import kinds
from tests.service import Service
from tests.smallest import smallest

CLIENTS = 4


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
    spec = smallest(next(iter(kinds())))
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


def stream_delay(service: Service, count: int) -> dict[str, Any]:
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


def paced(port: int, per_s: float, count: int, request: Callable[[Any, int], int]) -> Any:
    """Latencies of requests sent at a fixed rate, from the time each was due."""
    times: list[float] = []
    began = time.perf_counter()

    def work(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for index in range(first, count, CLIENTS):
            due = began + index / per_s
            time.sleep(max(0.0, due - time.perf_counter()))
            request(connection, index)
            times.append(time.perf_counter() - due)
        connection.close()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_s": per_s, "requests": count, **percentiles(times)}


def million_points(service: Service, database_url: str, count: int) -> dict[str, Any]:
    """Time to read a long series as 1,000 buckets, through HTTP."""
    job_id = service.submit()
    service.wait(job_id)
    engine = make_engine(database_url)
    at = datetime.now(UTC)
    fixed = {"job_id": job_id, "name": "long", "run_number": 1, "tenant_id": "tenant_default"}
    with engine.execution_options(write=True).begin() as connection:
        for start in range(0, count, 50_000):
            steps = range(start + 1, min(start + 50_000, count) + 1)
            rows = [fixed | {"step": step, "at": at, "value": step * 0.1} for step in steps]
            connection.execute(sa.insert(Metric), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE metrics"))
    engine.dispose()
    times = []
    for _ in range(7):
        began = time.perf_counter()
        answer = service.client.get(f"/v1/jobs/{job_id}/metrics?names=long&max_points=1000")
        times.append((time.perf_counter() - began) * 1000)
        assert 900 <= len(answer.json()["series"]["long"]) <= 1000
    return {
        "points": count,
        "min_ms": round(min(times)),
        "median_ms": round(statistics.median(times)),
    }


def idle_streams(service: Service, pid: int, count: int, seconds: float) -> dict[str, Any]:
    """Share of a core and memory that open streams without news take in the API."""
    job_id = service.submit()
    api = psutil.Process(pid)
    memory = api.memory_info().rss
    path = f"/v1/jobs/{job_id}/events"
    with ExitStack() as streams:
        for index in range(count):
            if index % MAX_STREAMS_PER_KEY == 0:
                body = {"name": "reader", "scopes": ["jobs:read"]}
                key = service.client.post("/v1/keys", json=body).json()["key"]
            headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {key}"}
            answer = streams.enter_context(service.client.stream("GET", path, headers=headers))
            assert answer.status_code == 200, f"{answer.status_code}: {answer.read()!r}"
        time.sleep(1)
        cpu = sum(api.cpu_times()[:2])
        time.sleep(seconds)
        cpu = sum(api.cpu_times()[:2]) - cpu
        grown = api.memory_info().rss - memory
    service.client.post(f"/v1/jobs/{job_id}/cancel", json={"mode": "kill"})
    return {
        "streams": count,
        "share_of_a_core": round(cpu / seconds, 3),
        "growth_mb": round(grown / 2**20, 1),
    }


def first_line_with_torch(service: Service, count: int) -> dict[str, Any]:
    """From the POST of a real training to its first figure: import of torch, data, net, step."""
    heard = []
    for _ in range(count):
        job_id = service.submit()
        service.wait(job_id, timeout_s=120)
        events = service.client.get(f"/v1/jobs/{job_id}/events?limit=200").json()["data"]
        times = {e["type"]: datetime.fromisoformat(e["at"]) for e in reversed(events)}
        heard.append((times["progress"] - datetime.fromisoformat(events[0]["at"])).total_seconds())
    return {"jobs": count, "median_s": statistics.median(heard), "max_s": max(heard)}
