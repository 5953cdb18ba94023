"""An S3 store that fails: runs end rightly, and no row says of bytes that are not there."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

pytestmark = pytest.mark.slow
STEPS, TOTAL = 20, 210
Environ = dict[str, Any]
Fault = Callable[[Environ, Callable[[], list[bytes]]], list[bytes] | None]


class Bucket:
    """A bucket of moto behind a fault: what a request with a body meets in place of moto.

    A fault gets the request and how to carry it out; it returns the answer, or None for a 500.
    """

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault | None = None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self._client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")
        self._client.create_bucket(Bucket="bucket")

    def _answer(self, environ: Environ, start: Callable[..., Any]) -> list[bytes]:
        fault = self.fault
        if fault is None or environ["REQUEST_METHOD"] not in ("PUT", "POST"):
            return self._moto(environ, start)
        # read in any case: what is left of a body would stand before the next request
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        answered: list[Any] = []
        answer = fault(
            environ, lambda: list(self._moto(environ, lambda *head: answered.append(head)))
        )
        if answer is None:
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        start(*(answered[-1] if answered else ("200 OK", [("ETag", '"0"')])))
        return answer

    def objects(self) -> dict[str, int]:
        """Size of each object by its key."""
        found = self._client.list_objects_v2(Bucket="bucket").get("Contents", [])
        return {each["Key"]: each["Size"] for each in found}

    def stop(self) -> None:
        """End the server."""
        self._client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    made = Bucket()
    yield made
    made.stop()


@pytest.fixture
def service(make_service, sqlite, bucket):
    store = {"STORE_URL": "s3://bucket/of/tests", "STORE_ENDPOINT": bucket.endpoint}
    made = make_service(sqlite, behaviour="steps", steps=STEPS, **store)
    made.start_api()
    made.start_worker()
    return made


def times(count: int, fault: Fault) -> Fault:
    """A fault of the first requests alone."""
    left = threading.Semaphore(count)

    def limited(environ: Environ, carry_out: Callable[[], list[bytes]]) -> list[bytes] | None:
        return (fault if left.acquire(blocking=False) else sound)(environ, carry_out)

    return limited


def sound(environ: Environ, carry_out: Callable[[], list[bytes]]) -> list[bytes]:
    return carry_out()


def refused(environ: Environ, carry_out: Callable[[], list[bytes]]) -> None:
    """A 500 before anything is stored."""


def slow(environ: Environ, carry_out: Callable[[], list[bytes]]) -> list[bytes]:
    time.sleep(0.6)
    return carry_out()


def answer_lost(environ: Environ, carry_out: Callable[[], list[bytes]]) -> None:
    """A 500 though the object is stored."""
    carry_out()


def forgotten(environ: Environ, carry_out: Callable[[], list[bytes]]) -> list[bytes] | None:
    """Weights are acknowledged and not kept."""
    return [b""] if "weights" in environ["PATH_INFO"] else carry_out()


@pytest.mark.parametrize("fault", [refused, slow, answer_lost], ids=lambda each: each.__name__)
def test_a_store_that_fails_for_a_while_costs_time_alone(service, bucket, fault):
    bucket.fault = slow if fault is slow else times(3, fault)
    job_id = service.submit()
    job = service.wait(job_id)
    assert (job["status"], job["result"]) == ("succeeded", {"total": TOTAL}), job
    service.check(job_id)
    kept = {a["name"]: a["size_bytes"] for a in service.artifacts(job_id)}
    assert "weights.safetensors" in kept
    stored = {key.partition("/r1/")[2]: size for key, size in bucket.objects().items()}
    assert kept.items() <= stored.items()


@pytest.mark.parametrize("fault", [refused, forgotten], ids=lambda each: each.__name__)
def test_a_run_whose_files_are_not_kept_does_not_succeed(service, bucket, fault):
    bucket.fault = fault
    job_id = service.submit(limits={"max_runs": 1})
    job = service.wait(job_id, timeout_s=60)
    assert (job["status"], job["error"]["code"]) == ("failed", "storage_unavailable"), job
    assert "weights.safetensors" not in {a["name"] for a in service.artifacts(job_id)}
    service.check(job_id)
    bucket.fault = None  # the worker is still there for the next
    again = service.submit()
    assert service.wait(again)["status"] == "succeeded"
    service.check(again)
