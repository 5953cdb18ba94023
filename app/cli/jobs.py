"""Commands about jobs: submit, list, show, follow, download, cancel, retry, delete."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from app.cli import curve, output, refs, spec_file
from app.cli.connect import connect
from app.cli.follow import FINAL, follow, report
from app.cli.output import (
    AsJson,
    Watch,
    coloured,
    console,
    duration,
    fields,
    one_line,
    printable,
    say,
    table,
    when,
)
from app.cli.reproduce import reproduce
from app.cli.values import Settings, with_values
from sextant_client import Client, Job
from sextant_client.answers import ArtifactRead, JobStatus
from sextant_client.calls import Start
from sextant_client.download import is_there, within

JobRef = Annotated[
    str, typer.Argument(metavar="JOB", help="Id, the beginning of one, name, or @last")
]
SCHEMA = "$schema"  # where an editor finds the JSON Schema of a file; not for the service
OTHER_COLUMNS = 61  # characters of id, status, share and the longest kind in a narrow list
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Watch it until its end")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    first = (submit, jobs, show, watch_job, logs, metrics, download, cancel, retry, reproduce)
    for command in (*first, delete):
        app.command("follow" if command is watch_job else None)(command)


def submit(
    spec: Annotated[
        typer.FileBinaryRead, typer.Argument(help="JSON of a spec or a job; - reads stdin")
    ],
    follow: Follow = False,
    name: Annotated[str | None, typer.Option(help="Name for people")] = None,
    settings: Settings = None,
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", help="Start once this job has succeeded; repeatable"),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only check it and say what it costs")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job from a JSON file."""
    request = _request(spec_file.parse(spec.read(), str(getattr(spec, "name", "stdin"))), name)
    request["spec"] = with_values(request["spec"], settings or ())
    with connect() as client:
        _check_kind(client, request["spec"])
        if after:
            request["depends_on"] = [refs.job_id(client, each) for each in after]
        if dry_run:
            output.print_json(client.dry_run(**request))
            return
        job = client.submit(**request)
        if as_json and not follow:
            output.print_json(job)
            return
        if not as_json:
            say(f"{job['id']} {job['kind']} is {job['status']}")
        if follow:
            _end(client, job, as_json=as_json)


def _check_kind(client: Client, spec: Any) -> None:
    """Without a kind the service could only say that there is none."""
    if isinstance(spec, dict) and "kind" not in spec:
        listed = ", ".join(each["kind"] for each in client.kinds())
        raise ValueError(f"the spec has no kind; give kind: one of {listed}")


def _request(parsed: dict[str, Any], name: str | None) -> dict[str, Any]:
    """A whole job request, from one or from a bare spec."""
    parsed = {field: value for field, value in parsed.items() if field != SCHEMA}
    request = parsed if "spec" in parsed else {"spec": parsed}
    if isinstance(request["spec"], dict):
        request["spec"] = {n: value for n, value in request["spec"].items() if n != SCHEMA}
    return request | ({"name": name} if name else {})


def _end(client: Client, job: dict[str, Any], *, as_json: bool) -> None:
    """Follow a job to its end; exit code 1 unless it succeeded."""
    final = client.wait(job["id"]) if as_json else follow(client, job)
    if as_json:
        output.print_json(final)
    else:
        report(client, final)
    if final["status"] != "succeeded":
        raise typer.Exit(1)


def jobs(
    status: Annotated[list[str] | None, typer.Option(help="Only these; repeatable")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind")] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Those that were hidden")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 20,
    watch: Watch = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    wanted = cast("list[JobStatus] | None", status)  # the service says which there are

    def fetched() -> list[Job]:
        return list(client.jobs(limit, status=wanted, kind=kind, hidden=hidden))

    with connect() as client:
        if as_json:
            output.print_json(fetched())
            return
        output.show(lambda: _listed(fetched()), watch)


def _listed(listed: Sequence[Mapping[str, Any]]) -> Table:
    """A row a job; on a narrow terminal names are cut, ids and statuses never."""
    if console.width >= output.WIDE:
        rows = (
            (j["id"], j["kind"], j["name"], _state(j), _percent(j), when(j["created_at"]))
            for j in listed
        )
        return output.made(("job", "kind", "name", "status", "done", "created"), rows)
    ids = refs.short([job["id"] for job in listed])
    rows = (
        (short, coloured(j["status"]), _percent(j), j["kind"], _cut(j["name"] or ""))
        for short, j in zip(ids, listed, strict=True)
    )
    return output.made(("job", "status", "done", "kind", "name"), rows)


def _cut(name: str) -> Text:
    """The name in what a narrow terminal leaves of a row."""
    cut = output.cell(name)
    cut.truncate(max(8, console.width - OTHER_COLUMNS), overflow="ellipsis")
    return cut


def _state(job: Mapping[str, Any]) -> Text:
    reason = job["status_reason"]
    return Text.assemble(coloured(job["status"]), f" ({reason})" if reason else "")


def _percent(job: Mapping[str, Any]) -> str:
    fraction = (job["progress"] or {}).get("fraction")
    return "" if fraction is None else f"{fraction:.0%}"


def show(ref: JobRef, as_json: AsJson = False) -> None:
    """Show a job: where it is, what it gave, which files it left."""
    with connect() as client:
        job = client.get(refs.job_id(client, ref))
        if as_json:
            output.print_json(job)
            return
        progress = job["progress"] or {}
        fields(
            {
                "kind": job["kind"],
                "name": job["name"],
                "status": _state(job),
                "queue position": job["queue_position"],
                "after": ", ".join(job["depends_on"]),
                "run": job["run_number"] or None,
                "worker": (job["worker"] or {}).get("id"),
                "created": when(job["created_at"]),
                "started": when(job["started_at"]),
                "finished": when(job["finished_at"]),
                "done": _percent(job),
                "phase": progress.get("phase"),
                "time left": "" if job["status"] in FINAL else duration(progress.get("eta_s")),
            }
        )
        report(client, job)


def watch_job(ref: JobRef, as_json: AsJson = False) -> None:
    """Watch a job until its end; Ctrl-C leaves it running."""
    with connect() as client:
        _end(client, client.get(refs.job_id(client, ref)), as_json=as_json)


def logs(
    ref: JobRef,
    follow: Follow = False,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last lines")] = None,
    run: Annotated[int | None, typer.Option(min=1, help="Of this run; the last one else")] = None,
) -> None:
    """Print what the job's process wrote."""
    with connect() as client:
        job_id = refs.job_id(client, ref)
        if not follow:
            output.echo(client.logs(job_id, tail=tail, run=run))
            return
        for event in client.follow_logs(job_id):
            output.echo(event["data"]["text"])


def metrics(
    ref: JobRef,
    name: Annotated[list[str] | None, typer.Option(help="Only these; repeatable")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw curves in the terminal")] = False,
    max_points: Annotated[int, typer.Option(min=2, help="Points a series")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Print the numbers a job reported."""
    with connect() as client:
        answer = client.metrics(refs.job_id(client, ref), names=name, max_points=max_points)
    if as_json:
        output.print_json(answer)
        return
    series = output.series(answer)
    if plot:
        for each, points in series.items():
            say(Text(f"\n{printable(each)}", "bold"))
            say(curve.plot(points))
        return
    rows = ((n, len(p), *(output.number(v) for v in _ends(p))) for n, p in series.items())
    table(("metric", "points", "first", "last", "least", "greatest"), rows)


def _ends(points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    values = [value for _, value in points]
    return values[0], values[-1], min(values), max(values)


def download(
    ref: JobRef,
    names: Annotated[list[str] | None, typer.Argument(help="Files; all where left out")] = None,
    to: Annotated[Path, typer.Option(help="Folder to put them in")] = Path(),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files of other content")
    ] = False,
) -> None:
    """Download files of a job; goes on where an earlier download was cut off."""
    with connect() as client:
        job_id = refs.job_id(client, ref)
        artifacts = {each["name"]: each for each in client.artifacts(job_id)}
        wanted = {name: _target(job_id, name, to, artifacts) for name in names or artifacts}
        # all are looked at first: nothing is fetched where one of them is refused
        there = {
            name for name in wanted if is_there(artifacts[name], wanted[name], overwrite=force)
        }
        for name, target in wanted.items():
            if name in there:
                say(f"{target} is there already, SHA-256 checked")
                continue
            fetch(client, job_id, artifacts[name], target, overwrite=force)
            say(f"{target} ({output.size(artifacts[name]['size_bytes'])}, SHA-256 checked)")


def _target(job_id: str, name: str, to: Path, artifacts: Mapping[str, Any]) -> Path:
    """Where a file of a job goes.

    Raises:
        ValueError: if the job has none of this name, or it would leave the folder.
    """
    if name not in artifacts:
        names = ", ".join(artifacts) or "none yet"
        raise ValueError(f"{job_id} has no file {name!r}; it has {names}")
    return within(to, name)


def fetch(
    client: Client, job_id: str, artifact: ArtifactRead, target: Path, *, overwrite: bool = False
) -> None:
    """Download one file with a bar."""
    with bytes_bar() as bar:
        task = bar.add_task(one_line(artifact["name"]), total=artifact["size_bytes"])
        client.download(
            job_id,
            artifact["name"],
            target,
            overwrite=overwrite,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def bytes_bar() -> Progress:
    """A bar for bytes on their way; gone when they are there."""
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def cancel(
    ref: JobRef,
    kill: Annotated[bool, typer.Option("--kill", help="At once, not at its next step")] = False,
    save: Annotated[bool, typer.Option(help="Leave a checkpoint to go on from")] = True,
) -> None:
    """Cancel a job."""
    with connect() as client:
        mode = "kill" if kill else "graceful"
        job = client.cancel(refs.job_id(client, ref), mode=mode, save_checkpoint=save)
    say(f"{job['id']} is {job['status_reason'] or job['status']}")


def retry(
    ref: JobRef,
    start: Annotated[
        str, typer.Option("--from", help="latest, best, a step, or scratch")
    ] = "latest",
    follow: Follow = False,
    as_json: AsJson = False,
) -> None:
    """Make a new job from a final one, going on from a checkpoint."""
    with connect() as client:
        job_id = refs.job_id(client, ref)
        named = cast("Start", start)  # the service says which there are
        job = client.retry(job_id, start=int(start) if start.isdecimal() else named)
        if not as_json:
            say(f"{job['id']} goes on from {start} of {job_id}")
        elif not follow:
            output.print_json(job)
        if follow:
            _end(client, job, as_json=as_json)


def delete(ref: JobRef) -> None:
    """Delete a final job with all its files."""
    with connect() as client:
        job_id = refs.job_id(client, ref)
        client.delete(job_id)
    say(f"{job_id} is deleted")
