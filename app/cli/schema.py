"""Fields of a kind from its JSON Schema, as rows for people: nested groups as dotted names."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sextant_client.units import unit_of

Schema = Mapping[str, Any]
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
DEFAULT_MAX_CHARS = 40


class FieldRow(NamedTuple):
    """A field: its dotted name, type with bounds and unit, default or ``required``, meaning."""

    name: str
    type: str
    default: str
    description: str


def groups(schema: Schema) -> dict[str, list[FieldRow]]:
    """Rows by group: "" has the fields without fields of their own, in the schema's order.

    A ``[]`` in a name means each item of a list, ``(type=x)`` one of several forms. A form that
    was listed before is not listed again; its type says where.
    """
    reader = _SchemaReader(schema.get("$defs", {}))
    split: dict[str, list[FieldRow]] = {"": []}
    for name, field in schema["properties"].items():
        rows = list(reader.rows(name, field, required=name in schema.get("required", ())))
        if len(rows) == 1:
            split[""] += rows
        else:
            split[name] = rows
    return split


class _SchemaReader:
    """Walks through a schema and remembers which definitions it has listed, and where."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._listed: dict[str, str] = {}

    def rows(self, name: str, field: Schema, *, required: bool) -> Iterator[FieldRow]:
        """The row of a field, and those of the fields inside of it."""
        inside = list(self._inside(name, field))
        unit = unit_of(name.rpartition(".")[2])
        yield FieldRow(
            name,
            self._type(field) + (f", in {unit}" if unit else ""),
            _default(field, required=required),
            field.get("description") or self._described(field),
        )
        for prefix, reference in inside:
            form = self._definitions[reference]
            self._listed[reference] = prefix
            for each, inner in form["properties"].items():
                if "const" not in inner or len(inside) == 1:
                    needed = each in form.get("required", ())
                    yield from self.rows(f"{prefix}.{each}", inner, required=needed)

    def _inside(self, name: str, field: Schema) -> Iterator[tuple[str, str]]:
        """Prefix and definition of each form with fields that is not listed yet."""
        forms = list(self._forms(name, field))
        for prefix, reference in forms:
            if reference not in self._listed:
                label = self._label(reference) if len(forms) > 1 else ""
                yield prefix + label, reference

    def _forms(self, name: str, field: Schema) -> Iterator[tuple[str, str]]:
        reference = _reference(field)
        if reference and "properties" in self._definitions[reference]:
            yield name, reference
        for option in _options(field):
            yield from self._forms(name, option)
        if isinstance(field.get("items"), dict):
            yield from self._forms(f"{name}[]", field["items"])

    def _label(self, reference: str) -> str:
        """What tells this form from the others: a constant, else the fields it must have."""
        form = self._definitions[reference]
        for name, field in form["properties"].items():
            if "const" in field:
                return f"({name}={field['const']})"
            if "enum" in field and name in form.get("required", ()):
                more = "|..." if len(field["enum"]) > 1 else ""
                return f"({name}={field['enum'][0]}{more})"
        return f"({', '.join(form.get('required', [])) or reference})"

    def _described(self, field: Schema) -> str:
        reference = _reference(field)
        text = self._definitions[reference].get("description", "") if reference else ""
        return text.replace("``", "").partition("\n\n")[0]

    def _type(self, field: Schema) -> str:
        if reference := _reference(field):
            return self._type_of(reference)
        if options := _options(field):
            types = dict.fromkeys(map(self._type, options))
            # bounds of an optional field may stand beside its options
            return " or ".join(each + (_bounds(field) if each != "null" else "") for each in types)
        if "const" in field:
            return json.dumps(field["const"])
        if "enum" in field:
            return " | ".join(map(str, field["enum"]))
        if field.get("type") == "array":
            return self._list(field)
        return f"{field.get('type', 'any')}{_bounds(field)}"

    def _type_of(self, reference: str) -> str:
        form = self._definitions[reference]
        if "properties" not in form:
            return self._type(form)
        where = self._listed.get(reference)
        return f"object as {where}" if where else "object"

    def _list(self, field: Schema) -> str:
        items = field.get("items")
        inner = self._type(items) if isinstance(items, dict) else "any"
        low, high = field.get("minItems", 0), field.get("maxItems")
        count = f"{low} to {high} " if high is not None else f"{low} or more " if low else ""
        return f"list of {count}{inner}"


def _reference(field: Schema) -> str | None:
    reference = field.get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]


def _options(field: Schema) -> list[Schema]:
    return field.get("anyOf") or field.get("oneOf") or field.get("allOf") or []


def _bounds(field: Schema) -> str:
    texts = [f"{sign} {field[name]}" for name, sign in BOUNDS.items() if name in field]
    if "maxLength" in field:
        texts.append(f"{field.get('minLength', 0)} to {field['maxLength']} characters")
    if "pattern" in field:
        texts.append(f"like {field['pattern']}")
    return f" {', '.join(texts)}" if texts else ""


def _default(field: Schema, *, required: bool) -> str:
    if required:
        return "required"
    if "default" not in field:
        return "const" if "const" in field else "optional"
    text = json.dumps(field["default"])
    return text if len(text) <= DEFAULT_MAX_CHARS else "see its fields"
