"""Predictions while worker or broker go away: an answer or a job in time, and nothing left."""

import base64
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from app.services import artifacts
from tests.app.factories import add_job, claim, finish, write
from tests.conftest import fresh_caches
from tests.service import Service, wait_until

pytestmark = pytest.mark.slow
STUB = Path(__file__).parents[1] / "workers" / "serving_stub.py"
ALIAS = "/v1/models/net@production/predict"
WAIT_S = 6
IN_TIME_S = WAIT_S + 10  # on a machine that others use too


@pytest.fixture
def service(sqlite, broker, make_service, monkeypatch, tmp_path) -> Service:
    """An API and a worker whose nets are stubs, and a version of a model."""
    made = make_service(sqlite, broker.url, PREDICT_WAIT_S=WAIT_S, WORKER_QUEUES="none")
    made.env["SEXTANT_WORKER_COMMAND"] = f"{sys.executable} {STUB}"
    made.start_api()
    for name, value in made.env.items():
        if name.startswith("SEXTANT_"):
            monkeypatch.setenv(name, value)
    fresh_caches()
    add_job(kind="freetickets.train", method="freetickets")
    run = claim()
    artifacts.store(run, write(tmp_path / "w", b"weights"), "weights", "weights.safetensors")
    finish(run)
    fresh_caches()
    body = {"job": run.job_id, "artifact": "weights.safetensors", "aliases": ["production"]}
    assert made.client.post("/v1/models/net/versions", json=body).status_code == 201
    return made


def ask(service: Service, word: bytes = b"x") -> int:
    """The status of a prediction about a file of this word."""
    images = [base64.b64encode(b"BM" + word).decode()]
    return service.client.post(ALIAS, json={"images": images}).status_code


def ask_meanwhile(service: Service, word: bytes, meanwhile) -> tuple[int, float]:
    """Status and seconds of a prediction during which something happens."""
    statuses = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: statuses.append(ask(service, word)))
    thread.start()
    time.sleep(1)
    meanwhile()
    thread.join(60)
    return statuses[0], time.monotonic() - began


def kill(process) -> None:
    process.kill()
    process.wait()


def test_kill_9_of_the_worker_that_was_asked(service):
    worker = service.start_worker()
    wait_until(lambda: ask(service) == 200)
    status, took_s = ask_meanwhile(service, b"hang", lambda: kill(worker))
    assert (status, took_s < IN_TIME_S) == (202, True)
    wait_until(lambda: not service.children(), 15, "no child left")
    service.start_worker()
    wait_until(lambda: ask(service) == 200)


def test_a_broker_that_goes_away_and_comes_back(service, broker):
    service.start_worker()
    wait_until(lambda: ask(service) == 200)
    status, took_s = ask_meanwhile(service, b"hang", broker.stop)
    assert (status, took_s < IN_TIME_S) == (202, True)
    assert ask(service) == 202
    broker.start()
    wait_until(lambda: ask(service) == 200)


def test_a_broker_that_stands_still(service, broker):
    service.start_worker()
    wait_until(lambda: ask(service) == 200)
    pid = broker.client().info("server")["process_id"]
    status, took_s = ask_meanwhile(service, b"hang", lambda: os.kill(pid, signal.SIGSTOP))
    os.kill(pid, signal.SIGCONT)
    assert (status, took_s < IN_TIME_S) == (202, True)
    wait_until(lambda: ask(service) == 200, 40)
