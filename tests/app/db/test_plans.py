"""The statements that are sent most often read an index of PostgreSQL, never a whole table.

The statements are those that the services send, caught on their way; the tables are filled by the
bench, with enough rows that the planner decides as it does with a hundred times as many.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.db.session import get_engine, make_session
from app.db.tables import utc_now
from app.schemas.jobs import JobFilters
from app.services import (
    dependencies,
    events,
    feed,
    gauges,
    holds,
    jobs,
    lifecycle,
    metrics,
    sweeps,
    workers,
)
from app.services.lifecycle import WorkerInfo
from tests.bench.scale_figures import make_waiting
from tests.bench.scale_fill import BASE_MS, TENANT, fill
from tests.conftest import fresh_caches, named

JOBS, METRICS = 20_000, 100_000
LARGE = {"job_dependencies", "jobs", "job_labels", "runs", "events", "metrics", "artifacts"}
LARGEST_JOB = f"job_{BASE_MS:012x}70008{0:015x}"
WORKER = WorkerInfo(id="w2", host="here", boot_id="b2", queues=("default",))


@pytest.fixture(scope="module")
def filled_url(postgres_url) -> str:
    name = "plans"
    admin = sa.create_engine(
        sa.make_url(named(postgres_url, "postgres")).set(drivername="postgresql+psycopg")
    )
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    fill(named(postgres_url, name), JOBS, METRICS)
    make_waiting(named(postgres_url, name), JOBS)
    return named(postgres_url, name)


@pytest.fixture
def filled(filled_url, tmp_path, monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("SEXTANT_DATABASE_URL", filled_url)
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path / "state"))
    fresh_caches()
    yield
    fresh_caches()


@contextmanager
def caught() -> Iterator[list[tuple[str, Any]]]:
    """Statements and their parameters, as they are sent."""
    sent: list[tuple[str, Any]] = []

    def note(_connection, _cursor, statement, parameters, *_more) -> None:
        sent.append((statement, parameters))

    sa.event.listen(get_engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(get_engine(), "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def explained(call: Callable[[Session], object]) -> tuple[set[str], list[str]]:
    """Indexes that the statements of a call read, and large tables that they read as a whole."""
    indexes, whole = set(), []
    with make_session() as session:
        with caught() as sent:
            call(session)
        for statement, parameters in sent:
            if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
                continue
            raw = (
                session.connection()
                .exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
                .scalar_one()
            )
            plan = (json.loads(raw) if isinstance(raw, str) else raw)[0]["Plan"]
            for node in nodes(plan):
                indexes |= {node["Index Name"]} if "Index Name" in node else set()
                if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE:
                    whole.append(statement)
        session.rollback()
    return indexes, whole


def page(**filters: Any) -> Callable[[Session], object]:
    """A page of jobs as it is answered."""

    def read(session: Session) -> object:
        rows = jobs.list_page(session, TENANT, JobFilters.model_validate(filters)).data
        return jobs.describe(session, rows)

    return read


QUERIES = {
    "first page": (page(), "ix_jobs_list"),
    "hidden": (page(hidden=True), "ix_jobs_hidden"),
    "status": (page(status=["failed"]), "ix_jobs_list_status"),
    "kind": (page(kind="saliency.map"), "ix_jobs_list_kind"),
    "kind that is absent, and status": (
        page(kind="none.none", status=["failed"]),
        "ix_jobs_list_kind",
    ),
    "method": (page(method="terrain"), "ix_jobs_list_method"),
    "name": (page(name="sweep 6"), "ix_jobs_list_name"),
    "name that is absent": (page(name="none"), "ix_jobs_list_name"),
    "label and kind": (
        page(**{"metadata.team": "t2", "kind": "terrain.train"}),
        "ix_job_labels_tenant_id_name_value_status_job_id",
    ),
    "label": (page(**{"metadata.team": "t2"}), "ix_job_labels_tenant_id_name_value_status_job_id"),
    "label that is absent": (
        page(**{"metadata.team": "none"}),
        "ix_job_labels_tenant_id_name_value_status_job_id",
    ),
    "rare label and status": (
        page(**{"metadata.note": "n41", "status": ["succeeded"]}),
        "ix_job_labels_tenant_id_name_value_status_job_id",
    ),
    "label and status that is absent": (
        page(**{"metadata.team": "t8", "status": ["failed"]}),
        "ix_job_labels_tenant_id_name_value_status_job_id",
    ),
    "beginning of an id": (page(search=LARGEST_JOB[:-2]), "pk_jobs"),
    "part of a name": (page(search="run 3456"), "ix_jobs_search"),
    "part of no name": (page(search="none such"), "ix_jobs_search"),
    "part of a name and kind": (page(search="none such", kind="saliency.map"), "ix_jobs_search"),
    "position in the queue": (page(status=["queued"]), "ix_jobs_claim"),
    "claim": (lambda session: lifecycle.claim(session, WORKER, "default"), "ix_jobs_claim"),
    "due jobs": (lambda session: lifecycle.release(session, utc_now()), "ix_jobs_due"),
    "jobs whose source has ended": (
        lambda session: dependencies.due(session, utc_now()),
        "ix_jobs_finished",
    ),
    "jobs that wait for others": (
        lambda session: dependencies.look(session, dependencies.BEGINNING),
        "pk_job_dependencies",
    ),
    "dependents of a job": (
        lambda session: holds.user(session, LARGEST_JOB),
        "ix_job_dependencies_source_id",
    ),
    "dead leases": (lifecycle.expire, "ix_jobs_running"),
    "queue timeouts": (lifecycle.time_out_queued, "ix_jobs_queue_timeout"),
    "jobs of a sweep that go on": (
        lambda session: session.scalars(sweeps._unfinished("swp_1")).all(),
        "ix_jobs_sweep_open",
    ),
    "numbers for Prometheus": (lambda session: [*gauges.families(session)], "ix_jobs_queued_at"),
    "open runs": (lambda session: workers.open_runs(session, "h1", "b1"), "ix_runs_open"),
    "events": (
        lambda session: events.page(session, TENANT, LARGEST_JOB, 0, 100),
        "pk_events",
    ),
    "events of a tenant": (
        lambda session: feed.page(session, TENANT, 1000, 100),
        "ix_events_feed",
    ),
    "changes of status of a tenant": (
        lambda session: feed.page(session, TENANT, 1000, 100, feed.Wanted(only_status=True)),
        "ix_events_feed_status",
    ),
    "metrics": (
        lambda session: metrics.read(session, metrics.Query(TENANT, LARGEST_JOB), 1000),
        "pk_metrics",
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_an_index_is_read(filled, name):
    call, index = QUERIES[name]
    indexes, whole = explained(call)
    assert whole == []
    assert index in indexes


def test_a_text_without_a_piece_does_not_read_the_index_of_pieces_as_a_whole(filled):
    assert "ix_jobs_search" not in explained(page(search="zz"))[0]
