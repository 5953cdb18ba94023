"""Single fields given on the command line: ``-s epochs=5 -s optimizer.lr=0.1``."""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Annotated, Any

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="FIELD=VALUE", help="A field of the spec: -s optimizer.lr=0.1"
    ),
]


def with_values(spec: Any, settings: Iterable[str]) -> Any:
    """The spec with single fields replaced; groups that are not there yet are made.

    Args:
        spec: JSON object.
        settings: ``FIELD=VALUE``; dots lead into groups, numbers into lists. A value is JSON, or
            else text as it stands.

    Raises:
        ValueError: if a setting has no value, or leads into something that holds no fields.
    """
    changed = deepcopy(spec)
    for setting in settings:
        field, sign, value = setting.partition("=")
        if not sign or not all(field.split(".")):
            raise ValueError(f"-s {setting}: write FIELD=VALUE, for example -s optimizer.lr=0.1")
        try:
            _put(changed, field.split("."), _value(value))
        except (IndexError, TypeError, ValueError):
            raise ValueError(f"-s {setting}: the spec has no such place") from None
    return changed


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _put(node: Any, path: list[str], value: Any) -> None:
    name, *rest = path
    if isinstance(node, list):
        if rest:
            _put(node[int(name)], rest, value)
        else:
            node[int(name)] = value
    elif not isinstance(node, dict):
        raise TypeError(node)
    elif rest:
        _put(node.setdefault(name, {}), rest, value)
    else:
        node[name] = value
