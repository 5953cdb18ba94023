"""Retention: off by default; what is old goes, what is young or needed stays."""

from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select, update

from app import storage
from app.db.session import make_session
from app.db.tables import Artifact, Dataset, Event, Job, Metric, StateSize, utc_now
from app.local import doctor
from app.services import (
    artifacts,
    chores,
    collection,
    counters,
    datasets,
    growth,
    jobs,
    keys,
    retention,
)
from app.services.resolve import JobCreate
from models.catalog import kinds
from tests.app.factories import add_job, carry_out, finish, start_run, write
from tests.conftest import fresh_caches

RESUMABLE = next(name for name, spec in kinds().items() if spec.resumable)
OLD = timedelta(days=40)


@pytest.fixture
def keep(client, monkeypatch):
    """Call with settings such as jobs_d=30."""

    def keep(**days: float) -> None:
        for name, value in days.items():
            monkeypatch.setenv(f"SEXTANT_RETENTION_{name.upper()}", str(value))
        fresh_caches()

    return keep


@pytest.fixture
def ended(tmp_path):
    """Make a final job with a metric, events and a checkpoint, that ended some time ago."""

    def ended(age: timedelta = OLD) -> str:
        run = start_run(kind=RESUMABLE, method=RESUMABLE.partition(".")[0])
        row = {"job_id": run.job_id, "name": "loss", "step": 1, "run_number": 1, "value": 1.0}
        with make_session() as session:
            session.execute(insert(Metric), [row | {"tenant_id": run.tenant_id, "at": utc_now()}])
        artifacts.store(run, write(tmp_path / "f", run.job_id.encode()), "checkpoint", "c/1", 1)
        finish(run)
        with make_session() as session:
            at = utc_now() - age
            session.execute(update(Job).where(Job.id == run.job_id).values(finished_at=at))
            session.execute(
                update(Artifact).where(Artifact.job_id == run.job_id).values(created_at=at)
            )
        return run.job_id

    return ended


def follower(job_id: str) -> str:
    """A waiting job that goes on from the checkpoint of another."""
    spec = dict(kinds()[RESUMABLE].minimal_example)
    spec["resume_from"] = {"job": job_id, "artifact": "c/1"}
    with make_session() as session:
        request = JobCreate.model_validate({"spec": spec})
        return jobs.submit(session, keys.DEFAULT_TENANT, request).id


def left(job_id: str) -> tuple[bool, int, int, int]:
    """Whether a job is there, how many metrics, events and ready files it has."""
    with make_session(write=False) as session:
        job = session.get(Job, job_id)
        counts = [
            session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0
            for table, *conditions in (
                (Metric, Metric.job_id == job_id),
                (Event, Event.job_id == job_id),
                (Artifact, Artifact.job_id == job_id, Artifact.status == "ready"),
            )
        ]
    return job is not None and job.deleted_at is None, counts[0], min(counts[1], 1), counts[2]


def carry_out_all() -> None:
    carry_out(retention.apply())
    carry_out(collection.collect())


ALL = (True, 1, 1, 1)


def test_by_default_everything_is_kept(client, ended):
    job_id = ended(timedelta(days=10_000))
    carry_out_all()
    assert left(job_id) == ALL


@pytest.mark.parametrize(
    ("setting", "after"),
    [
        ("jobs_d", (False, 0, 0, 0)),
        ("metrics_d", (True, 0, 1, 1)),
        ("events_d", (True, 1, 0, 1)),
        ("artifacts_d", (True, 1, 1, 0)),
    ],
)
def test_what_is_old_goes_and_what_is_young_or_unfinished_stays(
    client, keep, ended, setting, after
):
    old, young, waiting = ended(), ended(timedelta(days=20)), add_job()
    keep(**{setting: 30})
    carry_out_all()
    assert (left(old), left(young), left(waiting)[0]) == (after, ALL, True)
    assert len([*storage.list("t")]) == (1 if after[3] == 0 else 2)


def test_files_that_a_waiting_job_needs_stay_until_it_is_final(client, keep, ended):
    source = ended()
    job_id = follower(source)
    keep(jobs_d=30, artifacts_d=30)
    carry_out_all()
    assert left(source) == ALL
    client.post(f"/v1/jobs/{job_id}/cancel")
    carry_out_all()
    assert left(source)[0] is False


def test_a_job_is_thinned_once(client, keep, ended, monkeypatch):
    first = ended()
    keep(metrics_d=30)
    carry_out_all()
    seen: list[str] = []

    def remove(job_id: str):
        seen.append(job_id)
        return iter(())

    monkeypatch.setattr(collection, "remove_metrics", remove)
    second = ended(timedelta(days=35))
    carry_out_all()
    assert first not in seen
    assert seen == [second]
    with make_session(write=False) as session:
        assert chores.position(session, "retention_metrics")["id"] == second


def test_a_dataset_without_content_goes_alone_when_asked_for(client, keep):
    with make_session() as session:
        for name in ("old", "young", "checking"):
            datasets.create(session, keys.DEFAULT_TENANT, name, "images", {})
        past = utc_now() - OLD
        session.execute(update(Dataset).where(Dataset.name != "young").values(updated_at=past))
        session.execute(update(Dataset).where(Dataset.name == "checking").values(status="checking"))
    carry_out_all()
    keep(uploads_d=30)
    carry_out_all()
    with make_session(write=False) as session:
        assert set(session.scalars(select(Dataset.name))) == {"young", "checking"}


def test_growth_is_noted_and_told(client, ended):
    (found,) = doctor.examine(["growth"])
    assert found.found == "not known yet"
    with make_session() as session:
        past = utc_now() - timedelta(days=2)
        session.add(StateSize(at=past, database_bytes=0, artifact_bytes=0, jobs=0))
        counters.add(session, counters.JOBS, [(("k", "queued", "q"), 6)])
    carry_out(growth.note())
    with make_session(write=False) as session:
        size = growth.read(session)
    assert size is not None
    assert (size.jobs, round(size.jobs_a_day or 0, 2)) == (6, 3.0)
    assert size.database_bytes > 10_000
    assert round(size.bytes_a_day or 0) == pytest.approx(size.database_bytes / 2, rel=0.01)
    (found,) = doctor.examine(["growth"])
    assert "6 jobs" in found.found
    assert "+3 jobs a day" in found.found
