"""One line from a file to a picture.

``explain photo.jpg``, ``train FOLDER``, ``predict JOB photo.jpg``, ``flood dem.tif``.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import refs
from app.cli.connect import connect
from app.cli.follow import follow, report
from app.cli.jobs import JobRef, bytes_bar, fetch
from app.cli.output import one_line, say, summary
from app.cli.values import Settings, with_values
from sextant_client import ApiError, Client
from sextant_client.answers import ArtifactRead, DatasetRead
from sextant_client.download import within
from sextant_client.packing import members_of
from sextant_client.requests import DatasetOptions

EPOCHS_OF_IMAGES = 3
SUBSET = 5000  # of more training images, so that a first run is short
SIDE = 32  # in pixels; images of other sizes are resized
NETS = ("ensemble.safetensors", "weights.safetensors")
SpecOf = Callable[[Client, DatasetRead], dict[str, Any]]

To = Annotated[Path, typer.Option(help="Folder to put the picture in")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (explain, train, predict, flood):
        app.command()(command)


def explain(
    photo: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A picture")],
    settings: Settings = None,
    to: To = Path(),
) -> None:
    """Show what a net for photographs looks at in yours."""
    _start([photo], {}, _explaining, settings, to)


def train(
    folder: Annotated[Path, typer.Argument(exists=True, help="Images, a folder for each class")],
    settings: Settings = None,
    to: To = Path(),
) -> None:
    """Train a classifier on your images, with some steps made cheap."""
    _start([folder], {}, _training, settings, to)


def predict(
    ref: JobRef,
    photo: Annotated[Path, typer.Argument(exists=True, help="A picture, or a folder of them")],
    settings: Settings = None,
    to: To = Path(),
) -> None:
    """Ask a net that you trained what is in a picture."""
    with connect() as client:
        net = _net_of(client, ref)
    _start([photo], {}, lambda _, dataset: _predicting(net, dataset), settings, to, _tell_classes)


def flood(
    dem: Annotated[Path, typer.Argument(exists=True, help="Elevation: GeoTIFF, ASCII grid, npy")],
    cell_size_m: Annotated[
        float | None, typer.Option(help="Metres a cell, where the file does not say so")
    ] = None,
    settings: Settings = None,
    to: To = Path(),
) -> None:
    """Flood your terrain along its valley."""
    options: DatasetOptions = {} if cell_size_m is None else {"cell_size_m": cell_size_m}
    _start([dem], options, _flooding, settings, to)


def _start(
    paths: list[Path],
    options: DatasetOptions,
    spec_of: SpecOf,
    settings: list[str] | None,
    to: Path,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Import, submit, follow, download the main picture; exit code 1 unless it succeeded.

    ``tell`` says what is special of a job that succeeded.
    """
    with connect() as client:
        dataset = _imported(client, paths, options)
        spec = with_values(spec_of(client, dataset), settings or ())
        job = client.submit(spec, name=paths[0].resolve().name[:120])
        say(f"{job['id']} {job['kind']} on {dataset['name']}: {summary(dataset['counts'])}")
        job = follow(client, job)
        if job["status"] != "succeeded":
            report(client, job)
            raise typer.Exit(1)
        tell(job)
        picture = _main_picture(client, job)
        target = within(to / refs.short([job["id"]])[0], picture["name"])
        fetch(client, job["id"], picture, target)
        say(f"all files: sextant show {job['id']}")
        say(str(target.resolve()))


def _imported(client: Client, paths: list[Path], options: DatasetOptions) -> DatasetRead:
    """The dataset of these files: the one of an earlier call, else a new one."""
    name = _name_of(paths, options)
    try:
        there = client.dataset(name)
    except ApiError as error:
        if error.status != 404:
            raise
    else:
        if there["status"] == "ready":
            return there
    with bytes_bar() as bar:
        task = bar.add_task("uploading", total=None)
        return client.upload(
            name,
            paths,
            options=options,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _name_of(paths: list[Path], options: DatasetOptions) -> str:
    """Name of the file and a digest of contents and options: the same files are sent once."""
    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    for member in members_of(paths):
        digest.update(f"\0{member.name}\0".encode())
        if member.path is not None:
            with member.path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", paths[0].resolve().stem).strip("-")[:60]
    return f"{stem or 'data'}-{digest.hexdigest()[:12]}"


def _explaining(client: Client, dataset: DatasetRead) -> dict[str, Any]:
    example = client.kind("saliency.map")["example"]
    return example | {"images": [{"dataset": dataset["name"], "index": 0}]}


def _training(client: Client, dataset: DatasetRead) -> dict[str, Any]:
    check_classes(dataset)
    return on_images(client.kind("dynamic_downsampling.train")["presets"]["digits"], dataset)


def _net_of(client: Client, ref: str) -> dict[str, str]:
    """The trained net of a job, as a spec names it: all members of an ensemble, where it is one.

    Raises:
        ValueError: if there is no such job, or it left no net.
    """
    job_id = refs.job_id(client, ref)
    left = {each["name"] for each in client.artifacts(job_id)}
    name = next((each for each in NETS if each in left), None)
    if name is None:
        raise ValueError(
            f"{job_id} left neither {' nor '.join(NETS)}: name a training of a classifier that has"
            " succeeded, for example one of `sextant train FOLDER`"
        )
    return {"job": job_id, "artifact": name}


def _predicting(net: Mapping[str, str], dataset: DatasetRead) -> dict[str, Any]:
    return {
        "kind": "classify.predict",
        "model": dict(net),
        "data": {"dataset": dataset["name"]},
    }


def _tell_classes(job: dict[str, Any]) -> None:
    for each in job["result"]["predictions"]:
        say(one_line(f"{each['image']}: {each['class']} ({each['probability']:.0%})"))


def _flooding(client: Client, dataset: DatasetRead) -> dict[str, Any]:
    example = client.kind("terrain.simulate")["example"]
    # of a terrain that nobody has looked at: steep ground must not grow waves
    return example | {"terrain": {"dataset": dataset["name"]}, "solver": {"froude": 1.0}}


def check_classes(dataset: DatasetRead) -> None:
    """Refuse a set without labels, which has images alone.

    Raises:
        ValueError: with what to give in its place.
    """
    if not dataset["counts"].keys() >= {"train", "test", "classes"}:
        raise ValueError(
            "a classifier is trained, which needs images of two classes or more: give a folder "
            "with a folder for each class"
        )


def on_images(preset: dict[str, Any], dataset: DatasetRead) -> dict[str, Any]:
    """The preset of a training as a short run on some uploaded images of several classes."""
    counts = dataset["counts"]
    images: dict[str, Any] = {"augment": {"crop_padding": 4, "flip": True}}
    if counts["train"] > SUBSET:
        images["subset"] = SUBSET
    if (counts.get("height"), counts.get("width")) != (SIDE, SIDE):
        images["image_size"] = SIDE
        say(f"The images are resized to {SIDE} x {SIDE} pixels")
    return preset | {
        "data": {"dataset": dataset["name"]},
        "images": images,
        "epochs": EPOCHS_OF_IMAGES,
        # no more than are left when a tenth is held out for validation
        "batch_size": max(2, int(min(preset["batch_size"], 0.9 * counts["train"]))),
    }


def _main_picture(client: Client, job: dict[str, Any]) -> ArtifactRead:
    """The picture that the kind declares first.

    Raises:
        ValueError: if the job left none.
    """
    left = [each for each in client.artifacts(job["id"]) if each["role"] == "image"]
    for declared in client.kind(job["kind"])["artifacts"]:
        for each in left:
            if declared["role"] == "image" and fnmatch(each["name"], declared["name"]):
                return each
    raise ValueError(f"{job['id']} left no picture; `sextant show {job['id']}` lists its files")
