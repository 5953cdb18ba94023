"""Prometheus numbers that SQL knows: read when they are asked for, so right for any process."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.session import database_now, make_session
from app.db.tables import Job, JobStatus, Run, has_status
from app.services import counters, workers
from app.services.counters import Labels
from app.services.health import dispatcher_age_s

RECENT = 1000  # runs over which waiting and running times are averaged
LOST = "worker_lost"


def families(session: Session) -> Iterator[Metric]:
    """Every number as Prometheus expects it; no label holds an id."""
    yield from _jobs(session)
    yield from _runs(session)
    yield from _workers(session)
    stored = sum(counters.read(session, counters.ARTIFACT_BYTES).values())
    yield _plain("artifact_bytes_total", "Bytes of all ready artifacts", stored)


def _jobs(session: Session) -> Iterator[Metric]:
    total, depth, running = Counter[Labels](), Counter[Labels](), Counter[Labels]()
    for (kind, status, queue), count in counters.read(session, counters.JOBS).items():
        total[kind, status] += count
        depth[(queue,)] += count * (status == JobStatus.QUEUED)
        running[(queue,)] += count * (status == JobStatus.RUNNING)
    yield _labelled("jobs_total", "Jobs stored", ["kind", "status"], total)
    yield _labelled("jobs_queue_depth", "Jobs waiting", ["queue"], +depth)
    yield _labelled("jobs_running", "Jobs running", ["queue"], +running)
    oldest = session.scalar(
        select(Job.queued_at)
        .where(has_status(JobStatus.QUEUED), Job.waiting_since.is_(None), Job.paused_at.is_(None))
        .order_by(Job.queued_at)
        .limit(1)
    )
    age_s = (database_now(session) - oldest).total_seconds() if oldest else 0.0
    yield _plain("jobs_oldest_queued_seconds", "Age of the job that waits longest", age_s)


def _runs(session: Session) -> Iterator[Metric]:
    ended = CounterMetricFamily("job_runs", "Runs that ended", labels=["outcome"])
    counts = counters.read(session, counters.RUNS)
    for labels, count in counts.items():
        ended.add_metric(labels, count)
    yield ended
    lost = counts.get((LOST,), 0)
    yield CounterMetricFamily("lease_expired", "Runs whose worker was lost", value=lost)
    latest = (
        select(Run.job_id, Run.started_at, Run.ended_at)
        .order_by(Run.job_id.desc())
        .limit(RECENT)
        .subquery()  # first the runs: the newest jobs may all be waiting
    )
    query = select(Job.queued_at, latest).join(latest, latest.c.job_id == Job.id)
    recent = session.execute(query).all()
    waits = [(row.started_at - row.queued_at).total_seconds() for row in recent]
    lasted = [(row.ended_at - row.started_at).total_seconds() for row in recent if row.ended_at]
    yield _mean("job_wait_seconds", "Mean seconds from queue to start", waits)
    yield _mean("job_run_seconds", "Mean seconds of a run", lasted)


def _workers(session: Session) -> Iterator[Metric]:
    live = workers.live(session)
    free = sum(worker.slots_free for worker in live)
    slots = GaugeMetricFamily("worker_slots", "Slots of live workers", labels=["use"])
    slots.add_metric(["free"], free)
    slots.add_metric(["busy"], sum(worker.slots for worker in live) - free)
    yield slots
    age_s = dispatcher_age_s(session)
    text = "Seconds since the last pass of a dispatcher; -1: never"
    yield _plain("dispatch_lag_seconds", text, -1 if age_s is None else age_s)


def _labelled(name: str, text: str, labels: list[str], values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _plain(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _mean(name: str, text: str, values: Iterable[float]) -> Metric:
    clipped = [max(0.0, value) for value in values]
    family = GaugeMetricFamily(name, f"{text}, latest {RECENT} runs", labels=[])
    family.add_metric([], sum(clipped) / len(clipped) if clipped else 0.0)
    return family


class SqlCollector(Collector):
    """Reads the numbers anew at every scrape."""

    def collect(self) -> list[Metric]:
        """All families."""
        with make_session(write=False) as session:
            return list(families(session))


SQL = CollectorRegistry()
SQL.register(SqlCollector())
