"""Kinds through HTTP: every one of the catalogue, with a JSON Schema that tells the truth."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from models.catalog import kinds
from tests.contract.test_snapshot import document

HOLDING_SCHEMAS = {"properties", "$defs", "patternProperties"}
HOLDING_VALUES = {"default", "const", "enum", "examples", "example"}
KNOWN = HOLDING_SCHEMAS | HOLDING_VALUES
KNOWN |= {"$schema", "$ref", "title", "description", "type", "format", "pattern", "required"}
KNOWN |= {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"}
KNOWN |= {"minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "items", "prefixItems"}
KNOWN |= {"additionalProperties", "propertyNames", "minProperties", "maxProperties"}
KNOWN |= {"anyOf", "oneOf", "allOf", "not", "contentMediaType", "discriminator"}


def keywords(schema: Any) -> Iterator[str]:
    """Every keyword in a JSON Schema; names of fields and values are none."""
    if isinstance(schema, list):
        for item in schema:
            yield from keywords(item)
    if not isinstance(schema, dict):
        return
    for name, inner in schema.items():
        yield name
        if name in HOLDING_SCHEMAS:
            for field in inner.values():
                yield from keywords(field)
        elif name not in HOLDING_VALUES | {"discriminator"}:
            yield from keywords(inner)


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


@pytest.mark.parametrize("kind", list(kinds()))
def test_a_schema_has_no_keyword_that_validators_do_not_know(client, kind):
    assert set(keywords(client.get(f"/v1/kinds/{kind}/schema").json())) <= KNOWN


def test_nor_has_one_of_the_openapi_document():
    assert set(keywords({"$defs": document()["components"]["schemas"]})) <= KNOWN


@pytest.mark.parametrize("epochs", [0, 10_001])
def test_bounds_of_optional_fields_hold_in_the_schema_too(client, epochs):
    schema = client.get("/v1/kinds/dynamic_downsampling.train/schema").json()
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(schema["examples"][0] | {"epochs": 1})
    assert not validator.is_valid(schema["examples"][0] | {"epochs": epochs})


def test_unknown(client):
    for path in ("/v1/kinds/saliency.mapp", "/v1/kinds/saliency.mapp/schema"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "did you mean 'saliency.map'?" in answer.json()["detail"]


def test_needs_a_key(anonymous):
    assert anonymous.get("/v1/kinds").status_code == 401
