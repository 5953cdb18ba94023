"""Every error is a problem document that names the field, the range and a way out."""

import json
import time

import jsonschema
import pytest
from fastapi import APIRouter
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.http.problems import PROBLEMS, Problem
from app.http.strict import StrictRoute, check
from app.main import create_app
from app.services import artifacts, jobs
from app.services.validation_errors import locate, pointer
from models.catalog import kinds
from tests.app.factories import claim, write


def problem(answer, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    jsonschema.validate(body, Problem.model_json_schema())
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/problems/{code}")
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["instance"] == answer.request.url.path
    assert "Traceback" not in answer.text
    return body


def post(client, body, **headers):
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    headers = {"content-type": "application/json"} | headers
    return client.post("/v1/jobs", content=content, headers=headers)


def errors(client, body) -> dict[str, dict]:
    body = problem(post(client, body), 422, "validation_failed")
    return {error["pointer"]: error for error in body["errors"]}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_transaction_that_the_database_ended_is_503(client, spec, monkeypatch):
    """As on a loaded machine, where a request may rest for longer than PostgreSQL allows."""
    submit = jobs.submit

    def resting(session, *arguments, **options):
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))
        time.sleep(0.3)
        return submit(session, *arguments, **options)

    monkeypatch.setattr(jobs, "submit", resting)
    answer = client.post("/v1/jobs", json={"spec": spec})
    problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_statement_that_is_always_wrong_is_500(client, monkeypatch):
    def wrong(session, *_arguments):
        session.execute(text("SELECT no_such_column FROM jobs"))

    monkeypatch.setattr(jobs, "list_page", wrong)
    problem(client.get("/v1/jobs"), 500, "internal")


class TestFramework:
    def test_unknown_address(self, client):
        problem(client.get("/v1/nothing"), 404, "not_found")
        problem(client.get("/v1/jobs/"), 404, "not_found")

    @pytest.mark.parametrize(
        ("path", "allow"),
        [
            ("/v1/jobs", "GET, POST"),
            ("/v1/jobs/job_" + "0" * 32, "DELETE, GET, PATCH"),
            ("/v1/keys", "GET, POST"),
            ("/healthz", "GET"),
        ],
    )
    def test_allow_is_complete(self, client, path, allow):
        answer = client.put(path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allow

    def test_defect(self, settings):
        from fastapi.testclient import TestClient

        app = create_app()
        broken = APIRouter(route_class=StrictRoute)

        @broken.get("/broken")
        def fail() -> None:
            raise RuntimeError("secret")

        app.include_router(broken)
        with TestClient(app, raise_server_exceptions=False) as client:
            answer = client.get("/broken")
        problem(answer, 500, "internal")
        assert "secret" not in answer.text

    def test_database_away(self, client, monkeypatch):
        def away(*_args, **_more):
            raise OperationalError("SELECT 1", {}, Exception("gone"))

        monkeypatch.setattr("app.services.jobs.list_page", away)
        answer = client.get("/v1/jobs")
        problem(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0

    def test_each_code_is_explained(self, client):
        for code, explained in PROBLEMS.items():
            body = client.get(f"/problems/{code}").json()
            assert (body["code"], body["status"]) == (code, explained.status)
        problem(client.get("/problems/none"), 404, "not_found")


class TestBodies:
    @pytest.mark.parametrize(
        "body", ["{", "", '{"a": NaN}', "[Infinity]", b"\xff\xfe{}", "1" * 5000]
    )
    def test_not_json(self, client, body):
        answer = post(client, body)
        assert answer.status_code == (400 if body else 422)
        problem(answer, answer.status_code, "invalid_request" if body else "validation_failed")

    def test_other_media_types(self, client, spec):
        for media_type in ("text/plain", "application/xml", "multipart/form-data; boundary=x"):
            answer = post(client, {"spec": spec}, **{"content-type": media_type})
            problem(answer, 415, "unsupported_media_type")
        kind = {"content-type": "Application/JSON; charset=utf-8"}
        assert post(client, {"spec": spec}, **kind).status_code == 201

    def test_too_large_without_content_length(self, client, settings):
        sent = 0

        def chunks():
            nonlocal sent
            for _ in range(settings.body_limit_bytes // 1000 + 10):
                sent += 1000
                yield b" " * 1000

        answer = client.post(
            "/v1/jobs", content=chunks(), headers={"content-type": "application/json"}
        )
        problem(answer, 413, "too_large")

    def test_a_body_at_the_limit_is_read(self, client, spec, settings):
        text = json.dumps({"spec": spec})
        padded = text + " " * (settings.body_limit_bytes - len(text))
        assert post(client, padded).status_code == 201
        problem(post(client, padded + " "), 413, "too_large")

    @pytest.mark.parametrize(
        ("value", "code", "pointer_ends"),
        [
            ("x" * 65_537, "string", "/name"),
            ("a\0b", "string", "/name"),
            ("\ud800", "string", "/name"),
            (10**30, "number", "/name"),
            ("INF", "number", "/name"),
        ],
    )
    def test_values_beyond_every_field(self, client, value, code, pointer_ends):
        text = json.dumps({"name": value}).replace('"INF"', "1e999")
        body = problem(post(client, text), 422, "validation_failed")
        (error,) = body["errors"]
        assert (error["code"], error["pointer"]) == (code, pointer_ends)

    def test_depth(self, client):
        check(json.loads("[" * 32 + "]" * 32))
        for depth in (34, 100_000):
            found = errors(client, "[" * depth + "]" * depth)
            assert [error["code"] for error in found.values()] == ["too_deep"]


class TestFields:
    def test_union_tags_are_not_in_the_pointer(self, client, spec):
        spec |= {"methods": [{"id": "rise", "masks": 0}], "batch": 0, "seed": -1}
        found = errors(client, {"spec": spec})
        assert set(found) == {"/spec/methods/0/masks", "/spec/batch", "/spec/seed"}

    def test_the_whole_range_is_named(self, client, spec):
        found = errors(client, {"spec": spec | {"seed": -1}, "limits": {"max_runs": 11}})
        assert found["/spec/seed"]["detail"].endswith("allowed: at least 0, below 4294967296")
        assert found["/limits/max_runs"]["detail"].endswith("allowed: at least 1, at most 10")
        assert found["/limits/max_runs"]["value_excerpt"] == "11"

    def test_similar_names(self, client, spec):
        found = errors(
            client,
            {
                "spec": spec | {"sede": 1, "methods": [{"id": "rise", "mask": 4}]},
                "limts": {},
                "limits": {"timeout": 3},
            },
        )
        hints = {at: error["detail"].rpartition("; ")[2] for at, error in found.items()}
        assert hints == {
            "/spec/sede": "did you mean 'seed'?",
            "/spec/methods/0/mask": "did you mean 'masks'?",
            "/limts": "did you mean 'limits'?",
            "/limits/timeout": "did you mean 'timeout_s'?",
        }

    def test_similar_choices(self, client, spec):
        found = errors(client, {"spec": {"kind": "saliency.mapp"}})
        assert "did you mean 'saliency.map'?" in found["/spec"]["detail"]
        found = errors(client, {"spec": spec | {"score": "logitt"}})
        assert "did you mean 'logit'?" in found["/spec/score"]["detail"]
        found = errors(client, {"spec": spec, "resources": {"device": "gpu"}})
        assert set(found) == {"/resources/device"}

    def test_missing_fields(self, client):
        assert set(errors(client, {})) == {"/spec"}
        assert set(errors(client, {"spec": {}})) == {"/spec/kind"}
        assert set(errors(client, {"spec": {"kind": "saliency.map"}})) == {"/spec/model"}
        assert set(errors(client, [])) == {""}

    def test_wrong_types(self, client, spec):
        found = errors(
            client,
            {
                "spec": spec,
                "name": 3,
                "metadata": {"a b": "x", "ok": 1},
                "not_before": 0,
                "limits": {"timeout_s": "60"},
            },
        )
        assert set(found) == {
            "/name",
            "/metadata/a b",
            "/metadata/ok",
            "/not_before",
            "/limits/timeout_s",
        }

    def test_device_against_gpus(self, client, spec):
        found = errors(client, {"spec": spec, "resources": {"device": "cpu", "gpus": 1}})
        assert "use device cuda or gpus 0" in found["/resources/device"]["detail"]

    @pytest.mark.parametrize("time", ["2026-01-01T00:00:00", "2026-01-01", "soon", 5, None])
    def test_times_carry_a_zone(self, client, spec, time):
        answer = post(client, {"spec": spec, "not_before": time})
        assert answer.status_code == (201 if time is None else 422)

    def test_excerpts_are_short(self, client, spec):
        found = errors(client, {"spec": spec, "name": "x" * 5000})
        assert len(found["/name"]["value_excerpt"]) == 80


def test_pointer_escapes():
    assert pointer(["a/b", "m~n", 0]) == "/a~1b/m~0n/0"


def test_locate_keeps_only_steps_of_the_body():
    body = {"spec": {"list": [{"a": 1}]}}
    loc = ("spec", "lcw.train", "list", 0, "tag", "a", "number")
    assert locate(loc, body, missing=False) == ["spec", "list", 0, "a"]
    assert locate(("spec", "lcw.train", "b"), body, missing=True) == ["spec", "b"]
    assert locate(("spec", "list", 7), body, missing=False) == ["spec", "list"]


class TestWhatIsMissed:
    def test_a_missing_kind_lists_the_kinds(self, client, spec):
        del spec["kind"]
        found = errors(client, {"spec": spec})
        assert list(found) == ["/spec/kind"]
        assert found["/spec/kind"]["detail"] == f"give kind: one of {', '.join(sorted(kinds()))}"

    def test_a_missing_tag_inside_of_a_spec_lists_the_choices(self, client, spec):
        found = errors(client, {"spec": spec | {"methods": [{"window": 8}]}})
        assert found["/spec/methods/0/id"]["detail"].startswith("give id: one of ")
        assert "occlusion" in found["/spec/methods/0/id"]["detail"]

    def test_a_bare_spec_is_to_be_wrapped(self, client, spec):
        (found,) = errors(client, spec).values()
        assert "wrap it in spec" in found["detail"]

    @pytest.mark.parametrize("window", [300, [8, 300]])
    def test_a_window_larger_than_the_image_is_pointed_to(self, client, spec, window):
        methods = [{"id": "random"}, {"id": "occlusion", "window": window, "stride": 8}]
        (at,) = errors(client, {"spec": spec | {"methods": methods}})
        assert at == "/spec/methods/1/window"

    def test_a_rule_over_several_fields_points_to_the_first(self, client, spec):
        (at,) = errors(client, {"spec": spec | {"images": [{"dataset": "photos", "index": 0}] * 2}})
        assert at == "/spec/images"

    def test_the_query_is_called_query(self, client):
        answer = problem(client.get("/v1/jobs?foo=1"), 422, "validation_failed")
        assert answer["detail"].startswith("query: unknown filter")

    @pytest.mark.parametrize(
        ("path", "detail"),
        [
            ("/v1/jobs/xyz", "no job 'xyz'"),
            ("/v1/nothing", "nothing at /v1/nothing; GET /openapi.json lists every address"),
        ],
    )
    def test_404_says_what_was_not_found(self, client, path, detail):
        assert problem(client.get(path), 404, "not_found")["detail"] == detail

    def test_a_wrong_artifact_name_lists_those_that_are_there(self, client, spec, tmp_path):
        job_id = client.post("/v1/jobs", json={"spec": spec}).json()["id"]
        address = f"/v1/jobs/{job_id}/artifacts/nope"
        assert problem(client.get(address), 404, "not_found")["detail"].endswith("it has none")
        artifacts.store(claim(), write(tmp_path / "m.npy", b"1"), "saliency_map", "maps/a.npy")
        assert client.get(address).json()["detail"].endswith("it has maps/a.npy")
