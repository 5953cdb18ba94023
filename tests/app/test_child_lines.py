"""What leaves the one place where a child's lines are read can be stored, whatever came in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.db.session import make_session
from app.schemas.errors import ReportedError
from app.services.child_lines import BrokenLine, read_line, roles
from app.texts import DEPTH_LIMIT, ERROR_CHARS, without_paths
from tests.app.factories import line

HALF = "\ud800"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(f"a\0{HALF}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_reading_raises_nothing(data):
    read_line(data)


@given(fields=st.dictionaries(st.text(), JSON, max_size=4), kind=st.sampled_from(
    ["hello", "metric", "progress", "event", "artifact", "result", "error", "?"]))  # fmt: skip
def test_what_is_read_is_strict_json_without_nul(fields, kind):
    found = line(**{"event": "warning", "code": "c", "message": "m", "values": {}} | fields
                 | {"type": kind})  # fmt: skip
    stored = found._asdict() if isinstance(found, BrokenLine) else found.model_dump()
    encoded = json.dumps(stored, ensure_ascii=False).encode()
    assert b"\\u0000" not in encoded
    assert b"\0" not in encoded


@pytest.mark.parametrize("value", ["a\0b", HALF, {"k\0": [HALF]}, float("nan"), float("inf")])
def test_a_result_can_be_stored_and_answered(settings, value):
    found = line(type="result", values={"x": value})
    with make_session() as session:
        kept = session.scalar(text("SELECT CAST(:v AS TEXT)"), {"v": json.dumps(found.values)})
    json.dumps(json.loads(kept), allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"type": "artifact", "name": "a", "role": None}, "role"),
        ({"type": "artifact", "name": "a", "role": "virus"}, "'virus' is not one of checkpoint"),
        ({"type": "artifact", "name": "../a", "role": "report"}, "name"),
        ({"type": "artifact", "name": "a", "role": "report", "step": 2**53}, "step"),
        ({"type": "artifact", "name": "a", "role": "report", "metadata": [1]}, "metadata"),
        ({"type": "result", "values": None}, "values"),
        ({"type": "error", "code": "internal"}, "message"),
        ({"type": "metric", "step": 2**63, "values": {"x": 1}}, "step"),
        ({"type": "what"}, "what"),
        ({}, "type"),
    ],
)
def test_a_broken_line_says_what_is_wrong(fields, problem):
    found = line(**fields)
    assert isinstance(found, BrokenLine)
    assert problem in found.problem
    assert found.essential == (fields.get("type") in ("artifact", "result", "error"))


def test_deep_json_is_refused_before_a_database_sees_it():
    deep = "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1)
    for values in (deep, "[" * 30_000):
        found = read_line(b'{"type": "result", "values": {"x": ' + values.encode() + b"}}")
        assert isinstance(found, BrokenLine)


def test_numbers_up_to_the_last_exact_one_are_taken():
    assert line(type="metric", step=2**53 - 1, values={"x": 1.5}).step == 2**53 - 1


def test_every_declared_role_is_known():
    assert {"checkpoint", "weights", "report", "image", "table"} <= roles()


def test_errors_show_no_path_of_the_server(tmp_path):
    file = tmp_path / "runs" / "job_1-r1" / "weights.safetensors"
    error = ReportedError(code="internal", message=f"cannot read '{file}': no header\0", hint=None)
    assert error.message == "cannot read 'weights.safetensors': no header"
    assert str(tmp_path) not in line(type="event", event="warning", message=f"{file} odd").message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open:/usr/x/y.tif", "cannot open:y.tif"),
        ("file:///usr/x/y.tif is no raster", "y.tif is no raster"),
        ("/usr/" + "a/" * 10_000 + "y", "y"),
        (f"/{'a' * 300}/b", f"/{'a' * 300}/b"),  # longer than a name of a file may be
        ("/" + "a" * 200_000, "/" + "a" * 200_000),
    ],
)
def test_paths_of_every_form_and_length(text, shown):
    assert without_paths(text) == shown
    message = line(type="event", event="warning", code="c", message=text).message
    assert message == shown


def test_pointers_addresses_and_long_texts_stay_readable():
    addresses = "https://example.org/usr/lib", "http://localhost:8722/usr/x", "../usr/x"
    for kept in ("/spec/model/depth: too small", "GET /v1/datasets lists all", "1/2 and a/b/c",
                 *addresses):  # fmt: skip
        assert without_paths(kept) == kept
    assert len(ReportedError(code="c", message="x" * 10_000).message) == ERROR_CHARS
