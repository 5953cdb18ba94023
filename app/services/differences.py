"""Where specs differ, field by field."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ABSENT = object()


class Difference(NamedTuple):
    """A field that is not the same everywhere; ``ABSENT`` where a spec has none."""

    field: str
    values: list[Any]


def flatten(spec: Any, field: str = "") -> dict[str, Any]:
    """Values by dotted name; lists of plain values stay whole, empty objects vanish."""
    if isinstance(spec, Mapping):
        items = ((f"{field}.{name}" if field else str(name), each) for name, each in spec.items())
    elif isinstance(spec, list) and any(isinstance(each, dict | list) for each in spec):
        items = ((f"{field}[{index}]", each) for index, each in enumerate(spec))
    else:
        return {field: spec}
    return {name: value for inner, each in items for name, value in flatten(each, inner).items()}


def differences(specs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """The fields in which the specs differ, in the order in which they first come."""
    flat = [flatten(spec) for spec in specs]
    fields = dict.fromkeys(name for each in flat for name in each)
    rows = (Difference(name, [each.get(name, ABSENT) for each in flat]) for name in fields)
    return [row for row in rows if any(value != row.values[0] for value in row.values)]
