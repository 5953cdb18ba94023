"""Commands about datasets."""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.table import Table

from app.cli import output
from app.cli.connect import connect
from app.cli.extras import require
from app.cli.jobs import bytes_bar
from app.cli.output import AsJson, Watch, coloured, fields, say, size, summary, when
from sextant_client.answers import DatasetRead
from sextant_client.requests import DatasetOptions

app = typer.Typer(help="Datasets: built in, uploaded, or fetched from their official addresses.")


@app.command("list")
def list_datasets(watch: Watch = False, as_json: AsJson = False) -> None:
    """List all datasets."""
    with connect() as client:
        if as_json:
            output.print_json(list(client.datasets()))
            return
        output.show(lambda: _listed(client.datasets()), watch)


def _listed(listed: Iterable[DatasetRead]) -> Table:
    rows = (
        (each["name"], each["format"], coloured(each["status"]), summary(each["counts"] or {}))
        for each in listed
    )
    made = output.made(("dataset", "format", "status", "holds"), rows)
    made.columns[2].no_wrap = True
    return made


@app.command("import")
def import_dataset(
    paths: Annotated[list[Path], typer.Argument(exists=True, help="A file, files or a folder")],
    name: Annotated[str | None, typer.Option(help="Name; from the file where left out")] = None,
    content_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="npz, image_folder, parquet, idx, elevation, net, series, marks, regions; "
            "else by ending",
        ),
    ] = None,
    cell_size_m: Annotated[
        float | None, typer.Option(help="Metres a cell, for elevation that does not say so")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column of the labels, for parquet of another name than label"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="named: parts by the names train, validation, test (default); hold_out: these "
            "names mean nothing, a fifth is held out"
        ),
    ] = None,
    nodata: Annotated[
        float | None,
        typer.Option(help="Stored value of cells without a height or nan, elevation only"),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(help="Bring a raster to this system in metres, utm or EPSG:NUMBER"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a dataset and wait until the service has checked it."""
    stored = "nan" if nodata is not None and math.isnan(nodata) else nodata  # as JSON has it
    given = {"cell_size_m": cell_size_m, "nodata": stored, "project": project}
    given |= {"label": label, "split": split}
    options = {option: value for option, value in given.items() if value is not None}
    with connect() as client, bytes_bar() as bar:
        task = bar.add_task("uploading", total=None)
        dataset = client.upload(
            name or paths[0].resolve().stem,
            paths,
            format=content_format,
            options=cast("DatasetOptions", options),
            on_progress=lambda done, total: bar.update(
                task,
                completed=done,
                total=total,
                description="uploading" if done < total else "being checked",
            ),
        )
    if as_json:
        output.print_json(dataset)
        return
    say(f"{dataset['name']} is ready: {summary(dataset['counts'])}, {size(dataset['size_bytes'])}")
    fields(_contents(dataset))


@app.command("show")
def show_dataset(
    ref: Annotated[str, typer.Argument(metavar="DATASET", help="Name or id")],
    as_json: AsJson = False,
) -> None:
    """Show one dataset: what it holds, what was left out, how parts and labels were chosen."""
    with connect() as client:
        dataset = client.dataset(ref)
    if as_json:
        output.print_json(dataset)
        return
    error = dataset["error"] or {}
    rows = {
        "dataset": dataset["name"],
        "id": dataset["id"],
        "format": dataset["format"],
        "status": coloured(dataset["status"]),
        "holds": dataset["description"] or summary(dataset["counts"]),
        "options": summary(dataset["options"]),
        "size": dataset["size_bytes"] and size(dataset["size_bytes"]),
        "sha256": dataset["sha256"],
        "created": when(dataset["created_at"]),
        "error": error.get("message"),
        "hint": error.get("hint"),
    }
    fields(rows | _contents(dataset))


def _contents(dataset: DatasetRead) -> dict[str, str | None]:
    """Lines about what an import took and left out."""
    contents = dataset.get("contents")
    if contents is None:
        return {}
    left_out = (
        f"{each['count']} {each['what']} ({each['reason']})" for each in contents["left_out"]
    )
    return {
        "taken": summary(contents["taken"]),
        "left out": "; ".join(left_out) or "nothing",
        "parts": contents["split"],
        "labels": contents["label"],
        "image sizes": contents["sizes"],
        "notes": "; ".join(contents["notes"]),
    }


@app.command("delete")
def delete_dataset(
    refs: Annotated[list[str], typer.Argument(metavar="DATASET...", help="Names or ids")],
) -> None:
    """Delete uploaded datasets that no unfinished job refers to."""
    with connect() as client:
        for ref in refs:
            client.delete_dataset(ref)
            say(f"{ref} is deleted")


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
        _in_child("fetch", target, name)
        import_dataset([target / f"{name}.npz"], name=name, as_json=as_json)


@app.command()
def export(
    ref: Annotated[str, typer.Argument(metavar="DATASET", help="Name or id")],
    folder: Annotated[Path, typer.Argument(help="Folder to make: README.md and data/*.parquet")],
) -> None:
    """Write labelled images as a dataset repository of Hugging Face's hub."""
    require("worker", "numpy", "pyarrow")
    if folder.exists():
        raise ValueError(f"{folder} is there already; name a folder that is not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sextant-export-", dir=folder.parent) as scratch:
        with connect() as client:
            dataset = client.dataset(ref)
            if not dataset["builtin"]:
                client.download_dataset(dataset["id"], Path(scratch) / "content")
        (Path(scratch) / "dataset.json").write_text(json.dumps(dataset))
        _in_child("export", Path(scratch), dataset["name"])
        (Path(scratch) / "hub").rename(folder)
    say(f"{dataset['name']} is in {folder}; `hf upload` sends it, `datasets import` reads it")


def _in_child(action: str, folder: Path, name: str) -> None:
    """Work of ``python -m models``: this process never loads the libraries that decode.

    Raises:
        ValueError: if it fails, with what it said.
    """
    events = folder / "events.jsonl"
    events.unlink(missing_ok=True)
    arguments = [name, str(folder)] if action == "fetch" else [str(folder)]
    done = subprocess.run(  # noqa: S603  # our own command
        [sys.executable, "-P", "-m", "models", action, *arguments],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise ValueError(f"cannot {action} {name}: {_reason(events, done.stderr)}")


def _reason(events: Path, written: str) -> str:
    """What the child reported as its error, else the last line it wrote."""
    lines = events.read_text().splitlines() if events.is_file() else []
    for event in map(json.loads, reversed(lines)):
        if event["type"] == "error":
            hint = f" ({event['hint']})" if event.get("hint") else ""
            return event["message"] + hint
    return written.strip().rpartition("\n")[2] or "no reason given"
