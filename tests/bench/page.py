"""First paint of the common pages, what they weigh, and what open pages cost the API.

    python -m tests.bench.page

One fresh service on SQLite with 100,000 jobs of one tenant; the system's Chromium. Writes
tests/bench/results/page_cpu.json.
"""

import tests.conftest  # noqa: F401  # before models

# isort: split
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import sync_playwright

from app.db import migrate
from app.db.session import get_engine, make_session
from app.db.tables import Job, JobStatus, new_id, utc_now
from app.services import keys
from tests.service import Service
from tests.smallest import smallest
from tests.web.conftest import chromium, log_in
from tests.web.test_weight import size_of

JOBS = 100_000
BATCH = 5_000
VISITS = 15
STREAMS = 10  # of one key at most
PAGES = 200  # browsers that watch at once, each with a stream of its own
WATCH_S = 30
RESULTS = Path(__file__).parent / "results"
KIND = "dynamic_downsampling.train"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def fill() -> str:
    """100,000 final jobs and a running one, whose id is returned."""
    spec = smallest(KIND)
    fixed = {"tenant_id": keys.DEFAULT_TENANT, "kind": KIND, "method": "dynamic_downsampling"}
    fixed |= {"spec": spec, "resolved_spec": spec, "resources": {}, "queue": "default"}
    fixed |= {"limits": {"timeout_s": 60, "queue_timeout_s": None, "max_runs": 3}}
    now, running = utc_now(), new_id("job")
    final = {"status": JobStatus.SUCCEEDED, "started_at": now, "finished_at": now}
    for start in range(0, JOBS, BATCH):
        with make_session() as session:
            rows = [
                Job(id=new_id("job"), name=f"run {n}", **fixed, **final)
                for n in range(start, start + BATCH)
            ]
            session.add_all(rows)
    with make_session() as session:
        session.add(Job(id=running, name="goes on", status=JobStatus.RUNNING, **fixed))
    return running


def paints(site: str, path: str) -> list[float]:
    """Milliseconds to the first paint of fresh browsers."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        times = []
        for _ in range(VISITS):
            context = browser.new_context(base_url=site)
            tab = context.new_page()
            tab.goto(path)
            tab.wait_for_function(f"{PAINT} > 0")
            times.append(tab.evaluate(PAINT))
            context.close()
        browser.close()
    return times


def answers(site: str, path: str, process: psutil.Process) -> dict[str, float]:
    """CPU seconds of the API and wall seconds of one answer."""
    before, started = cpu(process), time.perf_counter()
    for _ in range(VISITS):
        httpx.get(site + path, headers={"Accept": "text/html"}).raise_for_status()
    return {
        "cpu_s": (cpu(process) - before) / VISITS,
        "wall_s": (time.perf_counter() - started) / VISITS,
    }


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def watch(site: str, job_id: str, process: psutil.Process, *, changes: bool) -> float:
    """Share of a core that the API takes while 200 browsers keep a page with a job open.

    Args:
        site: address of the API.
        job_id: that all of them watch.
        process: the API's, which asks for keys.
        changes: whether the job changes every second, as one that runs does.
    """
    address = f"/stream?jobs={job_id.removeprefix('job_')}"
    with ExitStack() as stack:
        for number in range(PAGES // STREAMS):
            client = stack.enter_context(httpx.Client(base_url=site, timeout=60))
            with make_session() as session:
                key = keys.create(session, keys.DEFAULT_TENANT, f"key {number}", ["jobs:read"])[1]
            log_in(client, key)
            for _ in range(STREAMS):
                opened = stack.enter_context(client.stream("GET", address))
                assert opened.status_code == 200
        time.sleep(2)
        before, started = cpu(process), time.monotonic()
        while time.monotonic() < started + WATCH_S:
            if changes:
                with make_session() as session:
                    session.get_one(Job, job_id).updated_at = utc_now()
            time.sleep(1)
        return (cpu(process) - before) / (time.monotonic() - started)


def weights(site: str, pages: dict[str, str]) -> dict[str, int]:
    """Bytes on the wire that a fresh browser loads for a page, its scripts and styles included."""
    sizes = dict.fromkeys(pages, 0)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name, path in pages.items():
            context = browser.new_context(base_url=site)
            tab = context.new_page()
            loaded: list[Any] = []
            tab.on("requestfinished", lambda request, loaded=loaded: loaded.append(request))
            tab.goto(path)
            tab.wait_for_timeout(1500)
            sizes[name] = sum(sum(size_of(request).values()) for request in loaded)
            context.close()
        browser.close()
    return sizes


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/state/sextant.db"
        os.environ |= {"SEXTANT_DATABASE_URL": url, "SEXTANT_STATE_DIR": f"{folder}/state"}
        migrate.upgrade(get_engine())
        with make_session() as session:
            keys.ensure_tenant(session)
        running = fill()
        with serving(Path(folder), url) as (site, process):
            figures = measure(site, running, process)
        with serving(Path(folder), url, SEXTANT_AUTH_DISABLED="false") as (site, process):
            for name, changes in (("at_rest", False), ("while_a_job_changes", True)):
                share = watch(site, running, process, changes=changes)
                figures["open_pages"][f"core_share_{name}"] = share
        write(figures)


@contextmanager
def serving(folder: Path, url: str, **env: str) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of an API over the jobs."""
    service = Service(folder, url)
    try:
        process = psutil.Process(service.start_api(**env).pid)
        yield f"http://127.0.0.1:{service.port}", process
    finally:
        service.stop()


def measure(site: str, running: str, process: psutil.Process) -> dict[str, Any]:
    """All figures but those of open pages."""
    pages = {"jobs": "/", "search": "/?search=run+99999", "job": f"/jobs/{running}"}
    others = {"new": f"/new?kind={KIND}", "datasets": "/datasets", "workers": "/workers"}
    return {
        "jobs": JOBS,
        "visits": VISITS,
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "answers": {name: answers(site, path, process) for name, path in pages.items()},
        "first_paint_ms": {name: spread(paints(site, path)) for name, path in pages.items()},
        "weight_bytes": weights(site, pages | others),
        "open_pages": {"count": PAGES},
    }


def spread(times: list[float]) -> dict[str, float]:
    return {"min": min(times), "median": statistics.median(times), "max": max(times)}


def write(figures: dict[str, Any]) -> None:
    text = json.dumps(figures, indent=2)
    target = RESULTS / f"page_{os.cpu_count()}cores_{datetime.now(UTC):%Y-%m-%d}.json"
    target.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
