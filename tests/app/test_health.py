"""Liveness, readiness, Prometheus numbers."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.db.session import make_session
from app.errors import UnavailableError
from app.schemas.errors import ReportedError
from app.services import lifecycle, workers
from app.services.lifecycle import Outcome, WorkerInfo
from app.settings import get_settings

WORKER = WorkerInfo("w1", "host", "boot", ("default",))


def beat() -> None:
    with make_session() as session:
        values = {"host": "h", "boot_id": "b", "pid": 1, "slots": 3, "slots_free": 2}
        workers.beat(session, "w1", queues=["default"], **values)


def numbers(answer) -> dict[tuple, float]:
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_alive(anonymous):
    assert anonymous.get("/healthz").json() == {"status": "ok"}


def test_ready(anonymous):
    answer = anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "ready": True,
            "database": "ok",
            "migration": "ok",
            "store": "ok",
            "broker": "none: workers poll the database",
            "live_workers": 0,
            "dispatcher_age_s": None,
        },
    )
    beat()
    body = anonymous.get("/readyz").json()
    assert body["live_workers"] == 1
    assert 0 <= body["dispatcher_age_s"] < 60


def test_not_ready_at_another_revision(anonymous):
    with make_session() as session:
        old = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    answer = anonymous.get("/readyz")
    with make_session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :old"), {"old": old})
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert answer.json()["migration"].startswith("at 0000, this code needs ")


def test_not_ready_without_store_or_database(anonymous, monkeypatch):
    def away(*_args, **_more):
        raise UnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("app.storage.head", away)
        answer = anonymous.get("/readyz")
        assert (answer.status_code, answer.json()["store"]) == (503, "away: gone")

    def broken(*_args, **_more):
        raise OperationalError("SELECT", {}, Exception("gone"))

    with monkeypatch.context() as patch:
        patch.setattr("app.db.migrate.current", broken)
        answer = anonymous.get("/readyz")
        assert (answer.status_code, answer.json()["database"]) == (503, "away: OperationalError")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_broker_is_only_reported(anonymous, monkeypatch, valkey_url, tmp_path):
    from app import queue

    for url, state in ((valkey_url, "ok"), (f"redis+socket://{tmp_path}/none", "away: ")):
        monkeypatch.setenv("SEXTANT_BROKER_URL", url)
        get_settings.cache_clear()
        queue.make_redis.cache_clear()
        answer = anonymous.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["broker"].startswith(state)
        queue.make_redis().close()
    queue.make_redis.cache_clear()


def test_metrics(client, spec):
    beat()
    ids = [client.post("/v1/jobs", json={"spec": spec}).json()["id"] for _ in range(3)]
    with make_session() as session:
        run = lifecycle.claim(session, WORKER, "default")
        lifecycle.finish(session, run, Outcome(exit_code=0))
    with make_session() as session:
        run = lifecycle.claim(session, WORKER, "default")
        lifecycle.finish(
            session, run, Outcome(error=ReportedError(code="worker_lost", message="x"))
        )
    client.get("/v1/jobs/nonsense")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = numbers(answer)
    assert found["jobs_total", spec["kind"], "succeeded"] == 1
    assert found["jobs_total", spec["kind"], "queued"] == 2
    assert found["jobs_queue_depth", "default"] == 2
    assert 0 < found["jobs_oldest_queued_seconds",] < 60
    assert found["job_runs_total", "succeeded"] == 1
    assert found["lease_expired_total",] == 1
    assert (found["worker_slots", "free"], found["worker_slots", "busy"]) == (2, 1)
    assert found["artifact_bytes_total",] == 0
    assert found["sse_streams",] == 0
    assert found["http_request_seconds_count", "POST", "/v1/jobs", "201"] >= 3
    assert found["http_request_seconds_count", "GET", "/v1/jobs/{job_id}", "404"] >= 1
    assert not any(job_id in answer.text for job_id in ids)


def test_metrics_behind_a_key(client, make_key, monkeypatch):
    monkeypatch.setenv("SEXTANT_AUTH_METRICS", "true")
    get_settings.cache_clear()
    assert client.get("/metrics").status_code == 200
    client.headers["Authorization"] = f"Bearer {make_key('jobs:read')}"
    assert client.get("/metrics").status_code == 403
    client.headers.pop("Authorization")
    assert client.get("/metrics").status_code == 401
