"""Commands about sweeps."""

import json
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table

from app.cli import output, spec_file
from app.cli.connect import connect
from app.cli.output import AsJson, coloured, console, fields, number, say, table, when
from sextant_client import Client
from sextant_client.answers import MeanRead, SweepDetail, SweepRead
from sextant_client.requests import SweepCreate

app = typer.Typer(help="Sweeps: one spec with other values of some fields, over several seeds.")

SweepRef = Annotated[str, typer.Argument(metavar="SWEEP", help="Id, or @last")]
FORMS = ("html", "csv", "svg")


@app.command()
def submit(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON of a sweep; - reads stdin")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until its end")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a sweep from a JSON file: job, parameters, seeds, objective, baseline."""
    parsed = spec_file.parse(file.read(), str(getattr(file, "name", "stdin")))
    request = cast("SweepCreate", parsed)  # the service checks it
    with connect() as client:
        sweep = client.sweep(request)
        if not as_json:
            trials, jobs = len(sweep["trials"]), sweep["jobs"]["total"]
            say(f"{sweep['id']} of {sweep['kind']}: {trials} trials, {jobs} jobs")
        if follow:
            sweep = client.wait_sweep(sweep["id"], on_change=None if as_json else _progress)
        if as_json:
            output.print_json(sweep)
        elif follow:
            _report(sweep)
    if follow and sweep["status"] != "finished":
        raise typer.Exit(1)


def _progress(sweep: SweepDetail) -> None:
    counts = {name: count for name, count in sweep["jobs"].items() if count and name != "total"}
    say(", ".join(f"{count} {name}" for name, count in counts.items()))


@app.command("list")
def list_sweeps(
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 20,
    as_json: AsJson = False,
) -> None:
    """List sweeps, newest first."""
    with connect() as client:
        listed = list(client.sweeps(limit))
    if as_json:
        output.print_json(listed)
        return
    rows = (
        (s["id"], s["kind"], s["name"], coloured(s["status"]), _done(s), when(s["created_at"]))
        for s in listed
    )
    table(("sweep", "kind", "name", "status", "done", "created"), rows)


def _done(sweep: SweepRead) -> str:
    jobs = sweep["jobs"]
    return f"{jobs['succeeded'] + jobs['failed'] + jobs['cancelled']} of {jobs['total']}"


@app.command()
def show(ref: SweepRef, as_json: AsJson = False) -> None:
    """Show a sweep: its trials by rank, with means over seeds and differences to the baseline."""
    with connect() as client:
        sweep = client.get_sweep(_id(client, ref))
    if as_json:
        output.print_json(sweep)
    else:
        _report(sweep)


def _id(client: Client, ref: str) -> str:
    if ref != "@last":
        return ref
    newest = list(client.sweeps(1))
    if not newest:
        raise ValueError("there is no sweep yet; sextant sweeps submit makes one")
    return newest[0]["id"]


def _report(sweep: SweepDetail) -> None:
    shown = {name: sweep[name] for name in ("id", "kind", "name", "metric", "goal")}
    error = (sweep["error"] or {}).get("message")
    fields(shown | {"status": coloured(sweep["status"]), "done": _done(sweep), "error": error})
    console.print(_ranks(sweep))


def _ranks(sweep: SweepDetail) -> Table:
    compared = any(trial["difference"] for trial in sweep["trials"])
    rows = (
        (
            trial["rank"],
            f"{trial['trial']}{' (baseline)' if trial['baseline'] else ''}",
            _mean(trial["objective"]),
            *((_mean(trial["difference"]),) if compared else ()),
            ", ".join(f"{name}={json.dumps(x)}" for name, x in trial["values"].items()),
        )
        for trial in sweep["trials"]
    )
    more = ("to the baseline",) if compared else ()
    return output.made(("rank", "trial", sweep["metric"], *more, "values"), rows)


def _mean(mean: MeanRead | None) -> str:
    if mean is None:
        return ""
    ends = mean["interval"]
    return number(mean["mean"]) + (f" [{number(ends[0])}, {number(ends[1])}]" if ends else "")


@app.command()
def report(
    ref: SweepRef,
    to: Annotated[
        Path | None, typer.Option(help="File: .html, .csv or .svg; else SWEEP.html here")
    ] = None,
) -> None:
    """Write the report of a sweep: ranks, parallel coordinates, which parameters matter."""
    form = "html" if to is None else to.suffix.removeprefix(".")
    if form not in FORMS:
        raise ValueError(f"--to {to}: give a file that ends with .html, .csv or .svg")
    with connect() as client:
        sweep_id = _id(client, ref)
        target = to or Path(f"{sweep_id}.html")
        target.write_text(client.sweep_report(sweep_id, form))
    say(str(target.resolve()))


@app.command()
def cancel(ref: SweepRef) -> None:
    """Make no more jobs of a sweep, and stop those that were made."""
    with connect() as client:
        sweep = client.cancel_sweep(_id(client, ref))
    say(f"{sweep['id']} is {sweep['status']}")


@app.command()
def delete(ref: SweepRef) -> None:
    """Forget a sweep that has ended; its jobs stay."""
    with connect() as client:
        sweep_id = _id(client, ref)
        client.delete_sweep(sweep_id)
    say(f"{sweep_id} is deleted")
