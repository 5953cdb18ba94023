"""Registered models: versions hold files, aliases move, specs name them."""

import base64
import threading
from collections import Counter

import jsonschema
import pytest
from pydantic import ValidationError

from app.db.session import make_session
from app.db.tables import Job
from app.errors import ServiceError
from app.schemas.registry import MAX_ALIASES, ModelAliasMove, ModelVersionCreate
from app.services import artifacts, retention, versions
from app.services.keys import DEFAULT_TENANT
from app.settings import get_settings
from models.catalog import kinds
from models.nets.library_spec import ForeignNet
from tests.app.factories import add_job, carry_out, claim, finish, write
from tests.app.test_sweeps import request as sweep_request
from tests.smallest import smallest
from workers.dispatcher import advance_sweeps

FILE = "weights.safetensors"


@pytest.fixture
def trained(client, tmp_path):
    """Make a job that left weights; its id."""

    def make(role="weights", *, final=True, tenant_id=DEFAULT_TENANT) -> str:
        kind = "freetickets.train"
        add_job(tenant_id, kind=kind, method="freetickets")
        run = claim()
        path = write(tmp_path / "f", run.job_id.encode())
        artifacts.store(run, path, role, FILE)
        if final:
            finish(run)
        return run.job_id

    return make


@pytest.fixture
def register(client, trained):
    def send(name="digits", job_id=None, **more):
        body = {"job": job_id or trained(), "artifact": FILE, **more}
        return client.post(f"/v1/models/{name}/versions", json=body)

    return send


def explain(reference) -> dict:
    """A spec that takes the weights of a classifier."""
    data = {"dataset": "digits"}
    return {"kind": "classify.predict", "model": reference, "data": data}


def test_versions_are_numbered_and_never_twice(client, register):
    assert register().json()["reference"] == "model:digits/1"
    second = register(aliases=["production"]).json()
    assert (second["version"], second["aliases"]) == (2, ["production"])
    assert client.delete("/v1/models/digits/versions/1").status_code == 204
    assert register().json()["version"] == 3
    model = client.get("/v1/models/digits").json()
    assert (model["latest_version"], model["aliases"]) == (3, {"production": 2})
    listed = client.get("/v1/models/digits/versions", params={"limit": 1}).json()
    assert [row["version"] for row in listed["data"]] == [3]
    cursor = listed["next_cursor"]
    rest = client.get("/v1/models/digits/versions", params={"cursor": cursor}).json()
    assert [row["version"] for row in rest["data"]] == [2]
    assert client.get("/v1/models/digits/versions/1").status_code == 404


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "again"}], ids=["plain", "keyed"])
def test_a_refused_registration_leaves_nothing(client, register, headers):
    """The refusal is kept under its key; what was written before it is not."""
    path = "/v1/models/empty/versions"
    nothing = {"job": f"job_{'0' * 32}", "artifact": FILE}
    assert client.post(path, json=nothing, headers=headers).status_code == 422
    assert client.get("/v1/models/empty").status_code == 404
    job_id = register("full", aliases=["production"]).json()["job"]
    for number in range(MAX_ALIASES - 1):
        client.put(f"/v1/models/full/aliases/a{number}", json={"version": 1})
    body = {"job": job_id, "artifact": FILE, "aliases": ["production", "more"]}
    path = "/v1/models/full/versions"
    for _ in range(2):
        refused = client.post(path, json=body, headers=headers and {"Idempotency-Key": "other"})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "too_many")
    model = client.get("/v1/models/full").json()
    assert (model["latest_version"], model["aliases"]["production"]) == (1, 1)


def test_what_may_be_registered(client, register, trained):
    refused = register(job_id=trained("table"))
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/artifact")
    assert "weights or checkpoint" in refused.json()["detail"]
    assert register(job_id=trained(final=False)).status_code == 409
    unknown = register(job_id=f"job_{'0' * 32}")
    assert unknown.json()["errors"][0]["pointer"] == "/job"
    missing = register(artifact="other.safetensors")
    assert FILE in missing.json()["detail"]
    assert client.get("/v1/models/digits").status_code == 404  # nothing of a refusal stays


def test_a_version_holds_its_job_and_its_file(client, register, trained, monkeypatch):
    job_id = trained()
    register(job_id=job_id)
    refused = client.delete(f"/v1/jobs/{job_id}")
    assert refused.status_code == 409
    assert "model:digits/1" in refused.json()["detail"]
    monkeypatch.setenv("SEXTANT_RETENTION_ARTIFACTS_D", "0.0000001")
    monkeypatch.setenv("SEXTANT_RETENTION_JOBS_D", "0.0000001")
    get_settings.cache_clear()
    carry_out(retention.apply())
    assert [row["name"] for row in client.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]]
    assert client.delete("/v1/models/digits").status_code == 204
    carry_out(retention.apply())
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404


@pytest.mark.parametrize(
    ("spec", "sent"),
    [
        (ForeignNet, {"library": "timm", "name": "resnet10t", "weights": "model:digits/1"}),
        (kinds()["saliency.map"], smallest("saliency.map") | {"model": "model:digits@best"}),
        (kinds()["terrain.compare"], smallest("terrain.compare") | {"nets": ["model:faces/2"]}),
        (kinds()["lcw.train"], smallest("lcw.train") | {"resume_from": "model:digits/1"}),
    ],
)
def test_schemas_know_the_name_of_a_version(spec, sent):
    ((name, field),) = ((n, v) for n, v in sent.items() if "model:" in str(v))
    schema = spec.model_json_schema()
    jsonschema.validate(sent, schema)
    assert "model:" in str(getattr(spec.model_validate(sent), name))
    for wrong in ("model:", "model:digits", "digits/1"):
        refused = sent | {name: [wrong] if isinstance(field, list) else wrong}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(refused, schema)
        with pytest.raises(ValidationError):
            spec.model_validate(refused)


def test_a_spec_names_a_version(client, register, trained):
    job_id = trained()
    register(job_id=job_id, aliases=["production"])
    for reference in (
        "model:digits@production",
        {"job": "model:digits@production"},
        {"job": "model:digits/1"},
    ):
        spec = explain(reference)
        jsonschema.validate(spec, client.get(f"/v1/kinds/{spec['kind']}/schema").json())
        made = client.post("/v1/jobs", json={"spec": spec}).json()
        assert made["spec"]["model"] == {"job": "model:digits/1"}
        resolved = made["resolved_spec"]["model"]
        assert (resolved["job"], resolved["artifact"]) == (job_id, FILE)
        assert resolved["sha256"]
    register(aliases=["production"])
    cancelled = client.post(f"/v1/jobs/{made['id']}/cancel", json={})
    assert cancelled.status_code == 202
    again = client.post(f"/v1/jobs/{made['id']}/retry", json={"from": "scratch"}).json()
    assert again["resolved_spec"]["model"]["job"] == job_id  # the alias has moved, the job has not


def test_a_sweep_means_the_version_of_its_submission(client, register, trained):
    job_id = trained()
    register(job_id=job_id, aliases=["production"])
    spec = explain("model:digits@production")
    body = sweep_request(
        job={"spec": spec},
        parameters={"batch_size": {"values": [1, 2]}},
        objective={"metric": "accuracy"},
    )
    body.pop("baseline")
    assert client.post("/v1/sweeps", json=body).status_code == 201
    register(aliases=["production"])
    advance_sweeps()
    with make_session(write=False) as session:
        made = [job for job in session.query(Job) if job.sweep_id]
    assert {job.resolved_spec["model"]["job"] for job in made} == {job_id}


@pytest.mark.parametrize(
    ("reference", "pointer", "part"),
    [
        ("model:digits@staging", "/spec/model", "it has production"),
        ("model:digits/7", "/spec/model", "no version 7; its newest was 1"),
        ("model:other/1", "/spec/model", "no model 'other'"),
        ({"job": f"job_{'0' * 32}"}, "/spec/model", "name the artifact"),
        ({"job": "model:digits/1", "artifact": FILE}, "/spec/model", "leave it out"),
        ("model:digits", "/spec/model", ""),
    ],
)
def test_a_wrong_reference_is_named(client, register, reference, pointer, part):
    register(aliases=["production"])
    refused = client.post("/v1/jobs", json={"spec": explain(reference)})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"].startswith(pointer)
    assert part in refused.text


def test_aliases_move_as_expected_or_not_at_all(client, register):
    register(), register()
    path = "/v1/models/digits/aliases/production"
    made = client.put(path, json={"version": 1, "expected_version": 0})
    assert made.json()["aliases"] == {"production": 1}
    for expected in (0, 2):
        late = client.put(path, json={"version": 2, "expected_version": expected})
        assert late.status_code == 412, expected
    assert client.put(path, json={"version": 2, "expected_version": 1}).status_code == 200
    assert client.put(path, json={"version": 9}).status_code == 422
    held = client.delete("/v1/models/digits/versions/2")
    assert (held.status_code, "production" in held.json()["detail"]) == (409, True)
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404
    assert client.delete("/v1/models/digits/versions/2").status_code == 204


def test_models_are_described(client, register):
    body = {"name": "faces", "description": "of people", "metadata": {"team": "a"}}
    made = client.post("/v1/models", json=body)
    assert made.headers["location"] == "/v1/models/faces"
    assert client.post("/v1/models", json=body).status_code == 409
    change = {"description": None, "metadata": {"team": None, "paper": "x"}}
    edited = client.patch("/v1/models/faces", json=change).json()
    assert (edited["description"], edited["metadata"]) == (None, {"paper": "x"})
    many = {"metadata": {f"l{n}": "x" for n in range(16)}}
    assert client.patch("/v1/models/faces", json=many).status_code == 422
    register()
    assert [row["name"] for row in client.get("/v1/models").json()["data"]] == ["digits", "faces"]
    for name in ("a/b", "@x", "-a", "a" * 121):
        assert client.post("/v1/models", json={"name": name}).status_code == 422, name


def test_tenants_do_not_see_each_other(client, register, make_key, anonymous):
    register(aliases=["production"])
    secret = make_key("jobs:read", "jobs:write", tenant_id="ten_other")
    client.headers["Authorization"] = f"Bearer {secret}"
    assert client.get("/v1/models").json()["data"] == []
    assert client.get("/v1/models/digits").status_code == 404
    assert client.put("/v1/models/digits/aliases/a", json={"version": 1}).status_code == 404
    named = client.post("/v1/jobs", json={"spec": explain("model:digits/1")})
    assert (named.status_code, "no model" in named.text) == (422, True)
    assert client.post("/v1/models", json={"name": "digits"}).status_code == 201


def together(*calls) -> list:
    """What calls at once return, or the errors of those that are refused."""
    gate, results = threading.Barrier(len(calls)), []

    def carry_out_one(call):
        gate.wait()
        try:
            with make_session() as session:
                results.append(call(session))
        except ServiceError as error:
            results.append(error)

    threads = [threading.Thread(target=carry_out_one, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_registrations_at_once_get_numbers_of_their_own(client, trained):
    body = ModelVersionCreate(job=trained(), artifact=FILE, aliases=["newest"])

    def one(session):
        return versions.register(session, DEFAULT_TENANT, "digits", body).number

    assert sorted(together(*[one] * 6)) == [1, 2, 3, 4, 5, 6]
    assert client.get("/v1/models/digits").json()["latest_version"] == 6


def test_of_moves_at_once_from_one_version_one_wins(client, register):
    register(), register(), register(aliases=["production"])

    def move_to(number):
        move = ModelAliasMove(version=number, expected_version=3)
        return lambda session: (
            versions.move_alias(session, DEFAULT_TENANT, "digits", "production", move).name
        )

    results = together(move_to(1), move_to(2))
    assert Counter(type(each).__name__ for each in results) == {"str": 1, "PreconditionError": 1}


def test_a_prediction_by_a_model_of_the_longest_name_is_a_job(client, register):
    name = "m" * 120
    register(name, aliases=["production"])
    picture = base64.b64encode(b"BM").decode()
    answer = client.post(f"/v1/models/{name}@production/predict", json={"images": [picture]})
    assert answer.status_code == 202, answer.text
    assert answer.json()["name"] == f"predict model:{name}"[:120]


def test_a_prediction_with_many_wrong_names_is_refused_shortly(client):
    body = "{" + ",".join(f'"{n}":1' for n in range(20_000)) + "}"
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/models/digits@production/predict", content=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "too_many_errors")
