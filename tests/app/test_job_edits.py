"""Jobs that are there: renamed and noted, fetched as one file, compared; workers and queues."""

import io
import zipfile

import pytest

from app import storage
from app.db.session import make_session
from app.http import archives
from app.services import artifacts, metrics, workers
from app.services.child_lines import MetricLine
from tests.app.factories import add_job, claim, finish, write

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def job(client, spec) -> dict:
    request = {"spec": spec, "name": "first", "metadata": {"team": "a", "paper": "b"}}
    return client.post("/v1/jobs", json=request).json()


class TestEdit:
    def test_fields_that_were_sent_change_and_no_others(self, client, job):
        path = f"/v1/jobs/{job['id']}"
        change = {"metadata": {"team": "c", "paper": None, "new": "d"}, "notes": "good"}
        answer = client.patch(path, json=change)
        after = answer.json()
        assert (after["name"], after["notes"]) == ("first", "good")
        assert after["metadata"] == {"team": "c", "new": "d"}
        assert after == client.get(path).json()
        assert answer.headers["ETag"] == f'"{after["etag"]}"' != f'"{job["etag"]}"'
        found = [
            client.get("/v1/jobs", params={f"metadata.{name}": value}).json()["data"]
            for name, value in (("team", "c"), ("team", "a"), ("paper", "b"))
        ]
        assert [len(each) for each in found] == [1, 0, 0]
        assert client.patch(path, json={"name": None, "notes": None}).json()["name"] is None

    def test_only_the_version_that_was_seen(self, client, job):
        path, seen = f"/v1/jobs/{job['id']}", {"If-Match": f'"{job["etag"]}"'}
        assert client.patch(path, json={"name": "mine"}, headers=seen).status_code == 200
        refused = client.patch(path, json={"name": "other"}, headers=seen)
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
        assert client.patch(path, json={"name": "any"}, headers={"If-Match": "*"}).is_success
        assert client.get(path).json()["name"] == "any"

    def test_final_ones_too_and_never_what_they_do(self, client, job):
        path = f"/v1/jobs/{job['id']}"
        finish(claim())
        assert client.patch(path, json={"name": "done"}).json()["status"] == "succeeded"
        assert client.patch(path, json={"spec": {}}).status_code == 422
        labels = {f"l{n}": "x" for n in range(15)}
        error = client.patch(path, json={"metadata": labels}).json()["errors"][0]
        assert error["pointer"] == "/metadata"
        assert "17 labels" in error["detail"]

    def test_hidden_ones_are_listed_where_they_are_asked_for(self, client, job):
        path, other = f"/v1/jobs/{job['id']}", add_job()
        hidden = client.patch(path, json={"hidden": True}).json()
        assert hidden["hidden_at"] is not None
        assert client.patch(path, json={"hidden": True}).json()["hidden_at"] == hidden["hidden_at"]

        def listed(**query) -> set[str]:
            return {row["id"] for row in client.get("/v1/jobs", params=query).json()["data"]}

        assert listed() == listed(hidden="false", status="queued") == {other}
        assert listed(hidden="true") == listed(hidden="true", **{"metadata.team": "a"})
        assert listed(hidden="true") == {job["id"]}
        assert client.get("/v1/jobs", params={"hidden": "only"}).status_code == 422
        finish(claim())  # it goes on: as the older one it comes first
        assert client.get(path).json()["status"] == "succeeded"
        assert client.patch(path, json={"hidden": False}).json()["hidden_at"] is None
        assert listed() == {job["id"], other}
        assert client.patch(path, json={"hidden": None}).status_code == 422

    def test_of_another_tenant(self, client):
        other = add_job("tenant_other")
        assert client.patch(f"/v1/jobs/{other}", json={"name": "x"}).status_code == 404
        assert client.get(f"/v1/jobs/{other}/archive").status_code == 404


def test_an_archive_holds_every_file(client, job, tmp_path):
    run = claim()
    for name, data in (("a.txt", b"first"), ("maps/b.npy", bytes(3_000_000)), ("empty", b"")):
        artifacts.store(run, write(tmp_path / "f", data), "table", name)
    finish(run)
    answer = client.get(f"/v1/jobs/{job['id']}/archive")
    assert answer.headers["Content-Disposition"].endswith(f'{job["id"]}.zip"')
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = {f"{job['id']}/{name}" for name in ("a.txt", "maps/b.npy", "empty")}
        assert set(archive.namelist()) == {f"{job['id']}.json", *names}
        assert archive.read(f"{job['id']}/a.txt") == b"first"


def test_a_file_that_is_gone_breaks_the_archive_off(client, job, tmp_path):
    run = claim()
    row = artifacts.store(run, write(tmp_path / "f", b"x"), "table", "a.txt")
    finish(run)
    storage.delete(row.storage_key)
    with pytest.raises(FileNotFoundError):
        list(archives.zipped(job["id"], b"{}", [row]))


def test_jobs_beside_each_other(client, spec):
    ids = []
    for seed, values in ((0, {"loss": 1.0}), (1, {"loss": 2.0, "more": 3.0})):
        ids.append(client.post("/v1/jobs", json={"spec": {**spec, "seed": seed}}).json()["id"])
        run = claim()
        with make_session() as session:
            old = MetricLine(type="metric", step=1, values=dict.fromkeys(values, 9.0))
            metrics.write(session, run, [old])
            metrics.write(session, run, [MetricLine(type="metric", step=2, values=values)])
        finish(run)
    answer = client.get("/v1/compare", params={"jobs": ",".join(ids)}).json()
    assert [each["id"] for each in answer["jobs"]] == ids
    assert answer["spec"] == [{"field": "seed", "values": [0, 1]}]
    assert answer["metrics"] == {"loss": [1.0, 2.0], "more": [None, 3.0]}
    missing = {"jobs": f"{ids[0]},job_{'0' * 32}"}
    assert client.get("/v1/compare", params=missing).status_code == 404
    assert client.get("/v1/compare", params={"jobs": ids[0]}).status_code == 422


def test_workers_and_queues_are_for_operators(client, make_key, spec):
    waiting = [client.post("/v1/jobs", json={"spec": spec}).json()["id"] for _ in range(2)]
    client.post(f"/v1/jobs/{waiting[0]}/cancel", json={})
    with make_session() as session:
        workers.beat(
            session, "w1", host="h", boot_id="b", pid=1, queues=["default"], gpus=[], slots=2,
            slots_free=1, versions={}, draining=False,
        )  # fmt: skip
    live = client.get("/v1/workers").json()["data"]
    assert [(each["id"], each["slots_free"]) for each in live] == [("w1", 1)]
    queues = {each["name"]: each for each in client.get("/v1/queues").json()["data"]}
    assert queues["default"] == {"name": "default", "waiting": 1, "served": True}
    reader = {"Authorization": f"Bearer {make_key('jobs:read')}"}
    assert client.get("/v1/workers", headers=reader).status_code == 403
    assert client.get("/v1/queues", headers=reader).status_code == 403
