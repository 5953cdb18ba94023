"""The command about the events of all jobs."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.output import AsJson, say, when


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(events)


def events(
    after: Annotated[
        int | None, typer.Option(min=0, help="Only those behind this position; 0: all there are")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only changes of status")] = False,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind, lcw.train")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what happened to the jobs of the tenant, the newest where --after is left out.

    Each line begins with its position: --after goes on from there. With --follow it waits for more
    until Ctrl-C. With --json a line is a JSON document.
    """
    only: Literal["status"] | None = "status" if status else None
    with connect() as client:
        if after is None:
            after = max(client.events_page(limit=1)["latest"] - limit, 0)
        if not follow:
            for event in client.events_page(after, limit=limit, type=only, kind=kind)["data"]:
                _print(event["position"], event["type"], event, as_json=as_json)
            return
        try:
            for event in client.all_events(after, type=only, kind=kind):
                _print(event["seq"], event["type"], event["data"], as_json=as_json)
        except KeyboardInterrupt:
            return


def _print(position: int | None, kind: str, event: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"position": position, "type": kind, **event}))
        return
    job, data = event["job"], event["data"]
    shown = data.get("status") or data.get("message") or data.get("name") or data.get("step") or ""
    reason = f"({data['status_reason']})" if data.get("status_reason") else ""
    words = (position, when(event["at"]), job["id"], job["name"] or job["kind"], kind, shown)
    say(" ".join(output.one_line(str(word)) for word in (*words, reason)).rstrip())
