"""Predictions at once: loaded nets of workers, and jobs where none answers."""

import asyncio
import base64
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app import questions, queue, storage
from app.db.session import make_session
from app.main import create_app
from app.schemas.registry import ModelVersionCreate
from app.services import artifacts, datasets, keys, versions
from app.settings import get_settings
from models.core.errors import DataError
from models.data import files
from tests.app.factories import add_job, claim, finish, write
from tests.conftest import make_database, running_valkey
from tests.service import wait_until
from workers import run_folder, serving
from workers.host import this_host
from workers.warm_child import WarmChild

STUB = Path(__file__).parent / "serving_stub.py"
FILE = "weights.safetensors"
ALIAS = "/v1/models/digits@production/predict"
IMAGE = {"Content-Type": "image/bmp"}


@pytest.fixture(scope="module")
def database_url(request, tmp_path_factory) -> str:
    """SQLite alone: no rows are written while a question is asked."""
    return make_database("sqlite", request, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    """A broker of its own: a worker of other tests would answer from the session's."""
    queue.make_answer_client.cache_clear()
    with running_valkey() as url:
        yield url
    queue.make_answer_client.cache_clear()


@pytest.fixture
def broker(settings, valkey_url, monkeypatch):
    """A broker without questions, and a service that asks stubs."""
    monkeypatch.setenv("SEXTANT_BROKER_URL", valkey_url)
    monkeypatch.setenv("SEXTANT_WORKER_COMMAND", f"{sys.executable} {STUB}")
    monkeypatch.setenv("SEXTANT_PREDICT_WAIT_S", "20")
    get_settings.cache_clear()
    client = queue.make_answer_client()
    client.flushdb()
    return client


@pytest.fixture
def serve(broker, monkeypatch):
    """Start the threads of a worker with some settings."""
    started = []
    this_host.cache_clear()

    def start(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"SEXTANT_{name}", str(value))
        get_settings.cache_clear()
        started.extend(serving.start_servers())
        wait_until(lambda: broker.exists(questions.SERVING))

    yield start
    this_host().draining.set()
    for server in started:
        server.join(30)
    this_host.cache_clear()
    assert not any(run_folder.runs_folder().glob("net_*"))


@pytest.fixture
def asked(broker, tmp_path):
    """Register a version for a tenant; a client of that tenant."""
    with make_session() as session:
        admin = keys.ensure_admin_key(session)
    with TestClient(create_app(), raise_server_exceptions=False) as api:

        def make(tenant_id=keys.DEFAULT_TENANT, kind="freetickets.train") -> TestClient:
            add_job(tenant_id, kind=kind, method=kind.partition(".")[0])
            run = claim()
            artifacts.store(run, write(tmp_path / "f", run.job_id.encode()), "weights", FILE)
            finish(run)
            body = ModelVersionCreate(job=run.job_id, artifact=FILE, aliases=["production"])
            with make_session() as session:
                versions.register(session, tenant_id, "digits", body)
                other = tenant_id != keys.DEFAULT_TENANT
                scopes = ["jobs:read", "jobs:write"]
                secret = keys.create(session, tenant_id, "k", scopes)[1] if other else admin
            api.headers["Authorization"] = f"Bearer {secret}"
            return api

        yield make


def pid_of(answer) -> int:
    """The process that answered."""
    assert answer.status_code == 200, answer.text
    return int(answer.json()["predictions"][0][0]["class"])


def ends(pid: int) -> bool:
    """Whether a process is no more, or will be in a moment."""
    return bool(wait_until(lambda: not psutil.pid_exists(pid), 15))


def test_a_loaded_net_answers_again_and_again(serve, asked):
    api = asked()
    serve()
    first = api.post(ALIAS, content=b"BMx", headers=IMAGE)
    assert first.json()["model"] == "model:digits/1"
    images = [base64.b64encode(b"BMx").decode()] * 3
    several = api.post("/v1/models/digits/versions/1/predict", json={"images": images})
    assert len(several.json()["predictions"]) == 3
    assert pid_of(first) == pid_of(several)


def test_a_version_that_follows_has_a_process_of_its_own_and_the_oldest_goes(serve, asked):
    api = asked()
    serve(PREDICT_NETS=1)
    old = pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))
    asked()
    new = pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))
    assert new != old
    assert ends(old)


def test_no_two_tenants_share_a_process(serve, asked):
    serve()
    pids = {pid_of(asked(tenant).post(ALIAS, content=b"BMx", headers=IMAGE))
            for tenant in (keys.DEFAULT_TENANT, "ten_other")}  # fmt: skip
    assert len(pids) == 2


def test_what_a_net_refuses_is_the_callers_error(serve, asked):
    api = asked()
    serve()
    refused = api.post(ALIAS, content=b"BMbad", headers=IMAGE)
    assert (refused.status_code, "image 0: damaged: send another" in refused.text) == (422, True)
    assert pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))


@pytest.mark.parametrize("fault", ["die", pytest.param("hang", marks=pytest.mark.slow), "kill"])
def test_a_child_that_fails_leaves_a_job(serve, asked, fault):
    api = asked()
    serve(PREDICT_WAIT_S=3 if fault == "hang" else 20)
    before = pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))
    if fault == "kill":
        os.kill(before, signal.SIGKILL)
        assert ends(before)
    began = time.monotonic()
    word = b"BMx" if fault == "kill" else b"BM" + fault.encode()
    answer = api.post(ALIAS, content=word, headers=IMAGE)
    assert time.monotonic() - began < 15
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["spec"]["model"]) == ("classify.predict", {"job": "model:digits/1"})
    assert ends(before)
    assert pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE)) != before


def test_a_net_that_loads_slowly_answers_later(serve, asked, monkeypatch):
    monkeypatch.setenv("LC_STUB_LOAD_S", "3")
    api = asked()
    serve(PREDICT_WAIT_S=1)
    assert api.post(ALIAS, content=b"BMx", headers=IMAGE).status_code == 202
    (loading,) = run_folder.runs_folder().glob("net_*")
    time.sleep(3)
    assert pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))
    assert [*run_folder.runs_folder().glob("net_*")] == [loading]


def test_who_waited_too_long_for_others_does_not_end_the_net(broker, monkeypatch):
    child = WarmChild(Path)
    monkeypatch.setattr(serving, "_new", lambda _: child)
    server = serving.Server(serving.WarmNets(1), threading.Event())
    question = questions.Question("ten_a", "classify.predict", {"sha256": "0" * 64}, {}, [])
    assert "busy" in server._answer(question, time.monotonic() - 1)["failed"]
    assert not child.closed


async def leave_waiting(broker, tenant_id: str, count: int) -> None:
    """Ask at once and go away when each question waits or was turned away."""
    client, before = queue.make_question_client(), broker.zcard(questions.WAITING)
    question = questions.Question(tenant_id, "k", {}, {}, [])
    asked = [asyncio.create_task(questions.ask(client, question, 60)) for _ in range(count)]

    def settled() -> bool:
        turned_away = sum(task.done() for task in asked)
        return turned_away + broker.zcard(questions.WAITING) == before + count

    await asyncio.to_thread(wait_until, settled)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await client.aclose()
    await client.connection_pool.disconnect()


def test_tenants_take_turns_and_none_fills_the_line(broker):
    questions.say_serving(broker)
    for tenant_id, count in (("ten_many", 30), ("ten_one", 1), ("ten_other", 30)):
        asyncio.run(leave_waiting(broker, tenant_id, count))
    took = [questions.take(broker, 1) for _ in range(broker.zcard(questions.WAITING))]
    tenants = [taken.question.tenant_id for taken in took]
    assert [tenants.count(each) for each in ("ten_many", "ten_one", "ten_other")] == [16, 1, 8]
    assert sorted(tenants[:3]) == ["ten_many", "ten_one", "ten_other"]
    assert tenants[-8:] == ["ten_many"] * 8
    asyncio.run(leave_waiting(broker, "ten_many", 2))
    asyncio.run(leave_waiting(broker, "ten_other", 1))
    took = [questions.take(broker, 1).question.tenant_id for _ in range(3)]
    assert took[-1] == "ten_many"  # its second one, though asked before that of the other


def with_key(key: str, **more) -> dict:
    """Arguments of a POST of one picture."""
    return {"content": b"BMx", "headers": IMAGE | {"Idempotency-Key": key}} | more


def test_a_question_asked_twice_becomes_one_job(asked):
    api = asked()
    first, second = (api.post(ALIAS, **with_key("a")) for _ in range(2))
    assert (first.status_code, second.json()) == (202, first.json())
    assert second.headers["location"] == first.headers["location"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert api.post(ALIAS, **with_key("b")).json()["id"] != first.json()["id"]
    for more in ({"content": b"BMy"}, {"params": {"top": 2}}):
        assert api.post(ALIAS, **with_key("a", **more)).status_code == 422
    names = [row["name"] for row in api.get("/v1/datasets").json()["data"]]
    assert sum(name.startswith("predict-") for name in names) == 2


def test_equal_questions_at_once_become_one_job(asked, monkeypatch):
    api, together = asked(), threading.Barrier(2)

    async def ask(_):
        await asyncio.to_thread(together.wait, 10)

    monkeypatch.setattr("app.http.asking.ask", ask)
    with ThreadPoolExecutor(2) as pool:
        posts = [pool.submit(api.post, ALIAS, **with_key("a")) for _ in range(2)]
        answers = [post.result() for post in posts]
    assert len({answer.json()["id"] for answer in answers}) == 1
    names = [row["name"] for row in api.get("/v1/datasets").json()["data"]]
    assert sum(name.startswith("predict-") for name in names) == 1


def test_what_a_net_said_is_said_again_for_its_key(serve, asked):
    api = asked()
    serve()
    assert api.post(ALIAS, **with_key("a", content=b"BMbad")).status_code == 422
    first = api.post(ALIAS, **with_key("a"))
    os.kill(pid_of(first), signal.SIGKILL)
    assert ends(pid_of(first))
    again = api.post(ALIAS, **with_key("a"))
    assert (again.status_code, again.json()) == (200, first.json())


def test_without_a_worker_it_is_a_job_at_once(asked):
    api = asked()
    answer = api.post(f"{ALIAS}?top=2", content=b"BMx", headers=IMAGE)
    assert answer.status_code == 202
    spec = answer.json()["spec"]
    assert spec["top"] == 2
    dataset = api.get(f"/v1/datasets/{spec['data']['dataset']}").json()
    assert (dataset["status"], dataset["counts"]) == ("ready", {"images": 1})


def test_the_pictures_of_a_job_are_all_read_or_refused(asked, tmp_path):
    api = asked()
    file = io.BytesIO()
    Image.new("RGB", (4, 6)).save(file, "jpeg")
    images = [base64.b64encode(each).decode() for each in (file.getvalue(), b"no picture")]
    job = api.post(ALIAS, json={"images": images}).json()
    with make_session() as session:
        row = datasets.get(session, keys.DEFAULT_TENANT, job["spec"]["data"]["dataset"])
        path = write(tmp_path / "z", b"".join(storage.open(row.storage_key)))
    with files.open_images(path) as opened:
        pictures = opened.part("test").pictures()
        assert next(pictures)[1].shape == (6, 4, 3)
        with pytest.raises(DataError, match="00001"):
            next(pictures)


def test_a_quota_that_is_full_leaves_no_dataset(asked, monkeypatch):
    api = asked()
    monkeypatch.setenv("SEXTANT_LIMITS_QUEUED_JOBS", "0")
    get_settings.cache_clear()
    assert api.post(ALIAS, content=b"BMx", headers=IMAGE).status_code == 429
    names = [row["name"] for row in api.get("/v1/datasets").json()["data"]]
    assert not [name for name in names if name.startswith("predict-")]


def test_bodies_are_bounded(asked):
    api = asked()
    for status, sent in (
        (413, {"content": b"x" * (8 * 2**20 + 1), "headers": IMAGE}),
        (415, {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        (422, {"content": b"", "headers": IMAGE}),
        (400, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (422, {"json": {"images": []}}),
        (422, {"json": {"images": ["not base64"]}}),
        (422, {"json": {"images": ["eA=="] * 65}}),
        (422, {"json": {"images": ["eA=="], "more": 1}}),
        (422, {"content": b"x", "headers": IMAGE, "params": {"top": 0}}),
    ):
        answer = api.post(ALIAS, **sent)
        assert answer.status_code == status, answer.text


def test_only_classifiers_that_are_there_predict(asked):
    api = asked(kind="lcw.train")
    refused = api.post(ALIAS, content=b"x", headers=IMAGE)
    assert (refused.status_code, "needs an artifact" in refused.text) == (422, True)
    assert api.post("/v1/models/other@a/predict", content=b"x", headers=IMAGE).status_code == 404
    with make_session() as session:
        versions.delete_alias(session, keys.DEFAULT_TENANT, "digits", "production")
    assert api.post(ALIAS, content=b"x", headers=IMAGE).status_code == 404


def test_nets_go_when_nobody_asks(serve, asked, monkeypatch):
    monkeypatch.setattr(serving, "TIDY_S", 0.1)
    api = asked()
    serve(PREDICT_IDLE_S=1)
    assert ends(pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE)))


def test_nets_go_when_memory_is_short(serve, asked, monkeypatch):
    monkeypatch.setattr(serving, "TIDY_S", 0.1)
    monkeypatch.setattr(WarmChild, "memory_mb", lambda _: 200.0)
    api = asked()
    serve(PREDICT_MEMORY_MB=256)
    first = pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))
    asked()
    second = pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE))
    assert ends(first)
    assert pid_of(api.post(ALIAS, content=b"BMx", headers=IMAGE)) == second


def test_a_file_that_is_gone_leaves_a_job_and_no_folder(serve, asked):
    api = asked()
    for info in storage.list("t"):
        storage.delete(info.key)
    serve()
    assert api.post(ALIAS, content=b"BMx", headers=IMAGE).status_code == 202
    assert not any(run_folder.runs_folder().glob("net_*"))
