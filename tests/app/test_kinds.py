"""Kinds through HTTP: every one of the catalogue, with a JSON Schema that tells the truth."""

import jsonschema
import pytest

from models.catalog import kinds


def test_list(client):
    page = client.get("/v1/kinds").json()
    assert [row["kind"] for row in page["data"]] == list(kinds())
    assert (page["has_more"], page["next_cursor"]) == (False, None)


@pytest.mark.parametrize("kind", list(kinds()))
def test_read(client, kind):
    spec = kinds()[kind]
    read = client.get(f"/v1/kinds/{kind}").json()
    assert (read["kind"], read["method"]) == (kind, kind.split(".", maxsplit=1)[0])
    assert (read["queue"], read["resumable"]) == (spec.queue, spec.resumable)
    assert [row["name"] for row in read["metrics"]] == [metric.name for metric in spec.metrics]
    assert [row["name"] for row in read["artifacts"]] == [item.name for item in spec.artifacts]
    assert set(read["presets"]) == set(spec.presets)
    assert read["example"]["kind"] == kind
    assert read["description"]


@pytest.mark.parametrize("kind", list(kinds()))
def test_schema(client, kind):
    schema = client.get(f"/v1/kinds/{kind}/schema").json()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        validator(schema).validate(example)
    for field in schema["properties"].values():
        assert field.keys() & {"title", "description", "$ref", "const"}
    assert not validator(schema).is_valid(schema["examples"][0] | {"seed": -1})
    assert not validator(schema).is_valid(schema["examples"][0] | {"unknown": 1})


def test_unknown(client):
    for path in ("/v1/kinds/saliency.mapp", "/v1/kinds/saliency.mapp/schema"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "did you mean 'saliency.map'?" in answer.json()["detail"]


def test_needs_a_key(anonymous):
    assert anonymous.get("/v1/kinds").status_code == 401
