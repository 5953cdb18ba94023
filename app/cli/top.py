"""The command top: workers, queues and the newest jobs on one screen."""

from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.cli import output, refs
from app.cli.connect import connect
from app.cli.output import AsJson, coloured, duration, when
from sextant_client import ApiError, Client
from sextant_client.answers import JobStatus

JOBS = 15
OPEN: list[JobStatus] = ["running", "queued"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(top)


def top(
    once: bool = typer.Option(False, "--once", help="Print it once and end"),
    as_json: AsJson = False,
) -> None:
    """Show what runs and waits, and what happened last, until Ctrl-C.

    Workers and queues are shown with a key of scope admin.
    """
    with connect() as client:
        if as_json:
            output.print_json(_state(client))
        else:
            output.show(lambda: _screen(_state(client)), watch=not once)


def _state(client: Client) -> dict[str, Any]:
    state: dict[str, Any] = {"jobs": list(client.jobs(JOBS, status=OPEN))}
    newest = client.events_page(limit=1)["latest"]
    page = client.events_page(max(newest - 200, 0), type="status", limit=200)
    state["events"] = page["data"][-5:]
    try:
        state |= {"workers": client.workers(), "queues": client.queues()}
    except ApiError as error:
        if error.code != "forbidden":
            raise
    return state


def _screen(state: dict[str, Any]) -> RenderableType:
    parts = [_services(state)] if "workers" in state else []
    return Group(*parts, _jobs(state["jobs"]), _events(state["events"]))


def _services(state: dict[str, Any]) -> Text:
    slots = sum(worker["slots"] for worker in state["workers"])
    used = slots - sum(worker["slots_free"] for worker in state["workers"])
    lines = [f"{len(state['workers'])} workers, {used} of {slots} slots in use"]
    waiting = [f"{q['name']} {q['waiting']}" for q in state["queues"] if q["waiting"]]
    unserved = [q["name"] for q in state["queues"] if q["waiting"] and not q["served"]]
    lines.append(f"waiting: {', '.join(waiting) or 'none'}")
    if unserved:
        lines.append(f"served by nobody: {', '.join(unserved)}")
    return Text("\n".join([*lines, ""]))


def _jobs(listed: list[dict[str, Any]]) -> Table:
    ids = refs.short([job["id"] for job in listed])
    rows = [
        (short, coloured(j["status"]), j["status_reason"], j["kind"], j["name"], *_progress(j))
        for short, j in zip(ids, listed, strict=True)
    ]
    columns = ("job", "status", "reason", "kind", "name", "done", "rate", "left")
    return output.made(columns, rows or [("none",)])


def _progress(job: dict[str, Any]) -> tuple[str, str, str]:
    progress = job["progress"] or {}
    fraction, rate = progress.get("fraction"), progress.get("rate")
    return (
        "" if fraction is None else f"{fraction:.0%}",
        f"{rate:.3g} {progress.get('rate_unit')}" if rate else "",
        duration(progress.get("eta_s")) if progress.get("eta_s") is not None else "",
    )


def _events(listed: list[dict[str, Any]]) -> Table:
    rows = [
        (when(e["at"]), e["job"]["name"] or e["job"]["kind"], coloured(e["data"]["status"]))
        for e in listed[::-1]
    ]
    return output.made(("last", "job", "status"), rows)
