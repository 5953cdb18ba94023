"""Commands about jobs that are there: rename and note, compare, fetch as one file."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import output, refs
from app.cli.connect import connect
from app.cli.jobs import JobRef
from app.cli.output import AsJson, number, say, table


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (edit, pause, resume, archive, compare, workers):
        app.command()(command)


def edit(
    ref: JobRef,
    name: Annotated[str | None, typer.Option(help="New name; empty removes it")] = None,
    notes: Annotated[str | None, typer.Option(help="New notes; empty removes them")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Label to set; NAME= removes it; repeatable"),
    ] = None,
    hidden: Annotated[
        bool | None, typer.Option("--hide/--show", help="Leave it out of lists, or no longer")
    ] = None,
) -> None:
    """Change what a job is called and whether lists show it, whatever its status."""
    texts = {"name": name, "notes": notes}
    changes: dict[str, Any] = {n: text or None for n, text in texts.items() if text is not None}
    if label:
        changes["metadata"] = dict(map(_label, label))
    if hidden is not None:
        changes["hidden"] = hidden
    if not changes:
        raise ValueError("nothing to change: give --name, --notes, --label NAME=VALUE or --hide")
    with connect() as client:
        job = client.edit(refs.job_id(client, ref), **changes)
    say(f"{job['id']} is changed")


def _label(text: str) -> tuple[str, str | None]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ValueError(f"--label {text}: write NAME=VALUE")
    return name, value or None


def pause(ref: JobRef) -> None:
    """Hold a job until it is resumed; one that runs saves a checkpoint first."""
    with connect() as client:
        job = client.pause(refs.job_id(client, ref))
    say(f"{job['id']} is {job['status_reason']}; sextant resume {job['id']} lets it go on")


def resume(ref: JobRef) -> None:
    """Let a paused job go on from its newest checkpoint."""
    with connect() as client:
        job = client.resume(refs.job_id(client, ref))
    say(f"{job['id']} is {job['status']}")


def archive(
    ref: JobRef,
    to: Annotated[Path | None, typer.Option(help="File; else the id with .zip here")] = None,
) -> None:
    """Fetch all files of a job as one zip."""
    with connect() as client:
        job_id = refs.job_id(client, ref)
        target = client.archive(job_id, to or Path(f"{job_id}.zip"))
    say(f"{target} ({output.size(target.stat().st_size)})")


def compare(
    first: JobRef,
    others: Annotated[list[str], typer.Argument(metavar="JOB...", help="More jobs, 1 to 9")],
    as_json: AsJson = False,
) -> None:
    """Compare jobs: where their specs and results differ, the last values of their metrics."""
    with connect() as client:
        ids = [refs.job_id(client, each) for each in (first, *others)]
        answer = client.compare(ids)
    if as_json:
        output.print_json(answer)
        return
    fields = [
        (f"{part}: {d['field']}", d["values"]) for part in ("spec", "result") for d in answer[part]
    ]
    fields += [(name, values) for name, values in answer["metrics"].items()]
    rows = ((name, *map(_shown, values)) for name, values in fields)
    table(("", *refs.short([job["id"] for job in answer["jobs"]])), rows)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, dict | list) else number(value)


def workers(as_json: AsJson = False) -> None:
    """List live workers and queues; a key with scope admin is needed."""
    with connect() as client:
        live, queues = client.workers(), client.queues()
    if as_json:
        output.print_json({"workers": live, "queues": queues})
        return
    rows = (
        (
            w["id"],
            w["host"],
            " ".join(w["queues"]),
            len(w["gpus"]),
            f"{w['slots_free']} of {w['slots']}",
        )
        for w in live
    )
    table(("worker", "host", "queues", "GPUs", "slots", "free"), rows)
    table(("queue", "waiting", "served"), ((q["name"], q["waiting"], q["served"]) for q in queues))
