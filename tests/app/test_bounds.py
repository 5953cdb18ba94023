"""One request takes little of the API: headers, queries and bodies are bounded before they cost."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from app import serve
from app.http.loopback import is_loopback_name
from app.http.protocol import HEADERS_LIMIT_BYTES
from app.http.strict import MAX_DESCRIBED, MAX_NAMES
from app.main import create_app
from app.services.validation_errors import MAX_ERRORS
from app.settings import get_settings
from tests.app.test_problems import post, problem
from tests.service import connect, start


def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of the API as ``app.serve`` configures it."""
    options = {}
    monkeypatch.setattr(uvicorn, "run", lambda _app, **given: options.update(given))
    serve.main()
    config = uvicorn.Config(create_app(), **options | {"factory": False, "port": 0})
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    start(server, thread)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def port(settings, monkeypatch) -> Iterator[int]:
    yield from served(monkeypatch)


def exchange(port: int, *pieces: bytes) -> tuple[int, dict]:
    """Status and problem of a request as raw bytes, sent piece by piece."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for index, piece in enumerate(pieces):
            time.sleep(0.1 * bool(index))
            connection.sendall(piece)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


LONG = b"x" * (HEADERS_LIMIT_BYTES + 4096)
CHUNKED = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED += b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /" + LONG, 431, "headers_too_large"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\na: " + LONG, 431, "headers_too_large"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 12_000, 431, "headers_too_large"),
        (b"no request at all\r\n\r\n", 400, "invalid_request"),
        (
            b"PUT /v1/datasets/x/content HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
            400,
            "invalid_request",
        ),
        (
            b"PUT /v1/datasets/x/content HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            400,
            "invalid_request",
        ),
        (CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400, "invalid_request"),
    ],
)
def test_long_headers_are_refused_as_problems(port, request_bytes, status, code):
    answered, body = exchange(port, request_bytes)
    assert (answered, body["status"], body["code"]) == (status, status, code)


def test_a_header_without_end_keeps_nobody_from_the_service(port):
    """64 MiB of one header once kept the event loop for 9 s."""
    longest, stop = 0.0, threading.Event()

    def measure() -> None:
        nonlocal longest
        with connect(f"http://127.0.0.1:{port}") as client:
            while not stop.is_set():
                began = time.perf_counter()
                assert client.get("/healthz").status_code == 200
                longest = max(longest, time.perf_counter() - began)

    other = threading.Thread(target=measure)
    other.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\na: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # the server has closed
            connection.sendall(b"x" * 2**26)
    stop.set()
    other.join()
    assert longest < 1.0


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/jobs"), ("PATCH", f"/v1/jobs/job_{'0' * 32}")]
)
def test_a_body_that_is_cut_off_is_no_defect(settings, method, path):
    """Else each client that goes away writes a trace into the log."""
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True},
                     {"type": "http.disconnect"}])  # fmt: skip
    sent = []

    async def receive() -> dict:
        return next(messages)

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(),
             "query_string": b"", "headers": [(b"content-type", b"application/json")],
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http",
             "root_path": ""}  # fmt: skip
    asyncio.run(create_app()(scope, receive, send))
    assert sent[0]["status"] == 400


def test_trailers_and_chunk_extensions_are_bounded_too(port):
    for endless in (b"0\r\na: " + LONG, b"1;a=" + LONG):
        assert exchange(port, CHUNKED + b"1\r\n \r\n", endless)[0] == 431


def test_a_body_of_single_bytes_keeps_nobody_from_the_service(port):
    """A parser in Python takes seconds for the chunks of one read; this is why it is not used."""
    began = time.perf_counter()
    body = b"1\r\n \r\n" * 60_000
    assert exchange(port, CHUNKED + body + b"0\r\n\r\n")[0] in (400, 401)
    assert time.perf_counter() - began < 1.5


def test_requests_that_follow_one_another_are_counted_each(port):
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\na: " + b"x" * 20_000 + b"\r\n\r\n"
    last = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(one * 10 + last)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert (answer.count(b"HTTP/1.1 200"), answer.count(b"HTTP/1.1 404")) == (10, 1)


def test_headers_below_the_limit_are_read(port):
    value = b"x" * (HEADERS_LIMIT_BYTES - 1000)
    request = b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\na: " + value + b"\r\n\r\n"
    assert exchange(port, request)[0] == 404


class TestErrors:
    def test_twenty_thousand_unknown_fields(self, client, spec):
        many = {f"unknown_{index}": 0 for index in range(20_000)}
        body = problem(post(client, {"spec": spec, **many}), 422, "validation_failed")
        (error,) = body["errors"]
        assert (error["pointer"], error["code"]) == ("", "too_many_names")
        assert f"at most {MAX_NAMES}" in error["detail"]

    def test_only_the_first_errors_are_described(self, client, spec):
        many = {f"unknown_{index}": 0 for index in range(MAX_NAMES - 1)}
        answer = post(client, {"spec": spec, **many})
        body = problem(answer, 422, "validation_failed")
        assert len(body["errors"]) == MAX_ERRORS
        assert f"only the first {MAX_ERRORS} errors are listed" in body["detail"]
        assert len(answer.content) < 50_000
        assert body["errors"][0]["pointer"] == "/unknown_0"

    def test_errors_of_short_and_long_bodies_are_alike(self, client, spec):
        wrong = {"spec": spec | {"seed": -1}, "name": 3}
        short, long = (post(client, json.dumps(wrong) + " " * n).json() for n in (0, 10_000))
        assert short["errors"] == long["errors"]
        assert len(short["errors"]) == 2

    def test_errors_beyond_count(self, client, spec):
        net = {"dataset": "x", "classes": [0] * (MAX_DESCRIBED + 10)}
        answer = post(client, {"spec": spec | {"model": net}})
        body = problem(answer, 422, "validation_failed")
        assert [error["code"] for error in body["errors"]] == ["too_many_errors"]

    def test_a_long_body_leaves_the_event_loop_to_others(self, port, make_key, spec):
        """While the worst body of 1 MiB is worked on, no other waits for half of that time."""
        headers = {"Authorization": f"Bearer {make_key('jobs:write')}"}
        net = {"dataset": "x", "classes": [{"a": 1}] * 90_000}
        text = json.dumps({"spec": spec | {"model": net}}, separators=(",", ":"))
        answers: list[httpx.Response] = []

        def hostile() -> None:
            headers_ = headers | {"Content-Type": "application/json"}
            url = f"http://127.0.0.1:{port}/v1/jobs"
            answers.append(httpx.post(url, content=text, headers=headers_, timeout=30))

        thread = threading.Thread(target=hostile)
        longest = 0.0
        with connect(f"http://127.0.0.1:{port}") as client:
            client.get("/healthz")
            started = time.perf_counter()
            thread.start()
            while thread.is_alive():
                began = time.perf_counter()
                client.get("/healthz")
                longest = max(longest, time.perf_counter() - began)
        assert answers[0].status_code == 422
        assert longest < max(0.5, (time.perf_counter() - started) / 2)  # a busy machine stalls


class TestQueries:
    @pytest.mark.parametrize(
        ("query", "complaint"),
        [
            ("&".join(["metadata.k="] * 1500), "at most 200"),
            ("&".join(f"metadata.k{n}=" for n in range(1500)), "at most 200"),
            ("&".join(f"metadata.k{n}=" for n in range(17)), "at most 16"),
            ("metadata.k=a&metadata.k=b", "give it once"),
            ("metadata.k%22]=a", "names no label"),
            ("metadata.=a", "names no label"),
            ("metadata.k=" + "x" * 513, "at most 512"),
            ("&".join(f"u{n}=" for n in range(150)), "unknown filter"),
        ],
    )
    def test_what_no_list_takes(self, client, query, complaint):
        body = problem(client.get(f"/v1/jobs?{query}"), 422, "validation_failed")
        assert complaint in body["detail"]
        assert body["errors"][0]["location"] == "query"

    def test_labels_of_every_allowed_form_filter(self, client, spec):
        labels = {"a.b-C_9": "x" * 512, "empty": ""}
        made = client.post("/v1/jobs", json={"spec": spec, "metadata": labels}).json()["id"]
        query = {f"metadata.{name}": value for name, value in labels.items()}
        assert [job["id"] for job in client.get("/v1/jobs", params=query).json()["data"]] == [made]


class TestNames:
    @pytest.mark.parametrize(
        ("text", "pointer"),
        [
            ('{"name": "a", "name": "b"}', "/name"),
            ('{"spec": {"kind": "lcw.train", "seed": 1, "seed": 2}}', "/spec/seed"),
            ('{"spec": {"a": [{}, {"b": {"c": 0, "\\u0063": 1}}]}}', "/spec/a/1/b/c"),
        ],
    )
    @pytest.mark.parametrize("padding", [0, 10_000])
    def test_a_name_that_comes_twice_is_refused(self, client, text, pointer, padding):
        body = problem(post(client, text + " " * padding), 422, "validation_failed")
        (error,) = body["errors"]
        assert (error["pointer"], error["code"]) == (pointer, "repeated_name")

    def test_two_hundred_thousand_levels(self, client):
        for text in ("[" * 200_000 + "]" * 200_000, '{"":' * 200_000 + "0" + "}" * 200_000):
            body = problem(post(client, text), 422, "validation_failed")
            assert [error["code"] for error in body["errors"]] == ["too_deep"]


class TestWithoutKeys:
    """What a page of another site could make a browser send to a port on loopback."""

    @pytest.fixture
    def open_port(self, settings, monkeypatch) -> Iterator[int]:
        monkeypatch.setenv("SEXTANT_AUTH_DISABLED", "true")
        get_settings.cache_clear()
        yield from served(monkeypatch)

    def test_only_names_of_this_machine_and_json(self, open_port, spec):
        with connect(f"http://127.0.0.1:{open_port}") as client:
            assert client.post("/v1/jobs", json={"spec": spec}).status_code == 201
            for host in ("evil.example", f"evil.example:{open_port}", "127.0.0.1.evil.example", ""):
                answer = client.get("/v1/jobs", headers={"Host": host})
                problem(answer, 421, "misdirected")
            job = client.get("/v1/jobs").json()["data"][0]["links"]["self"]
            for media_type in ("text/plain", "application/x-www-form-urlencoded", ""):
                answer = client.post(f"{job}/cancel", headers={"Content-Type": media_type})
                problem(answer, 415, "unsupported_media_type")
            assert client.get(job).json()["status"] == "queued"
            assert client.post(f"{job}/cancel", json={}).status_code == 202

    def test_with_keys_any_name_is_served(self, port):
        with connect(f"http://127.0.0.1:{port}", Host="sextant.example") as client:
            answer = client.get("/healthz")
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        ("host", "ours"),
        [
            ("localhost", True),
            ("LOCALHOST:8722", True),
            ("127.0.0.1:8722", True),
            ("127.1.2.3", True),
            ("[::1]:8722", True),
            ("[::1]", True),
            ("localhost.evil.example", False),
            ("10.0.0.2:80", False),
            ("[::2]", False),
            ("", False),
            ("10.0.0.1", False),
        ],
    )
    def test_names(self, host, ours):
        assert is_loopback_name(host) == ours
