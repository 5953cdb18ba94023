"""Jobs that wait for others: refused early, let go or ended once those are final."""

import itertools
import threading
import time
from itertools import pairwise

import pytest
from sqlalchemy import delete, select, update

from app.db.session import make_session
from app.db.tables import Job, JobDependency, Tenant
from app.schemas.errors import ReportedError
from app.services import artifacts, dependencies, lifecycle
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import add_job, claim, events_of, finish, write
from tests.smallest import smallest
from workers import settler
from workers.dispatcher import _safely

WEIGHTS = "weights.safetensors"


def settle_dependencies(settle: settler.Settler | None = None) -> None:
    """What a dispatcher does, one that has just started or a given one."""
    settle = settle or settler.Settler(_safely)
    while settle():
        pass


def sample(job_id: str, name: str = WEIGHTS, **more) -> dict:
    """A request for images of the generator that another job trains."""
    ref = {"job": job_id, "artifact": name}
    return {"spec": smallest("lcw.sample") | {"model": ref}, **more}


@pytest.fixture
def train(client) -> str:
    """Id of a queued training."""
    return client.post("/v1/jobs", json={"spec": smallest("lcw.train")}).json()["id"]


@pytest.fixture
def post(client):
    def send(request: dict, path: str = "/v1/jobs") -> dict:
        answer = client.post(path, json=request)
        assert answer.status_code == 201, answer.text
        return answer.json()

    return send


@pytest.fixture
def read(client):
    return lambda job_id: client.get(f"/v1/jobs/{job_id}").json()


def refused(client, request: dict, path: str = "/v1/jobs") -> dict:
    answer = client.post(path, json=request)
    assert answer.status_code == 422, answer.text
    return answer.json()["errors"][0]


def succeed(tmp_path, job_id: str, *names: str) -> None:
    """Run the job that is next, with these files."""
    run = claim()
    assert run.job_id == job_id
    for name in names:
        artifacts.store(run, write(tmp_path / "f", name.encode()), "weights", name)
    finish(run)


def fail() -> None:
    """Let the job that is next fail for good."""
    defect = ReportedError(code="internal", message="of a test")
    run = claim()
    with make_session() as session:
        lifecycle.finish(session, run, lifecycle.Outcome(exit_code=70, error=defect))


def waiting() -> int:
    with make_session(write=False) as session:
        return len(session.scalars(select(JobDependency.job_id)).all())


class TestLettingGo:
    def test_a_file_that_is_yet_to_be_made_is_pinned_when_it_is(
        self, client, post, read, train, tmp_path
    ):
        job = post(sample(train, limits={"queue_timeout_s": 60}))
        assert (job["status"], job["status_reason"]) == ("queued", "waiting_for_dependency")
        assert (job["depends_on"], job["queue_position"]) == ([train], None)
        assert job["resolved_spec"]["model"]["sha256"] is None
        with make_session(write=False) as session:
            assert session.get_one(Job, job["id"]).queue_timeout_at is None
        succeed(tmp_path, train, WEIGHTS)
        settle_dependencies()
        after = read(job["id"])
        assert (after["status_reason"], after["queue_position"]) == ("waiting_for_worker", 1)
        assert len(after["resolved_spec"]["model"]["sha256"]) == 64
        assert after["queued_at"] > job["queued_at"]
        with make_session(write=False) as session:
            assert session.get_one(Job, job["id"]).queue_timeout_at is not None
        assert [e.data["status_reason"] for e in events_of(job["id"], "status")] == [
            "waiting_for_dependency",
            None,
        ]
        assert waiting() == 0
        assert claim().job_id == job["id"]

    def test_it_waits_for_all_that_it_lists(self, post, read, train, spec, tmp_path):
        other = add_job()
        job = post({"spec": spec, "depends_on": [train, other]})
        succeed(tmp_path, train)
        settle_dependencies()
        assert read(job["id"])["status_reason"] == "waiting_for_dependency"
        succeed(tmp_path, other)
        settle_dependencies()
        assert read(job["id"])["status_reason"] == "waiting_for_worker"
        assert read(job["id"])["depends_on"] == [train, other]

    def test_one_that_has_succeeded_is_not_waited_for(self, post, spec, tmp_path):
        other = add_job()
        succeed(tmp_path, other)
        job = post({"spec": spec, "depends_on": [other]})
        assert (job["status_reason"], job["depends_on"]) == ("waiting_for_worker", [other])

    def test_not_before_holds_too(self, client, post, read, train, spec, tmp_path):
        later = "2999-01-01T00:00:00Z"
        job = post({"spec": spec, "depends_on": [train], "not_before": later})
        succeed(tmp_path, train)
        settle_dependencies()
        assert read(job["id"])["status_reason"] == "not_before"

    def test_no_claim_takes_a_job_that_waits(self, post, train, spec, settings):
        post({"spec": spec, "depends_on": [train]})
        claim()
        with make_session() as session:
            worker = lifecycle.WorkerInfo(id="w", host="h", boot_id="b", queues=("default",))
            assert lifecycle.claim(session, worker, "default") is None

    def test_settling_at_once_by_many_lets_go_once(self, post, train, spec, tmp_path):
        job = post({"spec": spec, "depends_on": [train]})
        succeed(tmp_path, train)
        threads = [threading.Thread(target=settle_dependencies) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(events_of(job["id"], "status")) == 2

    def test_killed_in_the_middle_the_next_settles_it(self, post, read, train, spec, tmp_path):
        job = post({"spec": spec, "depends_on": [train]})
        succeed(tmp_path, train)
        with make_session() as session:
            dependencies.settle(session, job["id"])
            session.rollback()
        assert read(job["id"])["status_reason"] == "waiting_for_dependency"
        settle_dependencies()
        assert read(job["id"])["status_reason"] == "waiting_for_worker"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestEnding:
    @pytest.mark.parametrize(("field", "status"), [("fail", "failed"), ("cancel", "cancelled")])
    def test_a_failure_goes_down_the_chain_as_the_field_says(
        self, post, read, train, spec, field, status
    ):
        chain = [train]
        for _ in range(3):
            request = {"spec": spec, "depends_on": chain[-1:], "on_dependency_failure": field}
            chain.append(post(request)["id"])
        fail()
        settle_dependencies()
        for before, job_id in pairwise(chain):
            job = read(job_id)
            assert (job["status"], job["error"]["code"]) == (status, "dependency_failed")
            assert before in job["error"]["message"]
        assert waiting() == 0

    def test_a_cancel_goes_down_too(self, client, post, read, train):
        job = post(sample(train))
        client.post(f"/v1/jobs/{train}/cancel")
        settle_dependencies()
        assert read(job["id"])["status"] == "failed"
        assert "has been cancelled" in read(job["id"])["error"]["message"]

    def test_a_file_that_was_not_left_ends_the_job(self, post, read, train, tmp_path):
        job = post(sample(train, "checkpoints/step-9.safetensors"))
        succeed(tmp_path, train, WEIGHTS)
        settle_dependencies()
        error = read(job["id"])["error"]
        assert error["code"] == "dependency_failed"
        assert "step-9" in error["message"]

    def test_a_job_that_is_gone_ends_those_that_wait(self, post, read, train, spec):
        job = post({"spec": spec, "depends_on": [train]})
        with make_session() as session:
            session.execute(delete(Job).where(Job.id == train))
        settle_dependencies()
        assert "is deleted" in read(job["id"])["error"]["message"]

    def test_a_cancelled_job_is_no_longer_waited_with(self, client, post, read, train, spec):
        job = post({"spec": spec, "depends_on": [train]})
        assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
        fail()
        settle_dependencies()
        assert read(job["id"])["error"] is None
        assert waiting() == 0

    def test_one_defective_row_keeps_no_other_waiting(self, post, read, train, spec, tmp_path):
        broken, other = (post({"spec": spec, "depends_on": [train]})["id"] for _ in range(2))
        with make_session() as session:
            session.execute(update(Job).where(Job.id == broken).values(resolved_spec={"kind": "?"}))
        succeed(tmp_path, train)
        settle_dependencies()
        assert read(other)["status_reason"] == "waiting_for_worker"

    def test_a_job_that_others_wait_for_is_not_deleted(self, client, post, train, spec, tmp_path):
        job = post({"spec": spec, "depends_on": [train]})
        succeed(tmp_path, train)
        answer = client.delete(f"/v1/jobs/{train}")
        assert answer.status_code == 409
        assert job["id"] in answer.json()["detail"]


class TestLooks:
    """A look costs what has ended since the one before, not what waits."""

    @pytest.fixture
    def settle(self, settings) -> settler.Settler:
        """One that has looked at every row before."""
        made = settler.Settler(_safely)
        assert not made()
        return made

    def test_what_has_ended_since_is_settled_with_all_behind_it(
        self, post, read, train, spec, settle
    ):
        chain = [train]
        for _ in range(3):
            chain.append(post({"spec": spec, "depends_on": chain[-1:]})["id"])
        settle_dependencies(settle)
        fail()
        settle_dependencies(settle)
        assert [read(job_id)["status"] for job_id in chain] == ["failed"] * 4

    def test_what_is_found_by_no_time_is_found_within_five_minutes(
        self, post, read, train, spec, settle, monkeypatch
    ):
        job = post({"spec": spec, "depends_on": [train]})
        with make_session() as session:
            session.execute(delete(Job).where(Job.id == train))
        settle_dependencies(settle)
        assert read(job["id"])["status"] == "queued"
        later = time.monotonic() + 301
        monkeypatch.setattr(settler.time, "monotonic", lambda: later)
        settle_dependencies(settle)
        assert read(job["id"])["status"] == "failed"

    def test_many_defective_rows_keep_no_other_waiting(
        self, post, read, train, spec, settle, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(dependencies, "SETTLED_AT_ONCE", 1)
        monkeypatch.setattr(dependencies, "LOOKED_AT_ONCE", 2)
        ids = [post({"spec": spec, "depends_on": [train]})["id"] for _ in range(4)]
        with make_session() as session:
            broken = update(Job).where(Job.id.in_(ids[:3])).values(resolved_spec={"kind": "?"})
            session.execute(broken)
        succeed(tmp_path, train)
        settle_dependencies(settle)
        assert read(ids[3])["status_reason"] == "waiting_for_worker"

    def test_every_row_is_looked_at_a_few_at_a_time(
        self, post, read, train, spec, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(dependencies, "LOOKED_AT_ONCE", 2)
        monkeypatch.setattr(settler, "LATE", -settler.LATE)  # so that no end is recent
        others = [add_job() for _ in range(2)]
        ids = [post({"spec": spec, "depends_on": [train, *others]})["id"] for _ in range(2)]
        for source in (train, *others):
            succeed(tmp_path, source)
        settle_dependencies()
        assert [read(job_id)["status_reason"] for job_id in ids] == ["waiting_for_worker"] * 2

    def test_many_at_once_leave_the_dispatcher_its_turns(
        self, post, train, spec, settle, tmp_path, monkeypatch
    ):
        for _ in range(5):
            post({"spec": spec, "depends_on": [train]})
        succeed(tmp_path, train)
        now = itertools.count()
        monkeypatch.setattr(settler.time, "monotonic", lambda: next(now) / 10)
        monkeypatch.setattr(settler, "SHARE_S", 0.35)
        left = []
        while settle():
            left.append(waiting())
        assert left
        assert sorted(left, reverse=True) == left
        assert waiting() == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestRefusals:
    def test_a_file_that_the_kind_does_not_leave(self, client, train):
        error = refused(client, sample(train, "nothing.bin"))
        assert error["pointer"] == "/spec/model/artifact"
        assert "weights.safetensors" in error["detail"]

    def test_a_file_of_another_kind_or_role(self, client, train):
        assert refused(client, sample(train, "report.json"))["code"] == "unmet_need"
        other = client.post("/v1/jobs", json={"spec": smallest("saliency.map")}).json()["id"]
        error = refused(client, sample(other, "report.json"))
        assert "lcw.train" in error["detail"]

    def test_a_digest_of_what_is_not_there(self, client, train):
        request = sample(train)
        request["spec"]["model"]["sha256"] = "a" * 64
        assert "not made yet" in refused(client, request)["detail"]

    def test_a_job_that_will_not_succeed(self, client, spec, train):
        fail()
        error = refused(client, {"spec": spec, "depends_on": [train]})
        assert error["pointer"] == "/depends_on/0"
        assert "has failed" in error["detail"]
        assert refused(client, sample(train))["pointer"] == "/spec/model"

    def test_a_job_of_another_tenant(self, client, spec):
        foreign = add_job("tenant_other", status="running")
        error = refused(client, {"spec": spec, "depends_on": [foreign]})
        assert error["code"] == "reference"
        assert refused(client, sample(foreign))["code"] == "reference"

    def test_a_dry_run_looks_at_them_too(self, client, spec):
        missing = f"job_{'0' * 32}"
        answer = client.post(
            "/v1/jobs", params={"dry_run": True}, json={"spec": spec, "depends_on": [missing]}
        )
        assert answer.status_code == 422


def pipeline(**second) -> dict:
    return {
        "jobs": [
            {"id": "draw", **sample("fit"), **second},
            {"id": "fit", "spec": smallest("lcw.train")},
            {"id": "last", "spec": smallest("saliency.map"), "depends_on": ["draw"]},
        ]
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestPipelines:
    def test_jobs_name_each_other_in_any_order(self, post, read, tmp_path):
        made = post(pipeline(), "/v1/pipelines")["jobs"]
        ids = {name: job["id"] for name, job in made.items()}
        assert list(ids) == ["draw", "fit", "last"]
        assert made["draw"]["depends_on"] == [ids["fit"]]
        assert made["draw"]["spec"]["model"]["job"] == ids["fit"]
        succeed(tmp_path, ids["fit"], WEIGHTS)
        settle_dependencies()
        succeed(tmp_path, ids["draw"])
        settle_dependencies()
        assert read(ids["last"])["status_reason"] == "waiting_for_worker"

    @pytest.mark.parametrize(
        ("change", "pointer", "words"),
        [
            ({"depends_on": ["last"]}, "/jobs", "circle"),
            ({"depends_on": ["lasst"]}, "/jobs/0/depends_on/0", "did you mean 'last'"),
            ({"id": "fit"}, "/jobs/1/id", "twice"),
            ({"spec": {"kind": "lcw.sampel"}}, "/jobs/0/spec", "lcw.sample"),
            (sample("fit", "no.bin"), "/jobs/0/spec/model/artifact", "leaves no file"),
            (sample("fitt"), "/jobs/0/spec/model/job", "did you mean 'fit'"),
            ({"queue": "nobody"}, "/jobs/0/queue", "no worker serves"),
        ],
    )
    def test_nothing_is_stored_of_a_wrong_one(self, client, change, pointer, words):
        client.headers["Idempotency-Key"] = "the refusal is kept"
        error = refused(client, pipeline(**change), "/v1/pipelines")
        assert error["pointer"] == pointer
        assert words in error["detail"]
        assert client.get("/v1/jobs").json()["data"] == []

    def test_a_repetition_with_its_key_makes_no_second(self, client):
        headers = {"Idempotency-Key": "once"}
        first, again = (
            client.post("/v1/pipelines", json=pipeline(), headers=headers) for _ in range(2)
        )
        assert first.json() == again.json()
        assert len(client.get("/v1/jobs").json()["data"]) == 3

    def test_all_or_none_of_a_quota(self, client):
        with make_session() as session:
            session.get_one(Tenant, DEFAULT_TENANT).quotas = {"queued_jobs": 2}
        assert client.post("/v1/pipelines", json=pipeline()).status_code == 429
        assert client.get("/v1/jobs").json()["data"] == []

    def test_a_retry_of_one_that_could_not_start_depends_on_nothing(
        self, client, post, train, spec
    ):
        job = post({"spec": spec, "depends_on": [train]})
        fail()
        settle_dependencies()
        assert client.delete(f"/v1/jobs/{train}").status_code == 204
        again = client.post(f"/v1/jobs/{job['id']}/retry", json={"from": "scratch"})
        assert again.status_code == 201
        assert again.json()["depends_on"] == []
