"""What the bench of scale measures, one function a figure."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from app.db.session import database_now, get_engine, make_engine, make_session
from app.db.tables import Artifact, Job, JobDependency, Metric
from app.services import collection, dependencies, lifecycle
from app.services.lifecycle import WorkerInfo
from app.settings import get_settings
from models.catalog import kinds
from tests.app.factories import carry_out
from tests.bench.load import percentiles
from tests.bench.scale_fill import BASE_MS, JOB_EVERY_MS, analyze
from tests.bench.service import DEFAULTS
from tests.service import Service
from tests.smallest import smallest

LARGEST_JOB = f"job_{BASE_MS:012x}70008{0:015x}"
REPEATS = 60
CLAIMS = 60
LATER = datetime(2100, 1, 1, tzinfo=UTC)
WAITING_LATER = 100_000
SWEPT = 20_000
FILTERS = {
    "first page": "",
    "oldest first": "order=created_at",
    "status failed": "status=failed",
    "status running or queued": "status=running&status=queued",
    "kind": "kind=saliency.map",
    "kind, none there": "kind=terrain.train&created_before=2025-01-01T00:00:01Z",
    "method": "method=terrain",
    "name of many": "name=sweep+6",
    "name of one": "name=run+3456",
    "name, none there": "name=none",
    "metadata of many": "metadata.team=t2",
    "metadata of one": "metadata.note=n4241",
    "metadata, none there": "metadata.team=none",
    "kind and status": "kind=terrain.train&status=failed",
    "metadata and status": "metadata.team=t2&status=failed",
    "metadata and kind": "metadata.team=t2&kind=terrain.train",
    "metadata and status, none there": "metadata.team=t8&status=failed",
    "name and status": "name=sweep+6&status=succeeded",
    "name and status, none there": "name=sweep+6&status=cancelled",
    "search, in many names": "search=SWEEP",
    "search, in one name": "search=run+3456",
    "search, in none": "search=none+such",
    "beginning of an id": f"search={LARGEST_JOB[:-2]}",
    "created within an hour": "created_after=2025-01-02T00:00:00Z"
    "&created_before=2025-01-02T01:00:00Z",
}


def measure(url: str, folder: Path, jobs: int, part: str) -> dict[str, Any]:
    """The figures of a part: ``reads``, then ``claims``, then ``deletion``; none of ``fill``."""
    if part == "fill":
        return {}
    service = Service(folder / "service", url, **DEFAULTS, WORKER_QUEUES="nobody")
    for name in ("DATABASE_URL", "STATE_DIR"):
        os.environ[f"SEXTANT_{name}"] = service.env[f"SEXTANT_{name}"]
    get_settings.cache_clear()
    get_engine.cache_clear()
    try:
        service.start_api()
        if part == "reads":
            return _reads(service)
        return (
            {"deletion": _deletion(service)}
            if part == "deletion"
            else _all_claims(service, url, jobs)
        )
    finally:
        service.stop()


def _reads(service: Service) -> dict[str, Any]:
    result: dict[str, Any] = {
        "lists": {name: _timed(service, query) for name, query in FILTERS.items()},
        "prometheus": _timed(service, path="/metrics"),
        "series_of_largest_job_s": _seconds(
            lambda: service.client.get(f"/v1/jobs/{LARGEST_JOB}/metrics?max_points=1000")
        ),
    }
    result["lists"]["page 200"] = _deep(service)
    return result


def _all_claims(service: Service, url: str, jobs: int) -> dict[str, Any]:
    """Claims as the rows are, then among many jobs that wait for a time or for others."""
    result: dict[str, Any] = {"sweep": _sweep(service), "claim": _claims()}
    result["claim_not_before"] = {"waiting_later": _make_later(url, jobs)} | _claims()
    result["dependencies"] = {"waiting": make_waiting(url, jobs)} | _looks()
    result["claim_all_waiting"] = _claims()
    result["prometheus_all_waiting"] = _timed(service, path="/metrics")
    result["first_page_all_waiting"] = _timed(service)
    return result


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return round(time.perf_counter() - began, 3)


def _timed(service: Service, query: str = "", path: str = "/v1/jobs") -> dict[str, Any]:
    """Times of a request as a client sees them, how many jobs it answers, how often 503."""
    url = f"{path}?{query}" if query else path
    answer = service.client.get(url)
    seconds, refused, deadline = [], 0, time.monotonic() + 20
    while len(seconds) < REPEATS and (len(seconds) < 3 or time.monotonic() < deadline):
        began = time.perf_counter()
        refused += service.client.get(url).status_code == 503
        seconds.append(time.perf_counter() - began)
    listed = answer.is_success and path == "/v1/jobs"
    answered = len(answer.json()["data"]) if listed else None
    return {
        "answered": answered,
        "requests": len(seconds),
        "refused": refused,
        **_spread(seconds),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    """Percentiles, and the least time: what something costs where others leave the cores alone."""
    return {"min_ms": round(min(seconds) * 1000, 2), **percentiles(seconds)}


def _deep(service: Service) -> dict[str, Any]:
    cursor = ""
    for _ in range(200):
        page = service.client.get(f"/v1/jobs?limit=50&cursor={cursor}" if cursor else "/v1/jobs")
        cursor = page.json()["next_cursor"] or cursor
    return _timed(service, f"cursor={cursor}")


def _claims() -> dict[str, Any]:
    """Claims one after another, each committed."""
    worker = WorkerInfo(id="bench", host="bench", boot_id="bench", queues=("default",))
    seconds = []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        with make_session() as session:
            assert lifecycle.claim(session, worker, "default") is not None
        seconds.append(time.perf_counter() - began)
    return _spread(seconds)


def _make_later(url: str, jobs: int) -> int:
    """Let many jobs, older than those that wait, wait for a time to come."""
    engine = make_engine(url)
    last = int(jobs * 0.98)
    count = min(WAITING_LATER, last // 2)
    with _unlimited(engine) as connection:
        waiting = {"status": "queued", "finished_at": None, "not_before": LATER}
        connection.execute(sa.update(Job).where(_numbers(last - count, last)).values(waiting))
    analyze(engine)
    return count


def make_waiting(url: str, jobs: int) -> int:
    """Let many final jobs wait, each for the one before it; the first of them for one that runs."""
    engine = make_engine(url)
    last = int(jobs * 0.98)
    count = min(WAITING_LATER, last // 4)
    chosen = _numbers(last // 2 - count, last // 2)
    before = sa.func.lag(Job.id, 1, _first_of(last)).over(order_by=Job.id)
    rows = sa.select(Job.id, before, Job.tenant_id).where(chosen)
    with _unlimited(engine) as connection:
        waiting = {"status": "queued", "finished_at": None, "waiting_since": LATER}
        connection.execute(sa.update(Job).where(chosen).values(waiting))
        names = ["job_id", "source_id", "tenant_id"]
        connection.execute(sa.insert(JobDependency).from_select(names, rows))
    analyze(engine)
    return count


@contextmanager
def _unlimited(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.execution_options(write=True, limit_s=3600).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        yield connection


def _numbers(first: int, after: int) -> sa.ColumnElement[bool]:
    """Jobs whose numbers are in a range."""
    low, high = (f"job_{BASE_MS + n * JOB_EVERY_MS:012x}" for n in (first, after))
    return sa.and_(Job.id >= low, Job.id < high)


def _first_of(number: int) -> sa.ScalarSelect[str]:
    """Id of the job of a number."""
    return sa.select(Job.id).where(_numbers(number, number + 1)).scalar_subquery()


def _looks() -> dict[str, Any]:
    """What a dispatcher asks about jobs that wait for others: at each pass, and every 5 min."""
    pages = []
    place: dependencies.Place | None = dependencies.BEGINNING
    with make_session(write=False) as session:
        since = database_now(session) - timedelta(seconds=65)
        passes = [_seconds(lambda: dependencies.due(session, since)) for _ in range(REPEATS)]
        while place is not None:
            began = time.perf_counter()
            found = dependencies.look(session, place)
            pages.append(time.perf_counter() - began)
            assert not found.due
            place = found.last
    return {"pass": _spread(passes), "pages_of_all": len(pages), "page": _spread(pages)}


def _sweep(service: Service) -> dict[str, Any]:
    """A sweep over objects that rows name; as fast as the disk lists them and SQL answers."""
    with make_session(write=False) as session:
        keys = session.scalars(
            sa.select(Artifact.storage_key).order_by(Artifact.id).limit(SWEPT)
        ).all()
    for key in keys:
        path = service.state / "store" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (0, 0))
    return {"objects": len(keys), "seconds": _seconds(lambda: carry_out(collection.sweep()))}


def _deletion(service: Service) -> dict[str, Any]:
    """Delete the largest job beside a client that reads and submits and a worker's passes."""
    rows = _rows()
    stop, seconds, ages = threading.Event(), [], []
    other = threading.Thread(target=_neighbour, args=(service.port, stop, seconds, ages))
    answer = service.client.delete(f"/v1/jobs/{LARGEST_JOB}")
    assert answer.status_code == 204, answer.text
    service.start_worker()
    other.start()
    began = time.perf_counter()
    while _exists() and time.perf_counter() - began < 900:
        time.sleep(0.5)
    lasted = time.perf_counter() - began
    stop.set()
    other.join()
    return {
        "metric_rows": rows,
        "seconds": round(lasted, 1),
        "gone": not _exists(),
        "neighbour_post": {**percentiles(seconds), "max_ms": round(max(seconds) * 1000, 1)},
        "dispatcher_age_s_max": round(max(ages), 1),
    }


def _rows() -> int:
    with make_engine(get_settings().database).connect() as connection:
        query = sa.select(sa.func.count()).where(Metric.job_id == LARGEST_JOB)
        return connection.scalar(query) or 0


def _exists() -> bool:
    with make_session(write=False) as session:
        return session.get(Job, LARGEST_JOB) is not None


def _neighbour(port: int, stop: threading.Event, seconds: list[float], ages: list[float]) -> None:
    """Submit jobs that wait for long, and ask how old the dispatcher's last pass is."""
    spec = smallest(next(iter(kinds())))
    body = {"spec": spec, "not_before": LATER.isoformat()}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while not stop.wait(0.05):
            began = time.perf_counter()
            answer = client.post("/v1/jobs", json=body)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 201, answer.text
            if len(seconds) % 10 == 1:
                ages.append(client.get("/readyz").json().get("dispatcher_age_s") or 0.0)
