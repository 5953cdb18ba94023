"""The command about quotas."""

from typing import Any

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.output import AsJson, say, table, when

UNITS = {"stored_bytes": output.size, "gpu_seconds_a_day": output.duration}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(usage)


def usage(as_json: AsJson = False) -> None:
    """Show what the tenant uses of its quotas, and which keep its jobs waiting."""
    with connect() as client:
        used = client.usage()
    if as_json:
        output.print_json(used)
        return
    quotas = {name: value for name, value in used.items() if isinstance(value, dict)}
    rows = ((name, _shown(name, q.get("used")), _limit(name, q)) for name, q in quotas.items())
    table((used["tenant"], "used", "limit"), rows)
    for name in used["delayed_by"]:
        until = f" until {when(used['resets_at'])}" if name == "gpu_seconds_a_day" else ""
        say(f"jobs wait for {name}{until}")


def _limit(name: str, quota: dict[str, Any]) -> str:
    return "none" if quota["limit"] is None else _shown(name, quota["limit"])


def _shown(name: str, value: float | None) -> str:
    return "" if value is None else UNITS.get(name, lambda count: f"{count:.0f}")(value)
