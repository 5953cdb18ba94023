"""Commands about datasets."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli import output
from app.cli.connect import connect
from app.cli.extras import require
from app.cli.jobs import bytes_bar
from app.cli.output import AsJson, coloured, say, size, summary, table

app = typer.Typer(help="Datasets: built in, uploaded, or fetched from their official addresses.")


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List all datasets."""
    with connect() as client:
        listed = list(client.datasets())
    if as_json:
        output.print_json(listed)
        return
    rows = (
        (each["name"], each["format"], coloured(each["status"]), summary(each["counts"] or {}))
        for each in listed
    )
    table(("dataset", "format", "status", "holds"), rows)


@app.command("import")
def import_dataset(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="A file, files or a folder")],
    name: Annotated[str | None, typer.Option(help="Name; from the file where left out")] = None,
    content_format: Annotated[
        str | None,
        typer.Option("--format", help="npz, image_folder, parquet, elevation, net; else by ending"),
    ] = None,
    cell_size_m: Annotated[
        float | None, typer.Option(help="Metres a cell, for elevation that does not say so")
    ] = None,
    nodata: Annotated[
        float | None,
        typer.Option(help="Stored value of cells without a height, elevation only"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a dataset and wait until the service has checked it."""
    given = {"cell_size_m": cell_size_m, "nodata": nodata}
    options = {name: value for name, value in given.items() if value is not None}
    with connect() as client, bytes_bar() as bar:
        task = bar.add_task("uploading", total=None)
        dataset = client.upload(
            name or paths[0].resolve().stem,
            paths,
            format=content_format,
            options=options,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        output.print_json(dataset)
        return
    say(f"{dataset['name']} is ready: {summary(dataset['counts'])}, {size(dataset['size_bytes'])}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100, mnist, fashion_mnist or svhn")],
    folder: Annotated[
        Path | None, typer.Option(help="Keep the downloaded files here; else they are removed")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a public dataset, convert it and import it."""
    require("worker", "numpy", "scipy")
    with tempfile.TemporaryDirectory(prefix="sextant-fetch-") as scratch:
        target = (folder or Path(scratch)).resolve()
        target.mkdir(parents=True, exist_ok=True)
        say(f"downloading {name} from its official address")
        events = target / "events.jsonl"
        events.unlink(missing_ok=True)
        # a child: this process never loads the libraries that decode
        done = subprocess.run(  # noqa: S603  # our own command
            [sys.executable, "-P", "-m", "models", "fetch", name, str(target)],
            check=False,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise ValueError(f"cannot fetch {name}: {_reason(events, done.stderr)}")
        import_dataset([target / f"{name}.npz"], name=name, as_json=as_json)


def _reason(events: Path, written: str) -> str:
    """What the child reported as its error, else the last line it wrote."""
    lines = events.read_text().splitlines() if events.is_file() else []
    for event in map(json.loads, reversed(lines)):
        if event["type"] == "error":
            hint = f" ({event['hint']})" if event.get("hint") else ""
            return event["message"] + hint
    return written.strip().rpartition("\n")[2] or "no reason given"
