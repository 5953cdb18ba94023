"""What generators of clients need of the OpenAPI document, without running one."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from app.main import create_app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app().openapi()


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from item.values()


def test_operations_are_called_as_in_the_code(document):
    ids = Counter(each["operationId"] for each in operations(document))
    assert {"list_jobs", "create_sweep", "download_archive"} <= set(ids)
    assert {name for name, count in ids.items() if count > 1 or not name.isidentifier()} == set()


def test_every_tag_is_described_and_used(document):
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert {tag for each in operations(document) for tag in each["tags"]} == described


def test_names_of_schemas_show_no_modules(document):
    """Two classes of one name would be told apart by the modules that they are in."""
    assert [name for name in document["components"]["schemas"] if "__" in name] == []


def test_no_choice_has_an_object_as_its_default(document):
    """A generator dropped the whole body of such a kind."""

    def nodes(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            yield node
        for inner in node.values() if isinstance(node, dict) else node:
            if isinstance(inner, dict | list):
                yield from nodes(inner)

    wrong = [
        node
        for node in nodes(document["components"]["schemas"])
        if "anyOf" in node and isinstance(node.get("default"), dict)
    ]
    assert wrong == []


def test_a_generated_package_has_not_the_name_of_ours(document):
    assert document["info"]["title"] == "Sextant service"
    assert document["servers"][0]["url"] == "/"
    assert document["info"]["contact"]["name"]
