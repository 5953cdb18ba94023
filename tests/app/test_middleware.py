"""Request ids and log lines."""

import json

import pytest
import structlog

from app import telemetry
from app.errors import ForbiddenError
from app.http.auth import Principal, demand


@pytest.fixture
def lines(settings, capsys):
    """The JSON lines that were logged."""
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.reset_defaults()


def test_request_id_comes_back(anonymous):
    answer = anonymous.get("/healthz", headers={"X-Request-ID": "abc.1"})
    assert answer.headers.get_list("X-Request-ID") == ["abc.1"]


@pytest.mark.parametrize("given", [None, "with space", "x" * 65, "a\nb"])
def test_request_id_is_made(anonymous, given):
    headers = {"X-Request-ID": given.encode()} if given else {}
    made = [anonymous.get("/healthz", headers=headers).headers["X-Request-ID"] for _ in range(2)]
    assert made[0] != made[1]
    assert given not in made


def test_log_lines_carry_the_request_id(lines):
    telemetry.configure("info")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().info("hello", job_id="j")
        structlog.get_logger().debug("not this")
    (line,) = lines()
    assert {"event": "hello", "job_id": "j", "request_id": "r1", "level": "info"}.items() <= (
        line.items()
    )


def test_secrets_are_masked(lines):
    telemetry.configure("info")
    token = f"sx_{'0' * 32}_{'a' * 43}"
    structlog.get_logger().info(
        f"got {token}",
        authorization="Bearer x",
        url="postgresql://user:hunter2@host/db",
        where=f"/v1?key={token}",
    )
    try:
        int(token)
    except ValueError:
        structlog.get_logger().exception("failed")
    text = json.dumps(lines())
    assert token not in text
    assert "hunter2" not in text
    assert "Bearer x" not in text
    assert "postgresql://user:***@host/db" in text


def test_scopes_of_a_principal():
    reader = Principal("key_1", "t", frozenset({"jobs:read"}))
    demand(reader, "jobs:read")
    demand(Principal("key_2", "t", frozenset({"admin"})), "jobs:write")
    with pytest.raises(ForbiddenError, match="jobs:write"):
        demand(reader, "jobs:write")
