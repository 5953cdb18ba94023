"""Validation errors for people: the exact JSON pointer, the allowed range, the nearest choice."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from pydantic import TypeAdapter

EXCERPT_CHARS = 80
MAX_ERRORS = 50  # described and answered of one request
ENCODER = json.JSONEncoder(default=str, ensure_ascii=False)
FIELD = re.compile(r"[a-z]\w*(\.\w+)*(?=[ :])")
QUOTED = re.compile(r"'([^']*)'")
BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}
Schema = Mapping[str, Any]


def describe_errors(
    errors: Iterable[Mapping[str, Any]], body: Any, adapter: TypeAdapter[Any], root: str = ""
) -> list[dict[str, Any]]:
    """The ``errors`` of a problem from those of pydantic, at most ``MAX_ERRORS``.

    Args:
        errors: of pydantic, with ``loc`` relative to ``body``.
        body: what was sent.
        adapter: what ``body`` was validated with; its JSON Schema knows ranges and names.
        root: JSON pointer of ``body`` in the request.
    """
    return [_describe(error, body, adapter, root) for error in islice(errors, MAX_ERRORS)]


def _describe(
    error: Mapping[str, Any], body: Any, adapter: TypeAdapter[Any], root: str
) -> dict[str, Any]:
    missing = error["type"] == "missing"
    path = locate(error["loc"], body, missing=missing)
    if error["type"] == "union_tag_not_found":
        return _untold(error, body, adapter, root + pointer(path), path)
    if error["type"] == "value_error":
        path += _told(error["msg"].removeprefix("Value error, "), error.get("input"))
    about = _advice(error, str(path[-1]), _fields(adapter, body, path)) if path else _choice(error)
    return {
        "pointer": root + pointer(path),
        "code": error["type"],
        "detail": error["msg"].removeprefix("Value error, ") + about,
        "value_excerpt": None if missing else _excerpt(error.get("input")),
    }


def _untold(
    error: Mapping[str, Any], body: Any, adapter: TypeAdapter[Any], at: str, path: list[int | str]
) -> dict[str, Any]:
    """An object that does not say which of several forms it has: the field, and all choices."""
    name = error["ctx"]["discriminator"].strip("'")
    choices = {
        str(choice)
        for form in _forms(adapter, body, path)
        for field in [form.get("properties", {}).get(name, {})]
        for choice in field.get("enum", [field["const"]] if "const" in field else [])
    }
    detail = f"give {name}: one of {', '.join(sorted(choices))}"
    return {"pointer": f"{at}/{name}", "code": "missing", "detail": detail, "value_excerpt": None}


def _told(message: str, node: Any) -> list[int | str]:
    """Steps from ``node`` to the field that a rule over several begins its message with."""
    named = FIELD.match(message)
    steps: list[int | str] = (
        [int(n) if n.isdecimal() else n for n in named[0].split(".")] if named else []
    )
    path: list[int | str] = []
    for step in steps:
        if isinstance(node, dict) and (step in node or (path and step == steps[-1])):
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            return []
        path.append(step)
    return path


def locate(loc: Sequence[int | str], body: Any, *, missing: bool) -> list[int | str]:
    """The steps of ``loc`` that are in ``body``; of a missing field also the last.

    Pydantic puts the tags of unions between the steps.
    """
    path: list[int | str] = []
    node = body
    for step in loc:
        if (isinstance(node, dict) and step in node) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        ):
            path.append(step)
            node = node[step]
    return [*path, loc[-1]] if missing and loc else path


def pointer(path: Iterable[int | str]) -> str:
    """JSON pointer, RFC 6901."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _advice(error: Mapping[str, Any], name: str, fields: Mapping[str, Any]) -> str:
    """What the message of pydantic lacks: a similar name, a similar choice, the whole range."""
    if error["type"] == "extra_forbidden":
        return did_you_mean(name, fields) or f"; there are {', '.join(sorted(fields))}"
    return _choice(error) or _range(fields.get(name, {}))


def _choice(error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    choices = QUOTED.findall(str(context.get("expected_tags", context.get("expected", ""))))
    return did_you_mean(str(context.get("tag", error.get("input"))), choices)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the most similar choice, empty if none is similar."""
    closest = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {closest[0]!r}?" if closest else ""


def _range(field: Schema) -> str:
    """The bounds of a number, in words; empty where there are none."""
    for schema in (field, *field.get("anyOf", ())):
        bounds = [f"{words} {schema[name]}" for name, words in BOUNDS.items() if name in schema]
        if bounds:
            return f"; allowed: {', '.join(bounds)}"
    return ""


def _fields(adapter: TypeAdapter[Any], body: Any, path: Sequence[int | str]) -> dict[str, Any]:
    """Schemas by name of all fields that the object with the last step of ``path`` may have."""
    schema, node = _at(adapter, body, path[:-1])
    return _branch(schema, node, _schema(adapter).get("$defs", {})).get("properties", {})


def _forms(adapter: TypeAdapter[Any], body: Any, path: Sequence[int | str]) -> list[Schema]:
    """The forms that what lies at ``path`` may have."""
    return list(_alternatives(_at(adapter, body, path)[0], _schema(adapter).get("$defs", {})))


def _at(adapter: TypeAdapter[Any], body: Any, path: Sequence[int | str]) -> tuple[Schema, Any]:
    """The schema of what lies at ``path`` of the body, and that itself."""
    schema = _schema(adapter)
    definitions = schema.get("$defs", {})
    node = body
    for step in path:
        branch = _branch(schema, node, definitions)
        inner = (
            branch.get("items") if isinstance(step, int) else branch.get("properties", {}).get(step)
        )
        schema, node = inner or {}, node[step]
    return schema, node


def _branch(schema: Schema, node: Any, definitions: Schema) -> Schema:
    """Of the alternatives of a union, the one whose names and constants are most like ``node``."""

    def likeness(alternative: Schema) -> int:
        fields = alternative.get("properties", {})
        if not isinstance(node, dict):
            return "items" in alternative
        constants = {name: field["const"] for name, field in fields.items() if "const" in field}
        same = sum(1 if node.get(name) == value else -1 for name, value in constants.items())
        return 1000 * same + len(fields.keys() & node.keys()) + bool(fields)

    return max(_alternatives(schema, definitions), key=likeness)


def _alternatives(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    if "$ref" in schema:
        yield from _alternatives(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return
    inner = schema.get("anyOf") or schema.get("oneOf")
    for part in inner or ():
        yield from _alternatives(part, definitions)
    if inner is None:
        yield schema


@lru_cache(maxsize=64)
def _schema(adapter: TypeAdapter[Any]) -> Schema:
    return adapter.json_schema()


def _excerpt(value: Any) -> str:
    text = ""
    for chunk in ENCODER.iterencode(value):  # the value may be the whole body
        text += chunk
        if len(text) > EXCERPT_CHARS:
            return text[: EXCERPT_CHARS - 1] + "…"
    return text
