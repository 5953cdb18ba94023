"""Commands about kinds: list them, show their fields, begin a spec."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from app.cli import output
from app.cli.connect import connect
from app.cli.output import AsJson, console, errors, plain, table
from app.cli.schema import FieldRow, groups
from app.cli.values import Settings, with_values
from sextant_client.answers import KindRead


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (kinds, new):
        app.command()(command)


def kinds(
    kind: Annotated[str | None, typer.Argument(help="Show this one in full")] = None,
    as_json: AsJson = False,
) -> None:
    """List the kinds of jobs, or show one with its fields."""
    with connect() as client:
        if kind is None:
            listed = client.kinds()
            if as_json:
                output.print_json(listed)
            else:
                table(("kind", "what it does"), ((k["kind"], k["description"]) for k in listed))
            return
        one, schema = client.kind(kind), client.schema(kind)
    if as_json:
        output.print_json(one | {"schema": schema})
        return
    _print_kind(one, schema)


def new(
    kind: Annotated[str, typer.Argument(help="What the job shall do; `sextant kinds` lists all")],
    preset: Annotated[str | None, typer.Option(help="Begin with this preset")] = None,
    settings: Settings = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell all fields on standard error too")
    ] = False,
) -> None:
    """Print a spec to begin with: sextant new KIND > spec.json; sextant submit spec.json."""
    with connect() as client:
        one, schema = client.kind(kind), client.schema(kind)
    output.print_json(with_values(_beginning(one, schema, preset), settings or ()))
    if explain:
        _print_fields(schema, errors)


def _beginning(one: KindRead, schema: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """The example of a kind, or a preset over what of the example is required.

    Raises:
        ValueError: if there is no such preset.
    """
    if preset is None:
        return one["example"]
    if preset not in one["presets"]:
        there = ", ".join(one["presets"])
        raise ValueError(f"{one['kind']} has no preset {preset!r}; there are {there}")
    needed = {name: one["example"][name] for name in schema["required"]}
    return needed | one["presets"][preset]


def _print_kind(one: KindRead, schema: dict[str, Any]) -> None:
    """Fields by group, files, presets and an example, the last two ready to be pasted."""
    output.say(one["description"])
    _print_fields(schema, console)
    output.say(Text("\nfiles", "bold"))
    table(("", "", ""), ((a["name"], a["role"], a["description"]) for a in one["artifacts"]))
    output.say(
        Text("\nexample: save it as spec.json, then `sextant submit spec.json --follow`", "bold")
    )
    output.print_json(one["example"])
    if one["presets"]:
        begin = f"`sextant new {one['kind']} --preset NAME > spec.json`"
        output.say(Text(f"\npresets: specs to start from: {begin}", "bold"))
    for name, preset in one["presets"].items():
        output.say(f"{name}:")
        typer.echo(json.dumps(preset))


def _print_fields(schema: dict[str, Any], to: Console) -> None:
    """All fields by group; on a narrow terminal the meaning stands below its field."""
    for group, rows in groups(schema).items():
        to.print(Text(f"\nfields of {group}" if group else "\nfields", "bold"))
        if to.width >= output.WIDE:
            to.print(output.made(("name", "type and bounds", "default", "meaning"), rows))
        else:
            _print_below(rows, to)


def _print_below(rows: Sequence[FieldRow], to: Console) -> None:
    for row in rows:
        to.print(Text(row.name, "bold"), plain(f"{row.type}; {row.default}"))
        to.print(Padding(plain(row.description), (0, 0, 0, 4), expand=False))
