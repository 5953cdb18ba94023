"""The OpenAPI document may grow; what clients rely on stays.

Write the golden file anew after a change that is meant:

    python -m tests.contract.test_snapshot
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app

GOLDEN = Path(__file__).parent.parent / "golden" / "openapi.json"
VERBS = {"get", "put", "post", "delete", "patch"}


def document() -> dict[str, Any]:
    """The document of this code, as JSON would carry it."""
    return json.loads(json.dumps(create_app().openapi()))


def resolve(schema: Any, root: dict[str, Any]) -> Any:
    """``schema`` or what its reference names."""
    while isinstance(schema, dict) and "$ref" in schema:
        schema = root["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a client of ``old`` could trip over in ``new``."""
    found: list[str] = []
    for path, item in old["paths"].items():
        for verb in item.keys() & VERBS:
            name = f"{verb.upper()} {path}"
            if verb not in new["paths"].get(path, {}):
                found.append(f"{name}: removed")
            else:
                found += _operation(name, item[verb], new["paths"][path][verb], old, new)
    return found


def _operation(name: str, was: Any, now: Any, old: Any, new: Any) -> list[str]:
    found = []
    before = {(item["in"], item["name"]): item for item in was.get("parameters", ())}
    after = {(item["in"], item["name"]): item for item in now.get("parameters", ())}
    found += [f"{name}: parameter {key[1]} removed" for key in before.keys() - after.keys()]
    found += [
        f"{name}: parameter {key[1]} is now required"
        for key, item in after.items()
        if item.get("required") and not before.get(key, {}).get("required")
    ]
    for status in was["responses"].keys() & {"200", "201", "202", "204"}:
        if status not in now["responses"]:
            found.append(f"{name}: answer {status} removed")
            continue
        pair = [item["responses"][status].get("content", {}) for item in (was, now)]
        schemas = [side.get("application/json", {}).get("schema", {}) for side in pair]
        found += _answer(f"{name} {status}", *schemas, old, new, depth=6)
    body = [item.get("requestBody", {}).get("content", {}) for item in (was, now)]
    sent = [side.get("application/json", {}).get("schema", {}) for side in body]
    return found + _request(name, *sent, old, new, depth=6)


def _answer(name: str, was: Any, now: Any, old: Any, new: Any, depth: int) -> list[str]:
    """A field of an answer must stay."""
    was, now = resolve(was, old), resolve(now, new)
    if not depth or not isinstance(was, dict):
        return []
    found = []
    fields, kept = was.get("properties", {}), now.get("properties", {})
    found += [f"{name}: field {field} removed" for field in fields.keys() - kept.keys()]
    for field in fields.keys() & kept.keys():
        found += _answer(f"{name}.{field}", fields[field], kept[field], old, new, depth - 1)
    if "items" in was:
        found += _answer(f"{name}[]", was["items"], now.get("items", {}), old, new, depth - 1)
    if was.get("type") != now.get("type"):
        found.append(f"{name}: type {was.get('type')} became {now.get('type')}")
    return found


def _request(name: str, was: Any, now: Any, old: Any, new: Any, depth: int) -> list[str]:
    """A field of a body may neither vanish nor become required; a choice may not vanish."""
    was, now = resolve(was, old), resolve(now, new)
    if not depth or not isinstance(was, dict):
        return []
    found = []
    fields, kept = was.get("properties", {}), now.get("properties", {})
    found += [f"{name}: field {field} removed" for field in fields.keys() - kept.keys()]
    demanded = set(now.get("required", ())) - set(was.get("required", ()))
    found += [f"{name}: field {field} is now required" for field in sorted(demanded)]
    choices = set(was.get("enum", ())) - set(now.get("enum", was.get("enum", ())))
    found += [f"{name}: choice {choice} removed" for choice in sorted(choices)]
    for field in fields.keys() & kept.keys():
        found += _request(f"{name}.{field}", fields[field], kept[field], old, new, depth - 1)
    gone = _tags(was) - _tags(now)
    return found + [f"{name}: kind {tag} removed" for tag in sorted(gone)]


def _tags(schema: Any) -> set[str]:
    return set(schema.get("discriminator", {}).get("mapping", {}))


def test_nothing_breaks():
    found = breaks(json.loads(GOLDEN.read_text()), document())
    assert not found, "\n".join(found)


def test_golden_file_is_current():
    """An addition belongs into the golden file too, so that it is seen in a review."""
    assert json.loads(GOLDEN.read_text()) == document(), "python -m tests.contract.test_snapshot"


class TestTheCheck:
    """The check itself: each kind of break is found, growth is not."""

    @pytest.fixture
    def pair(self):
        old = document()
        return old, copy.deepcopy(old)

    def test_the_same(self, pair):
        assert breaks(*pair) == []

    def test_growth(self, pair):
        old, new = pair
        new["components"]["schemas"]["JobRead"]["properties"]["more"] = {"type": "string"}
        new["components"]["schemas"]["JobCreate"]["properties"]["more"] = {"type": "string"}
        new["paths"]["/v1/more"] = {"get": {"responses": {}}}
        assert breaks(old, new) == []

    def test_removed_things(self, pair):
        old, new = pair
        del new["paths"]["/v1/jobs/{job_id}"]["delete"]
        del new["components"]["schemas"]["JobRead"]["properties"]["etag"]
        del new["components"]["schemas"]["Limits"]["properties"]["max_runs"]
        listing = new["paths"]["/v1/jobs"]["get"]
        listing["parameters"] = [item for item in listing["parameters"] if item["name"] != "kind"]
        found = breaks(old, new)
        assert "DELETE /v1/jobs/{job_id}: removed" in found
        assert "POST /v1/jobs 201: field etag removed" in found
        assert "GET /v1/jobs 200.data[]: field etag removed" in found
        assert "POST /v1/jobs.limits: field max_runs removed" in found
        assert "GET /v1/jobs: parameter kind removed" in found

    def test_new_demands(self, pair):
        old, new = pair
        new["components"]["schemas"]["JobCreate"]["required"].append("name")
        spec = new["components"]["schemas"]["JobCreate"]["properties"]["spec"]
        spec["discriminator"]["mapping"].pop("saliency.map")
        found = breaks(old, new)
        assert "POST /v1/jobs: field name is now required" in found
        assert "POST /v1/jobs.spec: kind saliency.map removed" in found


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(document(), indent=1, sort_keys=True) + "\n")
