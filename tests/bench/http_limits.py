"""What bounded headers cost: requests a second, and how long one endless header stops the others.

    python -m tests.bench.http_limits            # both parsers in turns, about a minute

``before`` is uvicorn with httptools and no limit, ``after`` the API as
``app.serve`` starts it: 64 KiB of request line and headers, counted before the parser.
Writes ``tests/bench/results/http_limits_<cores>cores_<date>.json``.
"""

import contextlib
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.db import migrate
from app.db.session import make_engine
from models.catalog import kinds
from tests.bench.load import call, hammer
from tests.service import Service, wait_until
from tests.smallest import smallest

ROUNDS, REQUESTS = 5, 1000
HEADER_MB = 64
UPLOAD_MB = 256
FACTORY = ("uvicorn", "app.main:create_app", "--factory", "--no-access-log")
SERVERS = {"before": (*FACTORY, "--http", "httptools"), "after": ("app.serve",)}


@contextlib.contextmanager
def api(folder: Path, *command: str) -> Iterator[tuple[Service, int]]:
    """The API as a process of its own, on SQLite; the service and the id of the process."""
    database_url = f"sqlite:///{folder / 'bench.db'}"
    migrate.upgrade(make_engine(database_url))
    service = Service(folder, database_url)
    try:
        port = ("--port", str(service.port)) if command[0] == "uvicorn" else ()
        process = service._start("api", *command, *port)
        wait_until(lambda: service._answers(process), 30, "the API answers")
        yield service, process.pid
    finally:
        service.stop()


def rates(service: Service, pid: int) -> dict[str, float]:
    """Requests a second and their CPU time: of a small answer, a job's, a POST; MB/s of a PUT."""
    body = json.dumps({"spec": smallest(next(iter(kinds())))})
    made = service.submit()
    requests = {
        "healthz": ("GET", "/healthz", ""),
        "get_job": ("GET", f"/v1/jobs/{made}", ""),
        "post_job": ("POST", "/v1/jobs", body),
    }
    taken = {}
    for name, request in requests.items():
        of = hammer(service.port, REQUESTS, lambda c, _, request=request: call(c, *request), pid)
        taken |= {f"{name}_per_s": of["per_s"], f"{name}_cpu_ms": of["cpu_ms"]}
    return taken | {"upload_mb_per_s": upload(service)}


def upload(service: Service) -> float:
    """MB a second of one large PUT."""
    name = f"d{time.time_ns()}"
    service.client.post("/v1/datasets", json={"name": name, "format": "npz"})
    content = b"\0" * (UPLOAD_MB * 10**6)
    headers = {"Content-Type": "application/octet-stream"}
    began = time.perf_counter()
    answer = service.client.put(f"/v1/datasets/{name}/content", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return round(UPLOAD_MB / (time.perf_counter() - began), 1)


def longest_wait(service: Service) -> float:
    """Seconds that the slowest of others' requests takes while one header of 64 MiB comes."""
    done, waits = threading.Event(), [0.0]

    def ask() -> None:
        while not done.is_set():
            began = time.perf_counter()
            service.client.get("/healthz")
            waits.append(time.perf_counter() - began)

    other = threading.Thread(target=ask)
    other.start()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\na: ")
        with contextlib.suppress(OSError):  # refused
            for _ in range(HEADER_MB):
                connection.sendall(b"x" * 2**20)
    time.sleep(0.2)
    done.set()
    other.join()
    return round(max(waits), 3)


def main() -> None:
    """Measure both in turns and write the medians and every round."""
    folder = Path(tempfile.mkdtemp(prefix="sx-bench-"))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SERVERS}
    waits: dict[str, float] = {}
    for index in range(ROUNDS):
        for name, command in SERVERS.items():
            inner = folder / f"{name}{index}"
            inner.mkdir()
            with api(inner, *command) as (service, pid):
                rounds[name].append(rates(service, pid))
                if index == 0:
                    waits[name] = longest_wait(service)
    result: dict[str, Any] = {
        "what": "python -m tests.bench.http_limits",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("uvicorn", "h11", "httptools", "fastapi")},
        "longest_wait_s_during_a_header_of_64_mib": waits,
        "median": {
            name: {key: statistics.median(each[key] for each in of) for key in of[0]}
            for name, of in rounds.items()
        },
        "rounds": rounds,
    }
    text = json.dumps(result, indent=2)
    print(text)
    path = Path(__file__).parent / "results"
    name = f"http_limits_{os.cpu_count()}cores_{result['date']}.json"
    (path / name).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
