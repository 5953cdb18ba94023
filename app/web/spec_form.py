"""A form out of the JSON Schema of a spec: groups, bounds, defaults, choices, what is set."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from models.core.spec import VERSION_PATTERN, Spec
from sextant_client.units import unit_of

HIDDEN = ("sha256", "read")  # filled in by the service
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
ARTIFACT = {"job", "artifact", "sha256"}
PLAIN = {"integer": "number", "number": "number", "string": "text", "boolean": "truth"}
Schema = Mapping[str, Any]


class Field(NamedTuple):
    """One input.

    Attributes:
        pointer: JSON pointer in the spec.
        form: ``number``, ``text``, ``truth``, ``choice``, ``dataset``, ``artifact``, ``value`` (any
            JSON or text in a line) or ``json`` (several lines).
        hint: unit, bounds, choices and default in words.
        value: what it is set to, as the input shows it; empty for the default.
        shown: whether it stands in the open, and not among the further fields.
    """

    pointer: str
    label: str
    form: str
    description: str
    hint: str
    choices: list[str]
    value: str
    required: bool
    shown: bool
    whole: bool


class Group(NamedTuple):
    """Fields of one object of the spec, and the objects in it."""

    pointer: str
    label: str
    description: str
    fields: list[Field]
    groups: "list[Group]"

    @property
    def shown(self) -> bool:
        """Whether any of it stands in the open."""
        return any(field.shown for field in self.fields) or any(g.shown for g in self.groups)

    @property
    def forms(self) -> set[str]:
        """Forms of all inputs inside."""
        return {f.form for f in self.fields}.union(*(group.forms for group in self.groups))


def build(spec: type[Spec], values: Mapping[str, Any]) -> Group:
    """The form of a kind with some fields set.

    Args:
        spec: the kind's class.
        values: the spec to begin with, as it would be sent.
    """
    schema = spec.model_json_schema()
    return _group(schema, schema.get("$defs", {}), "", "", values)


def _group(
    schema: Schema, definitions: Schema, pointer: str, label: str, values: Mapping[str, Any]
) -> Group:
    required = schema.get("required", ())
    group = Group(pointer, label, schema.get("description", ""), [], [])
    for name, declared in schema.get("properties", {}).items():
        at = f"{pointer}/{name}"
        inner = _resolved(declared, definitions)
        if name in HIDDEN or "const" in inner:
            continue
        value = values.get(name) if isinstance(values, Mapping) else None
        if _is_group(inner):
            group.groups.append(_group(inner, definitions, at, name, value or {}))
        else:
            group.fields.append(_field(at, name, inner, value, required=name in required))
    group.fields.sort(key=lambda field: not field.required)
    return group


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """The schema behind a reference, or beside null or a model's name; what is next to it wins."""
    own = {name: value for name, value in schema.items() if name not in ("$ref", "anyOf")}
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        return {**_resolved(named, definitions), **own}
    others = [
        part
        for part in schema.get("anyOf", ())
        if part.get("type") != "null" and part.get("pattern") != VERSION_PATTERN
    ]
    if len(others) == 1:
        return {**_resolved(others[0], definitions), **own}
    return schema


def _is_group(schema: Schema) -> bool:
    names = set(schema.get("properties", {}))
    return bool(names) and names != ARTIFACT


def _field(pointer: str, name: str, schema: Schema, value: Any, *, required: bool) -> Field:
    form = _form(pointer, schema)
    return Field(
        pointer=pointer,
        label=name,
        form=form,
        description=schema.get("description", ""),
        hint=_hint(schema, unit_of(name), required=required),
        choices=[_text(choice) for choice in schema.get("enum", ())],
        value="" if value is None else _shown(value, form),
        required=required,
        shown=required or value is not None,
        whole=schema.get("type") == "integer",
    )


def _form(pointer: str, schema: Schema) -> str:
    if set(schema.get("properties", {})) == ARTIFACT:
        return "artifact"
    if pointer.endswith("/dataset"):
        return "dataset"
    if "enum" in schema:
        return "choice"
    if schema.get("type") in PLAIN:
        return PLAIN[schema["type"]]
    return "json" if any(_objects(schema)) else "value"


def _objects(schema: Any) -> Iterator[bool]:
    """Whether objects may be inside: those need more than a line."""
    if isinstance(schema, Mapping):
        yield "$ref" in schema or schema.get("type") == "object"
        for value in schema.values():
            yield from _objects(value)
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        for value in schema:
            yield from _objects(value)


def _hint(schema: Schema, unit: str, *, required: bool) -> str:
    parts = [f"in {unit}"] if unit else []
    for part in (schema, *schema.get("anyOf", ())):
        parts += [f"{words} {part[name]:g}" for name, words in BOUNDS.items() if name in part]
        parts += [", ".join(map(_text, part["enum"]))] if "enum" in part and part != schema else []
    if "default" in schema and not required:
        default = schema["default"]
        text = "none" if default is None else _text(default)
        parts.append(f"default {text}")
    return "; ".join(parts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(value: Any, form: str) -> str:
    if form == "artifact" and isinstance(value, Mapping):
        return f"{value.get('job', '')}/{value.get('artifact', '')}".rstrip("/")
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    return _text(value)
