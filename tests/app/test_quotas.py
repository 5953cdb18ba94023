"""Quotas of a tenant: what is full is refused or waits, never exceeded, and told before."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from app import cli, storage
from app.db.session import database_now, make_session
from app.db.tables import Artifact, Dataset, Job, Run, Tenant, new_id
from app.errors import InvalidError
from app.services import counters, keys, lifecycle, quotas, tenants
from app.services.lifecycle import WorkerInfo
from app.settings import get_settings
from tests.app.factories import WORKER, add_job, claim, finish

pytestmark = pytest.mark.both_databases

GPU_WORKER = WorkerInfo(
    id="g1", host="here", boot_id="b1", queues=("default", "gpu"), gpus_total=4, gpus_free=4
)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def allow(tenant_id: str = keys.DEFAULT_TENANT, **values: int | None) -> None:
    """Set quotas of a tenant, which is made where it is missing."""
    with make_session() as session:
        tenant = session.get(Tenant, tenant_id) or Tenant(id=tenant_id, name=tenant_id)
        session.add(tenant)
        session.flush()
        tenants.set_quotas(tenant, values)


def try_claim(worker: WorkerInfo = WORKER, queue: str = "default") -> str | None:
    with make_session() as session:
        run = lifecycle.claim(session, worker, queue)
    return run and run.job_id


def store(size_bytes: int, tenant_id: str = keys.DEFAULT_TENANT, status: str = "ready") -> None:
    """A file of a job with so many bytes."""
    job_id = add_job(tenant_id=tenant_id, status="succeeded")
    with make_session() as session:
        session.add(
            Artifact(
                id=new_id("art"),
                tenant_id=tenant_id,
                job_id=job_id,
                run_number=1,
                role="report",
                name="a",
                storage_key=job_id,
                size_bytes=size_bytes,
                media_type="text/plain",
                status=status,
            )
        )
        kept = size_bytes if status == "ready" else 0
        counters.add(session, counters.ARTIFACT_BYTES, [((tenant_id,), kept)])


def jobs_of(session, tenant_id: str = keys.DEFAULT_TENANT) -> int:
    return len(session.scalars(select(Job).where(Job.tenant_id == tenant_id)).all())


# -- queued jobs -----------------------------------------------------------------------------


def test_a_full_queue_is_refused_with_its_limit_use_and_a_way_out(client, spec):
    allow(queued_jobs=1)
    first = client.post("/v1/jobs", json={"spec": spec})
    answer = client.post("/v1/jobs", json={"spec": spec}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, answer.status_code) == (201, 429)
    assert answer.headers["Retry-After"] == "10"
    problem = answer.json()
    assert problem["code"] == "quota_exceeded"
    assert problem["quota"] == {"name": "queued_jobs", "limit": 1, "used": 1}
    assert "cancel some" in problem["detail"]
    assert client.get("/problems/quota_exceeded").status_code == 200
    dry = client.post("/v1/jobs?dry_run=true", json={"spec": spec})
    assert "queued_jobs" in dry.json()["warnings"][-1]
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    again = client.post("/v1/jobs", json={"spec": spec}, headers={"Idempotency-Key": "k"})
    assert again.status_code == 201  # the refusal was not kept as the key's answer


def test_a_retry_counts_as_a_job(client, spec):
    job = client.post("/v1/jobs", json={"spec": spec}).json()["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    allow(queued_jobs=0)
    answer = client.post(f"/v1/jobs/{job}/retry", json={"from": "scratch"})
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")


def test_many_posts_at_once_do_not_exceed_the_quota(client, spec):
    allow(queued_jobs=20)
    with ThreadPoolExecutor(40) as threads:
        answers = threads.map(lambda _: client.post("/v1/jobs", json={"spec": spec}), range(150))
        codes = Counter(answer.status_code for answer in answers)
    with make_session(write=False) as session:
        assert jobs_of(session) == 20
    assert codes[201] == 20
    assert codes.keys() <= {201, 429, 503}  # 503: SQLite's one writer was waited for too long
    assert codes[429] > 100


def test_started_jobs_and_those_of_others_do_not_count(client, spec):
    allow(queued_jobs=1)
    add_job(tenant_id="tenant_b")
    add_job(status="succeeded")
    add_job()
    claim()
    claim()
    assert client.post("/v1/jobs", json={"spec": spec}).status_code == 201


@pytest.mark.parametrize(
    ("bind", "setting", "expected"),
    [
        ("127.0.0.1:80", "", None),
        ("127.0.0.1:80", "5", 5),
        ("0.0.0.0:80", "", 1000),
        ("0.0.0.0:80", "0", 0),
    ],
)
def test_the_default_holds_where_others_reach_the_port(
    settings, monkeypatch, bind, setting, expected
):
    monkeypatch.setenv("SEXTANT_BIND", bind)
    if setting:
        monkeypatch.setenv("SEXTANT_LIMITS_QUEUED_JOBS", setting)
    get_settings.cache_clear()
    own = Tenant(id="a", name="a", quotas={"queued_jobs": None})
    assert quotas.limits_of(Tenant(id="b", name="b", quotas={}))["queued_jobs"] == expected
    assert quotas.limits_of(own)["queued_jobs"] is None


# -- stored bytes ----------------------------------------------------------------------------


def test_who_has_stored_all_it_may_gets_no_job_and_no_dataset(client, spec):
    store(60)
    store(40)
    store(1000, "tenant_b")
    store(1000, status="deleted")
    allow(stored_bytes=101)
    assert client.post("/v1/jobs", json={"spec": spec}).status_code == 201
    allow(stored_bytes=100)
    dataset = {"name": "d", "format": "npz"}
    for path, body in (("jobs", {"spec": spec}), ("datasets", dataset)):
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 403
        assert "Retry-After" not in answer.headers  # waiting does not help
        problem = answer.json()
        assert problem["code"] == "storage_quota_exceeded"
        assert problem["quota"] == {"name": "stored_bytes", "limit": 100, "used": 100}
        assert "delete" in problem["detail"]


def new_dataset(client, name="d") -> str:
    return client.post("/v1/datasets", json={"name": name, "format": "npz"}).json()["id"]


def upload(client, dataset_id, content):
    headers = {"Content-Type": "application/octet-stream"}
    return client.put(f"/v1/datasets/{dataset_id}/content", content=content, headers=headers)


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_beyond_the_quota_is_refused_and_leaves_nothing(client, announced):
    allow(stored_bytes=10)
    dataset_id = new_dataset(client)
    answer = upload(client, dataset_id, b"x" * 11 if announced else iter([b"x" * 6, b"x" * 5]))
    assert (answer.status_code, answer.json()["code"]) == (403, "storage_quota_exceeded")
    assert [*storage.list("t")] == []
    assert upload(client, dataset_id, b"x" * 10).status_code == 200
    assert upload(client, dataset_id, b"x" * 10).status_code == 200  # in place of the first


def test_two_uploads_at_once_do_not_exceed_the_quota_together(client):
    allow(stored_bytes=15)
    ids = [new_dataset(client, str(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda each: upload(client, each, b"x" * 10), ids)]
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 7
    with make_session(write=False) as session:
        assert [s for s in session.scalars(select(Dataset.size_bytes)) if s] == [10]
    assert [info.size_bytes for info in storage.list("t")] == [10]


# -- running jobs and GPU-seconds ------------------------------------------------------------


def test_jobs_beyond_the_running_ones_wait_and_others_pass_them(settings):
    allow(running_jobs=1)
    first, second = add_job(), add_job()
    other = add_job(tenant_id="tenant_b")
    run = claim()
    assert run.job_id == first
    assert try_claim() == other
    assert try_claim() is None
    finish(run)
    assert try_claim() == second


def test_many_workers_at_once_do_not_exceed_the_running_jobs(settings):
    allow(running_jobs=3)
    for _ in range(12):
        add_job()
    with ThreadPoolExecutor(12) as threads:
        claimed = [*threads.map(lambda _: try_claim(), range(12))]
    assert len([job_id for job_id in claimed if job_id]) == 3


def gpu_run(started_at: datetime, ended_at: datetime | None, gpus: int, tenant_id="default"):
    job_id = add_job(tenant_id=tenant_id, status="succeeded")
    with make_session() as session:
        session.add(
            Run(
                job_id=job_id,
                number=1,
                tenant_id=tenant_id,
                worker_id="w",
                host="h",
                boot_id="b",
                devices=[f"GPU-{number}" for number in range(gpus)],
                started_at=started_at,
                ended_at=ended_at,
            )
        )


def test_gpu_seconds_are_those_since_midnight_of_every_gpu(session):
    def at(hours):
        return NOON + timedelta(hours=hours)

    gpu_run(at(-14), at(-13), gpus=1)  # yesterday
    gpu_run(at(-13), at(-11), gpus=2)  # half of it
    gpu_run(at(-2), at(-1), gpus=0)
    gpu_run(at(-1), None, gpus=1)
    gpu_run(at(-1), None, gpus=8, tenant_id="tenant_b")
    assert quotas.gpu_seconds(session, "default", NOON) == 3 * 3600


def test_without_gpu_seconds_left_jobs_wait_for_gpus_but_not_for_cpus(settings):
    allow(gpu_seconds_a_day=60)
    with make_session(write=False) as session:
        now = database_now(session)
    auto, cuda = add_job(device="auto"), add_job(device="cuda", gpus=1)
    cpu = add_job(device="cpu")
    gpu_run(now - timedelta(seconds=30), None, 1, keys.DEFAULT_TENANT)
    assert try_claim(GPU_WORKER) == auto  # half is left
    gpu_run(now - timedelta(seconds=31), None, 1, keys.DEFAULT_TENANT)
    assert try_claim(GPU_WORKER) == cpu
    assert try_claim(GPU_WORKER) is None
    other = add_job(device="auto")
    assert try_claim() == other  # on a worker without GPUs
    allow(gpu_seconds_a_day=None)
    assert try_claim(GPU_WORKER) == cuda


# -- told and set ----------------------------------------------------------------------------


def test_usage_tells_every_quota_and_what_keeps_jobs_waiting(client, make_key):
    allow(queued_jobs=5, running_jobs=1, stored_bytes=1000, writes_a_minute=7)
    add_job()
    add_job()
    claim()
    store(99)
    told = client.get("/v1/usage").json()
    midnight = datetime.fromisoformat(told.pop("resets_at"))
    assert timedelta() < midnight - datetime.now(UTC) <= timedelta(days=1)
    assert midnight.time().isoformat() == "00:00:00"
    assert told == {
        "tenant": "default",
        "queued_jobs": {"limit": 5, "used": 1},
        "running_jobs": {"limit": 1, "used": 1},
        "stored_bytes": {"limit": 1000, "used": 99},
        "gpu_seconds_a_day": {"limit": None, "used": 0},
        "writes_a_minute": {"limit": 7},
        "reads_a_minute": {"limit": None},
        "delayed_by": ["running_jobs"],
    }
    other = {"Authorization": f"Bearer {make_key('jobs:read', tenant_id='tenant_b')}"}
    assert client.get("/v1/usage", headers=other).json()["stored_bytes"]["used"] == 0


def run(*arguments: str) -> str:
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False).output


def test_quotas_are_set_by_a_command_and_go_back_to_the_default(settings):
    run("tenants", "create", "acme")
    said = run("tenants", "set", "acme", "queued_jobs=500", "stored_bytes=none")
    assert "queued_jobs=500 stored_bytes=none" in said
    run("tenants", "set", "acme", "queued_jobs=default")
    listed = json.loads(run("tenants", "list", "--json"))
    assert [each["quotas"] for each in listed] == [{"stored_bytes": None}, {}]


@pytest.mark.parametrize("wrong", ["queued_job=1", "queued_jobs=-1", "queued_jobs", "=1"])
def test_a_quota_that_is_none_is_refused(settings, wrong):
    run("tenants", "create", "acme")
    with pytest.raises(ValueError, match="queued_jobs"):
        run("tenants", "set", "acme", wrong)


def test_a_quota_is_a_whole_number(session):
    with pytest.raises(InvalidError, match="there are queued_jobs, running_jobs"):
        tenants.set_quotas(Tenant(id="a", name="a", quotas={}), {"queued_jobs": 2**53})


def test_usage_is_shown_by_a_command(monkeypatch):
    told = {
        "tenant": "acme",
        "stored_bytes": {"limit": 2_000_000, "used": 1_500_000},
        "gpu_seconds_a_day": {"limit": 60, "used": 61.5},
        "writes_a_minute": {"limit": None},
        "delayed_by": ["gpu_seconds_a_day"],
        "resets_at": "2026-03-02T00:00:00Z",
    }
    monkeypatch.setattr("sextant_client.Client.usage", lambda _: told)
    shown = run("usage")
    assert [line.split() for line in shown.splitlines()[:4]] == [
        ["acme", "used", "limit"],
        ["stored_bytes", "1.5", "MB", "2.0", "MB"],
        ["gpu_seconds_a_day", "1", "min", "02", "s", "1", "min", "00", "s"],
        ["writes_a_minute", "none"],
    ]
    assert "jobs wait for gpu_seconds_a_day until 2026-03-0" in shown
