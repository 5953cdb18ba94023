"""``sextant demo``: real jobs over HTTP, from an empty folder to downloaded results."""

import shutil
from pathlib import Path
from typing import Any

from rich.text import Text

from app.cli.follow import follow
from app.cli.jobs import bytes_bar, fetch
from app.cli.output import duration, say, size, table
from app.local import up
from sextant_client import Client

MARKER = ".sextant-demo"
DATASET = "demo-images"
DIGITS = {"dataset": "digits", "split": "test"}
EPOCHS = 12  # fewer than the preset's, so that the demo is short
EPOCHS_OF_IMAGES = 3


class DemoError(Exception):
    """A step of the demo did not do what it should."""


def run(folder: Path, data: Path | None) -> bool:
    """Run the demo and print what it does; returns whether all of it worked.

    Args:
        folder: is made anew; a folder that is not from an earlier demo is refused.
        data: images to train on, or None for the built-in digits.
    """
    _make_fresh(folder)
    up.isolate(folder.resolve() / "state")
    try:
        with up.running(say) as address, Client(address.url, address.key) as client:
            say(f"The service runs at {address.url}; everything goes into {folder.resolve()}\n")
            _run_jobs(client, folder, data)
    except DemoError as error:
        say(f"\nThe demo failed: {error}")
        say(f"Logs are in {folder.resolve() / 'state' / 'logs'}")
        return False
    say("\nEverything was stopped. To look at the jobs again:")
    say(f"  SEXTANT_STATE_DIR={folder / 'state'} sextant up")
    return True


def _make_fresh(folder: Path) -> None:
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise ValueError(f"{folder} is not from an earlier demo; give another with --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def _run_jobs(client: Client, folder: Path, data: Path | None) -> None:
    images = DIGITS if data is None else _import(client, data)
    trained = _do(
        client, "1/3 train, with a plain net beside it", _training(client, images), cpus=1
    )
    cat = _do(client, "2/3 saliency of a photo of a cat", _cat_maps())
    own = _do(client, "3/3 saliency of the net just trained", _own_maps(trained["id"], images))
    say("\nDownloading, each file checked by its SHA-256")
    files = []
    for name, job in (("1-train", trained), ("2-cat", cat), ("3-own", own)):
        files += _download(client, job["id"], folder / name)
    _print_results(trained["result"], files)


def _import(client: Client, data: Path) -> dict[str, Any]:
    parts = sorted(path for path in data.glob("*.parquet") if {"train", "test"} & _words(path))
    with bytes_bar() as bar:
        task = bar.add_task("uploading images", total=None)
        dataset = client.upload(
            DATASET,
            parts or [data],
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    say(f"Imported {dataset['counts']['train']} training images from {data}")
    return {"dataset": DATASET, "split": "test"}


def _words(path: Path) -> set[str]:
    return {word for word in ("train", "test") if word in path.stem}


def _training(client: Client, images: dict[str, Any]) -> dict[str, Any]:
    """The preset for digits, in short; for other images a short run on some of them."""
    preset = client.kind("dynamic_downsampling.train")["presets"]["digits"]
    spec = preset | {"compare_baseline": True, "epochs": EPOCHS}
    if images is DIGITS:
        return spec
    return spec | {
        "data": {"dataset": images["dataset"]},
        "images": {"subset": 5000, "augment": {"crop_padding": 4, "flip": True}},
        "epochs": EPOCHS_OF_IMAGES,
    }


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


def _own_maps(job_id: str, images: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "saliency.map",
        "model": {"job": job_id, "artifact": "weights.safetensors"},
        "images": [{**images, "index": index} for index in range(4)],
        "methods": [
            {"id": "occlusion", "window": 8, "stride": 4},
            {"id": "rise", "masks": 1000, "grid": 4, "estimator": "slope"},
        ],
    }


def _do(client: Client, title: str, spec: dict[str, Any], **resources: int) -> dict[str, Any]:
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
    wanted = {"weights"} if folder.name.startswith("1") else {"saliency_map", "image"}
    if missing := wanted - {role for role, _ in files}:
        raise DemoError(f"{folder.name} has no file of role {', '.join(sorted(missing))}")
    return files


def _print_results(result: dict[str, Any], files: list[tuple[str, Path]]) -> None:
    say(Text("\nTraining with cheap steps, and plainly", "bold"))
    arms = [
        (title, f"{result[f'{arm}test_accuracy']:.1%}", duration(result[f"{arm}train_seconds"]))
        for title, arm in (
            ("some steps cheap", ""),
            ("plain", "baseline_"),
            ("plain, cut to equal time", "shorter_"),
        )
    ]
    table(("net", "test accuracy", "training"), arms)
    say(f"time saved: {result['saving']:.1%}; change of accuracy: {result['accuracy_change']:+.1%}")
    ratio = result["measured_ratio"]
    say(f"a cheap step took {ratio:.2f} of the time of a full one (medians)")
    say(Text("\nFiles", "bold"))
    rows = ((role, str(path), size(path.stat().st_size)) for role, path in files)
    table(("role", "file", "size"), rows)
