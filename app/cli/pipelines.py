"""The command for several jobs that use each other's files."""

from typing import Annotated, Any

import typer

from app.cli import output, spec_file
from app.cli.connect import connect
from app.cli.follow import follow, report
from app.cli.output import AsJson, say
from sextant_client import Client

EXAMPLE = '{"jobs": [{"id": "train", "spec": {...}}, {"id": "explain", "spec": {...}}]}'


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pipeline)


def pipeline(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help=f"JSON: {EXAMPLE}; - reads stdin")],
    follow_all: Annotated[
        bool, typer.Option("--follow", "-f", help="Watch the jobs until their ends")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit jobs that use each other's files; each waits for those before it."""
    jobs = _jobs(spec_file.parse(file.read(), str(getattr(file, "name", "stdin"))))
    with connect() as client:
        made = client.pipeline(jobs)
        if as_json and not follow_all:
            output.print_json(made)
            return
        if not as_json:
            for name, job in made.items():
                state = job["status_reason"] or job["status"]
                say(f"{job['id']} {name}: {job['kind']} is {state}")
        if follow_all:
            _end(client, made, as_json=as_json)


def _jobs(parsed: dict[str, Any]) -> list[Any]:
    if set(parsed) != {"jobs"} or not isinstance(parsed["jobs"], list):
        raise ValueError(f"a pipeline is an object with jobs alone: {EXAMPLE}")
    return parsed["jobs"]


def _end(client: Client, made: dict[str, Any], *, as_json: bool) -> None:
    """Follow the jobs, one after another; exit code 1 unless all succeeded."""
    final = {}
    for name, job in made.items():
        final[name] = client.wait(job["id"]) if as_json else follow(client, job)
        if not as_json:
            report(client, final[name])
    if as_json:
        output.print_json(final)
    if any(job["status"] != "succeeded" for job in final.values()):
        raise typer.Exit(1)
