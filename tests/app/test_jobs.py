"""Jobs through HTTP: submit, read, list, cancel, retry, delete."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter
from sqlalchemy import select, update

from app.db.session import database_now, make_session
from app.db.tables import Artifact, Event, Job, Run, new_id
from app.schemas.errors import ReportedError
from app.services import lifecycle, workers
from app.services.keys import DEFAULT_TENANT
from app.services.lifecycle import Outcome, WorkerInfo
from app.settings import get_settings
from models.catalog import JobSpec, kinds
from tests.app.factories import add_job
from tests.smallest import smallest

WORKER = WorkerInfo("w1", "host", "boot", ("default", "gpu"))


@pytest.fixture
def submit(client, spec):
    """Submit the small spec; returns the job's JSON."""

    def send(**more) -> dict:
        answer = client.post("/v1/jobs", json={"spec": spec, **more})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return send


@pytest.fixture
def named_queue(client, monkeypatch) -> str:
    """A queue that the operator named and nobody serves."""
    monkeypatch.setenv("SEXTANT_QUEUES", "mine, ")
    get_settings.cache_clear()
    return "mine"


def claim() -> Run:
    with make_session() as session:
        run = lifecycle.claim(session, WORKER, "default")
        assert run is not None
        return run


LOST = ReportedError(code="worker_lost", message="the worker is gone")


def finish(run: Run, **outcome) -> None:
    with make_session() as session:
        lifecycle.finish(session, run, Outcome(**outcome))


def add_checkpoint(job_id: str, step: int, **labels) -> str:
    name = f"checkpoints/step-{step}.safetensors"
    with make_session() as session:
        session.add(
            Artifact(
                id=new_id("art"),
                tenant_id=DEFAULT_TENANT,
                job_id=job_id,
                run_number=1,
                role="checkpoint",
                name=name,
                step=step,
                storage_key=f"x/{name}",
                sha256="a" * 64,
                media_type="application/octet-stream",
                labels=labels,
                status="ready",
            )
        )
    return name


class TestSubmit:
    def test_answers_the_stored_job(self, client, spec, submit):
        sent = {
            "name": "first",
            "metadata": {"team": "a"},
            "resources": {"cpus": 2},
            "limits": {"timeout_s": 60, "max_runs": 1},
        }
        job = submit(**sent)
        assert {name: job[name] for name in ("name", "metadata")} == {
            name: sent[name] for name in ("name", "metadata")
        }
        assert job["resources"]["cpus"] == 2
        assert job["limits"] == {"timeout_s": 60, "queue_timeout_s": None, "max_runs": 1}
        assert (job["status"], job["status_reason"]) == ("queued", "waiting_for_worker")
        assert (job["queue"], job["queue_position"], job["priority"]) == ("default", 1, 5)
        assert job["spec"] == spec
        assert job["links"]["events"] == f"/v1/jobs/{job['id']}/events"
        read = client.get(f"/v1/jobs/{job['id']}")
        assert read.json() == job
        assert read.headers["ETag"] == f'"{job["etag"]}"'

    def test_location_and_first_event(self, client, spec):
        answer = client.post("/v1/jobs", json={"spec": spec})
        job = answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
        with make_session(write=False) as session:
            events = session.scalars(select(Event).where(Event.job_id == job["id"])).all()
            assert [(event.seq, event.type, event.data["status"]) for event in events] == [
                (1, "status", "queued")
            ]
            assert session.get_one(Job, job["id"]).event_seq == 1

    @pytest.mark.parametrize("kind", list(kinds()))
    def test_resolved_spec_gives_the_same_job(self, client, kind):
        """Wherever the smallest spec of a kind needs no other job."""
        small = smallest(kind)
        first = client.post("/v1/jobs", json={"spec": small})
        if first.status_code == 422:
            assert "/job" in first.text or "artifact" in first.text
            return
        job = first.json()
        resolved = job["resolved_spec"]
        again = client.post("/v1/jobs", json={"spec": resolved}).json()
        assert again["resolved_spec"] == resolved
        adapter = TypeAdapter(JobSpec)
        assert adapter.validate_python(resolved) == adapter.validate_python(small)

    def test_dry_run_stores_nothing(self, client, spec):
        answer = client.post("/v1/jobs?dry_run=true", json={"spec": spec})
        assert answer.status_code == 200
        body = answer.json()
        assert body["resolved_spec"]["seed"] == 0
        assert body["estimate"]["total_steps"] > 0
        assert body["warnings"] == ["no live worker serves the queue 'default'"]
        assert client.get("/v1/jobs").json()["data"] == []

    @pytest.mark.parametrize(
        ("resources", "placed"),
        [
            ({}, ("auto", 0, "default")),
            ({"device": "cpu"}, ("cpu", 0, "default")),
            ({"device": "cuda"}, ("cuda", 1, "gpu")),
            ({"gpus": 2}, ("cuda", 2, "gpu")),
            ({"gpus": 0}, ("auto", 0, "default")),
        ],
    )
    def test_device_and_queue(self, submit, resources, placed):
        job = submit(resources=resources)
        with make_session(write=False) as session:
            row = session.get_one(Job, job["id"])
            assert (row.device, row.gpus, row.queue) == placed

    def test_a_given_queue_wins(self, submit, named_queue):
        assert submit(queue=named_queue, resources={"device": "cuda"})["queue"] == named_queue

    @pytest.mark.parametrize("name", ["unacked", "unacked_index", "unacked_mutex", "defualt"])
    @pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs?dry_run=true"])
    def test_a_queue_that_nobody_serves_is_refused(self, client, spec, named_queue, name, path):
        answer = client.post(path, json={"spec": spec, "queue": name})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/queue"
        assert f"there are default, gpu, {named_queue};" in error["detail"]

    def test_a_queue_that_a_live_worker_serves_is_accepted(self, client, spec):
        with make_session() as session:
            workers.beat(
                session, "w", host="h", boot_id="b", pid=1, queues=["own"], slots=1, slots_free=1
            )
        assert client.post("/v1/jobs", json={"spec": spec, "queue": "own"}).status_code == 201

    def test_a_retry_into_a_queue_that_is_gone_is_refused(self, client, submit):
        job_id = add_job(queue="gone")
        with make_session() as session:
            job = session.get_one(Job, job_id)
            lifecycle.request_cancel(session, job, "kill", save=False)
        answer = client.post(f"/v1/jobs/{job_id}/retry", json={"from": "scratch"})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/queue"

    def test_wakes_a_worker_after_the_commit(self, submit, monkeypatch):
        seen = []

        def enqueue(name):
            with make_session(write=False) as session:
                seen.append((name, len(session.scalars(select(Job.id)).all())))

        monkeypatch.setattr("app.queue.enqueue", enqueue)
        submit()
        assert seen == [("default", 1)]


class TestReferences:
    def test_unknown_dataset_names_the_field_and_the_nearest(self, client, spec):
        spec["images"] = [{"dataset": "photos"}, {"dataset": "photo"}]
        answer = client.post("/v1/jobs", json={"spec": spec})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/spec/images/1/dataset"
        assert "did you mean 'photos'?" in error["detail"]

    def test_artifact_is_pinned(self, client, spec, submit):
        job = submit(spec=smallest("dynamic_downsampling.train"))
        name = add_checkpoint(job["id"], 3)
        spec["model"] = {"job": job["id"], "artifact": name}
        made = submit(spec=spec)
        assert made["resolved_spec"]["model"]["sha256"] == "a" * 64
        assert "sha256" not in made["spec"]["model"]

    def test_wrong_digest_is_refused(self, client, spec, submit):
        job = submit()
        name = add_checkpoint(job["id"], 3)
        spec["model"] = {"job": job["id"], "artifact": name, "sha256": "b" * 64}
        answer = client.post("/v1/jobs", json={"spec": spec})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/spec/model/sha256"

    def test_foreign_artifact_does_not_exist(self, client, spec, submit, make_key):
        job = submit()
        name = add_checkpoint(job["id"], 3)
        spec["model"] = {"job": job["id"], "artifact": name}
        other = make_key("jobs:write", tenant_id="tenant_b")
        answer = client.post(
            "/v1/jobs", json={"spec": spec}, headers={"Authorization": f"Bearer {other}"}
        )
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/spec/model"

    def test_resume_from_is_refused_where_not_resumable(self, client, spec, submit):
        job = submit()
        spec["resume_from"] = {"job": job["id"], "artifact": add_checkpoint(job["id"], 1)}
        answer = client.post("/v1/jobs", json={"spec": spec})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/spec/resume_from"


class TestRead:
    def test_not_modified(self, client, submit):
        job = submit()
        url = f"/v1/jobs/{job['id']}"
        for tag in (f'"{job["etag"]}"', f'W/"{job["etag"]}"', "*", f'"x", "{job["etag"]}"'):
            answer = client.get(url, headers={"If-None-Match": tag})
            assert (answer.status_code, answer.content) == (304, b"")
        assert client.get(url, headers={"If-None-Match": '"x"'}).status_code == 200

    def test_etag_changes_with_the_job(self, client, submit):
        job = submit()
        claim()
        read = client.get(f"/v1/jobs/{job['id']}").json()
        assert read["etag"] != job["etag"]
        assert (read["status"], read["status_reason"]) == ("running", "starting")
        assert read["worker"] == {"id": "w1", "host": "host", "device": "cpu"}
        assert read["queue_position"] is None

    def test_long_poll_answers_at_the_change(self, client, submit):
        job = submit()

        def later():
            time.sleep(0.3)
            claim()

        thread = threading.Thread(target=later)
        thread.start()
        started = time.monotonic()
        read = client.get(f"/v1/jobs/{job['id']}?wait_s=20").json()
        thread.join()
        assert read["status"] == "running"
        assert 0.2 < time.monotonic() - started < 5

    def test_long_poll_ends_after_the_time(self, client, submit):
        job = submit()
        started = time.monotonic()
        url = f"/v1/jobs/{job['id']}?wait_s=0.4"
        answer = client.get(url, headers={"If-None-Match": f'"{job["etag"]}"'})
        assert answer.status_code == 304
        assert 0.3 < time.monotonic() - started < 3

    def test_long_poll_does_not_wait_for_what_happened(self, client, submit):
        job = submit()
        claim()
        started = time.monotonic()
        url = f"/v1/jobs/{job['id']}?wait_s=20"
        read = client.get(url, headers={"If-None-Match": f'"{job["etag"]}"'}).json()
        assert read["status"] == "running"
        assert time.monotonic() - started < 2

    def test_final_jobs_do_not_wait(self, client, submit):
        job = submit()
        finish(claim(), exit_code=0)
        started = time.monotonic()
        assert client.get(f"/v1/jobs/{job['id']}?wait_s=20").json()["status"] == "succeeded"
        assert time.monotonic() - started < 2

    def test_reasons(self, client, submit):
        far = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert submit(not_before=far)["status_reason"] == "not_before"
        assert submit(not_before="2020-01-01T00:00:00Z")["status_reason"] == "waiting_for_worker"
        assert submit(resources={"device": "cuda"})["status_reason"] == "waiting_for_worker"
        with make_session() as session:
            values = {"host": "h", "boot_id": "b", "pid": 1, "slots": 1, "slots_free": 1}
            workers.beat(session, "w1", queues=["gpu"], **values)
        assert submit(resources={"device": "cuda"})["status_reason"] == "waiting_for_gpu"

    def test_the_start_that_was_asked_for_is_shown_also_afterwards(self, client, submit):
        asked = "2020-01-01T00:00:00Z"
        job = submit(not_before=asked)
        run = claim()
        assert client.get(f"/v1/jobs/{job['id']}").json()["not_before"] == asked
        finish(run, error=LOST)  # the wait for the next run is not what was asked for
        read = client.get(f"/v1/jobs/{job['id']}").json()
        assert (read["status_reason"], read["not_before"]) == ("backoff", asked)
        assert submit()["not_before"] is None

    def test_stalled_when_the_lease_is_dead(self, client, submit):
        job = submit()
        claim()
        with make_session() as session:
            past = database_now(session) - timedelta(seconds=1)
            session.execute(update(Job).values(lease_expires_at=past))
        assert client.get(f"/v1/jobs/{job['id']}").json()["status_reason"] == "stalled"

    def test_positions(self, client, submit):
        jobs = [submit() for _ in range(3)]
        listed = client.get("/v1/jobs?order=created_at").json()["data"]
        assert [job["queue_position"] for job in listed] == [1, 2, 3]
        assert [job["id"] for job in listed] == [job["id"] for job in jobs]

    def test_runs(self, client, submit):
        job = submit()
        finish(claim(), exit_code=None, signal=9, error=LOST)
        (run,) = client.get(f"/v1/jobs/{job['id']}/runs").json()["data"]
        assert (run["number"], run["worker_id"], run["outcome"], run["signal"]) == (
            1,
            "w1",
            "worker_lost",
            9,
        )
        read = client.get(f"/v1/jobs/{job['id']}").json()
        assert (read["status"], read["status_reason"]) == ("queued", "backoff")
        assert read["error"]["class"] == "infrastructure"

    @pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense", "job_%00"])
    def test_unknown(self, client, job_id):
        for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/runs"):
            assert client.get(path).status_code == 404

    def test_foreign_job_does_not_exist(self, client, submit, make_key):
        url = f"/v1/jobs/{submit()['id']}"
        client.headers["Authorization"] = f"Bearer {make_key('admin', tenant_id='tenant_b')}"
        assert client.get(url).status_code == 404
        assert client.get(f"{url}/runs").status_code == 404
        assert client.delete(url).status_code == 404
        assert client.post(f"{url}/cancel").status_code == 404
        assert client.post(f"{url}/retry").status_code == 404
        assert client.get("/v1/jobs").json()["data"] == []


class TestList:
    def test_pages_are_stable_while_rows_come(self, client, submit):
        ids = [submit()["id"] for _ in range(5)]
        seen, cursor = [], None
        while True:
            params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get("/v1/jobs", params=params).json()
            seen += [job["id"] for job in page["data"]]
            submit()
            assert page["has_more"] == (page["next_cursor"] is not None)
            if (cursor := page["next_cursor"]) is None:
                break
        assert seen == ids[::-1]

    def test_search_finds_a_part_of_the_name_and_the_beginning_of_the_id(self, client, submit):
        first, other = submit(name="Night run 100%"), submit(name="day_run")
        submit()

        def found(text: str) -> set[str]:
            answer = client.get("/v1/jobs", params={"search": text})
            return {row["id"] for row in answer.json()["data"]}

        assert found("NIGHT") == {first["id"]}
        assert found("run") == {first["id"], other["id"]}
        assert found(other["id"][:20]) >= {other["id"]}
        assert found(other["id"]) == {other["id"]}
        assert found(other["id"][:-1] + "G") == set()
        assert found("job_") >= {first["id"], other["id"]}
        assert found("ht") == {first["id"]}  # shorter than what an index has pieces of
        assert found("t") == {first["id"]}
        assert found("j") >= {first["id"], other["id"]}
        assert found("0%") == {first["id"]}  # no wildcards
        assert found("y_r") == {other["id"]}
        assert found("yxr") == set()
        assert client.get("/v1/jobs?search=").status_code == 422

    def test_cursor_belongs_to_its_filters(self, client, submit):
        for _ in range(3):
            submit(name="a")
        cursor = client.get("/v1/jobs?limit=1&name=a").json()["next_cursor"]
        assert client.get(f"/v1/jobs?limit=1&name=a&cursor={cursor}").status_code == 200
        for wrong in (f"name=b&cursor={cursor}", f"cursor={cursor}", "cursor=abc", "cursor=%C3%A9"):
            answer = client.get(f"/v1/jobs?limit=1&{wrong}")
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "/cursor"

    def test_filters(self, client, submit):
        first = submit(name="a", metadata={"team": "x", "a.b": "1"})
        second = submit(name="b", metadata={"team": "y"})
        claim()

        def found(query: str) -> list[str]:
            answer = client.get(f"/v1/jobs?{query}")
            assert answer.status_code == 200, answer.text
            return [job["id"] for job in answer.json()["data"]]

        both = [second["id"], first["id"]]
        assert found("status=running") == [first["id"]]
        assert found("status=running&status=queued") == both
        assert found("status=failed") == []
        assert found("name=b") == [second["id"]]
        assert found("metadata.team=x") == [first["id"]]
        assert found("metadata.a.b=1") == [first["id"]]
        assert found("metadata.team=y&name=a") == []
        assert found("metadata.team=x&status=running") == [first["id"]]
        assert found("metadata.team=x&status=queued") == []
        assert found("metadata.team=y&status=queued&status=failed") == [second["id"]]
        assert found("method=saliency") == both
        assert found("kind=lcw.train") == []
        assert found("parent=none") == []
        past, future = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
        assert found(f"created_after={past}&created_before={future}") == both
        assert found(f"created_after={future}") == []
        assert found(f"created_before={past}") == []
        exact = second["created_at"]
        assert found(f"created_after={exact}") == [second["id"]]
        assert found(f"created_before={exact}") == [first["id"]]

    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ("limit=0", "/limit"),
            ("limit=201", "/limit"),
            ("status=done", "/status"),
            ("order=name", "/order"),
            ("colour=red", ""),
            ("name=a%00", ""),
            ("created_after=yesterday", "/created_after"),
            ("created_after=0001-01-01T00:00:00%2B10:00", "/created_after"),
        ],
    )
    def test_wrong_filters(self, client, query, pointer):
        answer = client.get(f"/v1/jobs?{query}")
        assert answer.status_code == 422
        error = answer.json()["errors"][0]
        assert error["location"] == "query"
        assert error["pointer"].startswith(pointer)


class TestCancel:
    def test_queued_is_cancelled_at_once(self, client, submit):
        url = f"/v1/jobs/{submit()['id']}/cancel"
        first, second = client.post(url), client.post(url)
        assert (first.status_code, first.json()["status"]) == (202, "cancelled")
        assert (second.status_code, second.json()["status"]) == (200, "cancelled")

    def test_running_is_asked(self, client, submit):
        url = f"/v1/jobs/{submit()['id']}/cancel"
        run = claim()
        answer = client.post(url, json={"mode": "kill", "save_checkpoint": False})
        assert answer.status_code == 202
        assert (answer.json()["status"], answer.json()["status_reason"]) == (
            "running",
            "cancelling",
        )
        assert client.post(url).status_code == 202
        with make_session() as session:
            renewal = lifecycle.renew(session, run)
        assert (renewal.cancel_mode, renewal.save) == ("kill", False)

    def test_final_is_left_alone(self, client, submit):
        url = f"/v1/jobs/{submit()['id']}/cancel"
        finish(claim(), exit_code=0)
        answer = client.post(url)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


class TestDelete:
    def test_only_final_jobs(self, client, submit):
        url = f"/v1/jobs/{submit()['id']}"
        assert client.delete(url).status_code == 409
        client.post(f"{url}/cancel")
        answer = client.delete(url)
        assert (answer.status_code, answer.content) == (204, b"")
        assert client.get(url).status_code == 404
        assert client.delete(url).status_code == 404
        assert client.get("/v1/jobs").json()["data"] == []


class TestRetry:
    @pytest.fixture
    def parent(self, client):
        kind = next(name for name, spec in kinds().items() if spec.resumable)
        body = {"spec": smallest(kind), "name": "p", "metadata": {"a": "b"}}
        job = client.post("/v1/jobs", json=body).json()
        finish(claim(), exit_code=0)
        return job

    def test_from_scratch_with_overrides(self, client, parent):
        sent = {"from": "scratch", "overrides": {"seed": 7}}
        answer = client.post(f"/v1/jobs/{parent['id']}/retry", json=sent)
        assert answer.status_code == 201, answer.text
        job = answer.json()
        assert job["parent_job_id"] == parent["id"] != job["id"]
        assert job["spec"] == {**parent["spec"], "seed": 7}
        assert (job["name"], job["metadata"], job["limits"]) == ("p", {"a": "b"}, parent["limits"])
        listed = client.get(f"/v1/jobs?parent={parent['id']}").json()["data"]
        assert [row["id"] for row in listed] == [job["id"]]

    def test_from_checkpoints(self, client, parent):
        names = {step: add_checkpoint(parent["id"], step, best=step == 5) for step in (5, 9)}
        url = f"/v1/jobs/{parent['id']}/retry"
        for which, step in ((None, 9), ("latest", 9), ("best", 5), (5, 5)):
            answer = client.post(url, json={"from": which} if which else {})
            assert answer.status_code == 201, answer.text
            resumed = answer.json()["resolved_spec"]["resume_from"]
            assert resumed == {"job": parent["id"], "artifact": names[step], "sha256": "a" * 64}
        assert client.post(url, json={"from": 6}).status_code == 409

    def test_without_checkpoint(self, client, parent):
        answer = client.post(f"/v1/jobs/{parent['id']}/retry")
        assert answer.status_code == 409
        assert '"from": "scratch"' in answer.json()["detail"]

    def test_not_before_it_is_final(self, client, submit):
        assert client.post(f"/v1/jobs/{submit()['id']}/retry").status_code == 409

    def test_wrong_overrides(self, client, parent):
        url = f"/v1/jobs/{parent['id']}/retry"
        for overrides, pointer in (
            ({"seed": -1}, "/overrides/seed"),
            ({"sead": 1}, "/overrides/sead"),
            ({"kind": "saliency.map"}, "/overrides/kind"),
            ({"data": {"dataset": "digit"}}, "/overrides/data/dataset"),
        ):
            sent = {"from": "scratch", "overrides": overrides}
            answer = client.post(url, json=sent)
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"][0]["pointer"] == pointer
