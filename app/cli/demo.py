"""``sextant demo``: real jobs over HTTP, from an empty folder to downloaded results."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Unpack

from rich.text import Text

from app.cli.follow import follow
from app.cli.jobs import bytes_bar, fetch
from app.cli.output import duration, say, size, summary, table
from app.cli.starts import check_classes, on_images
from app.local import up
from sextant_client import Client
from sextant_client.answers import DatasetRead
from sextant_client.packing import format_of, members_of
from sextant_client.requests import Resources

MARKER = ".sextant-demo"
DATASET = "demo-images"
DIGITS = {"dataset": "digits", "split": "test"}
EPOCHS = 8  # fewer than the preset's, so that the demo is short
SMALL = 16  # side in pixels, half of what the demo trains on
DIGITS_NOTE = """\
The digits are of 8 x 8 pixels, enlarged to 32: small images lose nothing, and the last arm is hard
to beat here. docs/results.md tells what cheap steps save and cost on photographs of 32 x 32."""
MAPPED = 4  # test images that get a saliency map
IMAGE_FORMATS = ("image_folder", "parquet", "npz", "idx")


class DemoError(Exception):
    """A step of the demo did not do what it should."""


def run(folder: Path, data: Path | None) -> bool:
    """Run the demo and print what it does; returns whether all of it worked.

    Args:
        folder: is made anew; a folder that is not from an earlier demo is refused.
        data: images to train on, or None for the built-in digits.

    Raises:
        ValueError: if ``folder`` or ``data`` is refused.
        StartError: if the service cannot start.
        ApiError: if the service refuses the images or the training on them. After each of these
            an earlier demo's folder is as it was.
    """
    folder = folder.resolve()
    paths = None if data is None else _images_of(data, folder)
    try:
        with ExitStack() as undo:
            _make_fresh(folder, undo)
            up.isolate(folder / "state")
            with up.running(say) as address, Client(address.url, address.key) as client:
                say(f"The service runs at {address.url}; everything goes into {folder}\n")
                dataset = None if paths is None else _import(client, paths)
                training = _training(client, dataset)
                client.dry_run(training)
                undo.pop_all()  # nothing can be refused any more: the earlier demo may go
                _remove_earlier(folder)
                _run_jobs(client, folder, training, dataset)
    except DemoError as error:
        say(f"\nThe demo failed: {error}")
        say(f"Logs are in {folder / 'state' / 'logs'}")
        return False
    say("\nEverything was stopped. To look at the jobs again:")
    say(f"  SEXTANT_STATE_DIR={folder / 'state'} sextant up")
    return True


def _images_of(data: Path, folder: Path) -> list[Path]:
    """The files to upload: of a folder with parquet of train and test those alone.

    Raises:
        ValueError: if there are no images, or if the demo would remove them.
    """
    if data.resolve().is_relative_to(folder):
        raise ValueError(f"{data} is in {folder}, which the demo makes anew; give another --output")
    parts = sorted(path for path in data.glob("*.parquet") if _words(path)) or [data]
    content = format_of(members_of(parts))
    if content not in IMAGE_FORMATS:
        raise ValueError(
            f"{data} holds {content}, no images; give a folder of images by class, parquet, npz "
            "or MNIST's idx-ubyte"
        )
    return parts


def _make_fresh(folder: Path, undo: ExitStack) -> None:
    """An empty folder; an earlier demo is set aside, and ``undo`` brings it back."""
    undo.callback(_bring_back, folder, _set_aside(folder))
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def _set_aside(folder: Path) -> Path | None:
    """Where an earlier demo is now.

    Raises:
        ValueError: if the folder is something else.
        StartError: if a service runs in it.
    """
    if not folder.exists():
        return None
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).is_file()):
        raise ValueError(f"{folder} is not from an earlier demo; give another with --output")
    if (folder / "state").is_dir():
        with up.only_one(folder / "state"):
            pass
    aside = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    return folder.rename(aside)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.earlier-"


def _bring_back(folder: Path, aside: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if aside is not None:
        aside.rename(folder)


def _remove_earlier(folder: Path) -> None:
    """Remove what was set aside, by a demo that was killed too."""
    for aside in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(aside)


def _run_jobs(
    client: Client, folder: Path, training: dict[str, Any], dataset: DatasetRead | None
) -> None:
    trained = _do(client, "1/4 train, with a plain net beside it", training, cpus=1)
    small = _do(client, f"2/4 train at {SMALL} px throughout", _small(training), cpus=1)
    cat = _do(client, "3/4 saliency of a photo of a cat", _cat_maps())
    own = _do(client, "4/4 saliency of the net just trained", _own_maps(trained["id"], dataset))
    say("\nDownloading, each file checked by its SHA-256")
    files = []
    jobs = {"1-train": trained, "2-small": small, "3-cat": cat, "4-own": own}
    for name, job in jobs.items():
        files += _download(client, job["id"], folder / name)
    _print_results(trained["result"], small["result"], files, dataset is None)


def _import(client: Client, paths: list[Path]) -> DatasetRead:
    with bytes_bar() as bar:
        task = bar.add_task("uploading images", total=None)
        dataset = client.upload(
            DATASET,
            paths,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    say(f"Imported {', '.join(map(str, paths))}: {summary(dataset['counts'])}")
    check_classes(dataset)
    return dataset


def _words(path: Path) -> set[str]:
    return {word for word in ("train", "test") if word in path.stem}


def _training(client: Client, dataset: DatasetRead | None) -> dict[str, Any]:
    """The preset for digits, in short; for other images a short run on some of them."""
    preset = client.kind("dynamic_downsampling.train")["presets"]["digits"]
    spec = preset | {"compare_baseline": True, "epochs": EPOCHS}
    if dataset is None:
        return spec
    return on_images(spec, dataset)


def _small(training: dict[str, Any]) -> dict[str, Any]:
    """The plain training on images of half the side: what cheap steps have to beat."""
    images = training["images"] | {"image_size": SMALL}
    plain = {"schedule": {"type": "off"}}
    return training | {"images": images, "downsample": plain, "compare_baseline": False}


def _cat_maps() -> dict[str, Any]:
    return {
        "kind": "saliency.map",
        "model": {"pretrained": "efficientnet_lite0"},
        "images": [{"dataset": "photos", "index": 0}],
        "methods": [
            {"id": "occlusion", "window": 32, "stride": 16},
            {"id": "rise", "masks": 400, "estimator": "slope", "sampling": "balanced"},
        ],
    }


def _own_maps(job_id: str, dataset: DatasetRead | None) -> dict[str, Any]:
    images, count = DIGITS, MAPPED
    if dataset is not None:
        images = {"dataset": dataset["name"], "split": "test"}
        count = int(min(MAPPED, dataset["counts"]["test"]))
    return {
        "kind": "saliency.map",
        "model": {"job": job_id, "artifact": "weights.safetensors"},
        "images": [{**images, "index": index} for index in range(count)],
        "methods": [
            {"id": "occlusion", "window": 8, "stride": 4},
            {"id": "rise", "masks": 1000, "grid": 4, "estimator": "slope"},
        ],
    }


def _do(
    client: Client, title: str, spec: dict[str, Any], **resources: Unpack[Resources]
) -> dict[str, Any]:
    job = follow(client, client.submit(spec, name=title, resources=resources), title)
    if job["status"] != "succeeded":
        error = job["error"] or {"code": job["status"], "message": "nobody asked for that"}
        raise DemoError(f"{title}: {error['code']}: {error['message']}")
    return job


def _download(client: Client, job_id: str, folder: Path) -> list[tuple[str, Path]]:
    """Every file of a job under ``folder``, with its role."""
    files = []
    for artifact in client.artifacts(job_id):
        target = folder / artifact["name"]
        fetch(client, job_id, artifact, target)
        if target.stat().st_size == 0:
            raise DemoError(f"{target} is empty")
        files.append((artifact["role"], target))
    trains = folder.name.startswith(("1", "2"))
    wanted = {"weights"} if trains else {"saliency_map", "image"}
    if missing := wanted - {role for role, _ in files}:
        raise DemoError(f"{folder.name} has no file of role {', '.join(sorted(missing))}")
    return files


def _print_results(
    result: dict[str, Any], small: dict[str, Any], files: list[tuple[str, Path]], digits: bool
) -> None:
    """The arms of both trainings beside each other, then all files."""
    say(Text("\nTraining with cheap steps, and plainly", "bold"))
    arms = [
        (title, f"{source[f'{arm}test_accuracy']:.1%}", duration(source[f"{arm}train_seconds"]))
        for title, source, arm in (
            ("some steps cheap", result, ""),
            ("plain", result, "baseline_"),
            ("plain, cut to equal time", result, "shorter_"),
            (f"plain, {SMALL} px throughout", small, ""),
        )
    ]
    table(("net", "test accuracy", "training"), arms)
    if digits:
        say(DIGITS_NOTE)
    points = 100 * result["accuracy_change"]
    say(f"time saved: {result['saving']:.1%}; change of accuracy: {points:+.1f} points")
    ratio = result["measured_ratio"]
    part = "too few to be measured" if ratio is None else f"{ratio:.2f} of a full one (medians)"
    say(f"time of a cheap step: {part}")
    say(Text("\nFiles", "bold"))
    rows = ((role, str(path), size(path.stat().st_size)) for role, path in files)
    table(("role", "file", "size"), rows)
