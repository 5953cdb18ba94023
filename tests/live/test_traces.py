"""One trace from the request to the end of the run, received by OTLP over HTTP."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import make_database
from tests.service import Service, wait_until

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver(ThreadingHTTPServer):
    """Takes spans; keeps them with the name of the service that sent them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans = {}

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans[span.span_id.hex()] = (about["service.name"], span)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def traced(receiver, own_database_url, tmp_path) -> Iterator[Service]:
    service = Service(tmp_path, own_database_url, behaviour="steps", steps=6)
    service.env |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    yield service
    service.stop()


@pytest.fixture
def own_database_url(tmp_path, request) -> str:
    """SQLite: which database it is makes no difference to a trace."""
    return make_database("sqlite", request, tmp_path)


def test_a_job_is_one_trace(traced, receiver):
    traced.start_api()
    traced.start_worker()
    parent = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "mine-1"}
    answer = traced.post_job(headers=parent)
    job_id = answer.json()["id"]
    traced.wait(job_id, "succeeded")

    def whole():
        names = [span.name for _, span in receiver.spans.values() if span.trace_id.hex() == TRACE]
        return {"run", "finish", "POST /v1/jobs"} <= set(names)

    wait_until(whole, 20, "the spans arrive")
    spans = {k: v for k, v in receiver.spans.items() if v[1].trace_id.hex() == TRACE}
    ((request_id, request),) = [(k, s) for k, (_, s) in spans.items() if s.name == "POST /v1/jobs"]
    ((run_id, run),) = [(k, s) for k, (_, s) in spans.items() if s.name == "run"]
    assert request.parent_span_id.hex() == CALLER
    assert run.parent_span_id.hex() == request_id
    below = [span for _, span in spans.values() if span.parent_span_id.hex() == run_id]
    phases = ["fetch inputs", "child start", "child load", "child work", "finish"]
    in_order = [span.name for span in sorted(below, key=lambda s: s.start_time_unix_nano)]
    assert [name for name in in_order if name != "store"] == phases
    assert in_order.count("store") == 2  # a checkpoint and the weights
    assert len(spans) == 2 + len(below)
    assert all(run.start_time_unix_nano <= span.start_time_unix_nano for span in below)
    assert all(span.end_time_unix_nano <= run.end_time_unix_nano for span in below)
    assert {name for name, _ in spans.values()} == {"sextant-api", "sextant-worker"}
    attributes = {each.key: each.value.string_value for each in run.attributes}
    assert attributes["sextant.job.id"] == job_id
    logs = traced.logs()
    submitted = next(line for line in logs.splitlines() if "job_submitted" in line)
    assert all(word in submitted for word in (job_id, "mine-1", TRACE))
    ended = next(line for line in logs.splitlines() if "run_ended" in line)
    assert all(word in ended for word in (job_id, '"run_number": 1', TRACE))


def test_without_an_endpoint_nothing_of_it_is_loaded():
    """But what `redis` loads by itself where the SDK is installed: its metrics."""
    code = (
        "import sys\n"
        "import workers.__main__, workers.tasks\n"
        "from app import tracing\n"
        "assert not tracing.configure('x') and tracing.current() is None\n"
        "assert not {'opentelemetry.sdk.trace', 'opentelemetry.exporter'} & sys.modules.keys()\n"
        "import app.main\n"
        "app.main.create_app()\n"
        "assert not {'opentelemetry.sdk.trace', 'opentelemetry.exporter'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
