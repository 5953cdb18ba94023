"""Pictures of the page with jobs that were really run.

    python -m tests.bench.gallery STATE [KIND ...]      # default: the kinds of docs/web.md

Runs the catalogue's example of each kind in a service over the folder STATE, unless a job of the
kind has succeeded there before, and a training with another schedule to compare with; imports a
folder of photographs; makes a sweep of two short trainings; registers two versions of a model.
Photographs every page of the service into ``docs/gallery``.
"""

import tests.conftest  # noqa: F401  # before models

# isort: split
import re
import sys
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image
from playwright.sync_api import sync_playwright

from app.local import up
from models.catalog import kinds
from sextant_client import Client
from sextant_client.requests import SweepCreate, SweepJob
from tests.web.conftest import Look, chromium, photograph

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
KINDS = (
    "dynamic_downsampling.train",
    "saliency.evaluate",
    "terrain.simulate",
    "terrain.downsample",
    "lcw.train",
    "freetickets.train",
)
TRAINING = KINDS[0]
OTHER = "every second step cheap"
PHOTOGRAPHS = "photographs"
MODEL = "digits"
LOOK, DARK = Look(1280, "light"), Look(1280, "dark")
PATIENCE_MS = 120_000  # on a loaded machine
SETTLED_MS = 5000


def finished(client: Client, kind: str) -> str:
    """The id of a job of the kind that has succeeded, made where there is none."""
    for job in client.jobs(kind=kind, status="succeeded", limit=1):
        return str(job["id"])
    name = f"example of {kind}"
    job = client.wait(client.submit(dict(kinds()[kind].example), name=name)["id"])
    assert job["status"] == "succeeded", f"{kind}: {job['error']}"
    return str(job["id"])


def trained_otherwise(client: Client, first: str) -> str:
    """The id of the training of another job with the default of the schedule."""
    for job in client.jobs(kind=TRAINING, status="succeeded"):
        if job["name"] == OTHER:
            return str(job["id"])
    spec = dict(client.get(first)["spec"]) | {"downsample": {}}
    job = client.wait(client.submit(spec, name=OTHER)["id"])
    assert job["status"] == "succeeded", job["error"]
    return str(job["id"])


def import_photographs(client: Client, folder: Path) -> None:
    """A dataset of the photographs that scikit-image carries, as PNG files of a folder a class."""
    if any(dataset["name"] == PHOTOGRAPHS for dataset in client.datasets()):
        return
    for name in ("astronaut", "coffee", "chelsea"):
        of_class = folder / ("animal" if name == "chelsea" else "other")
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(getattr(skimage.data, name)()).save(of_class / f"{name}.png")
    client.upload(PHOTOGRAPHS, [folder])


def swept(client: Client) -> str:
    """The id of a sweep over the learning rate that has ended, made where there is none."""
    for sweep in client.sweeps(limit=1):
        return str(sweep["id"])
    job: SweepJob = {"spec": dict(kinds()[TRAINING].example) | {"epochs": 3}}
    request: SweepCreate = {
        "name": "learning rates",
        "job": job,
        "parameters": {"optimizer.lr": {"values": [0.02, 0.1]}},
        "objective": {"metric": "validation_accuracy"},
    }
    return str(client.wait_sweep(client.sweep(request)["id"])["id"])


def register(client: Client, first: str, second: str) -> None:
    """A model of two versions, the newer one still to be tried, where there is none."""
    if any(model["name"] == MODEL for model in client.models()):
        return
    for job_id, alias in ((first, "production"), (second, "candidate")):
        accuracy = client.get(job_id).result["test_accuracy"]
        about = f"{accuracy:.1%} of the test images"
        client.register(MODEL, job_id, aliases=[alias], description=about)


def shown(page: Any, address: str, name: str, look: Look = LOOK) -> None:
    """One page, once its curves and pictures are there."""
    look.apply(page)
    page.goto(address)
    if address == "/docs":  # draws itself long after it has loaded
        page.locator(".opblock").first.wait_for()
    page.wait_for_timeout(SETTLED_MS)
    photograph(page, name, look, GALLERY)
    print(name, flush=True)


def main() -> None:
    """Run what was not run yet, then take all pictures."""
    state, *asked = sys.argv[1:]
    up.isolate(Path(state).resolve())
    with up.running(print) as address, Client(address.url, address.key) as client:
        jobs = {kind: finished(client, kind) for kind in asked or KINDS}
        sweep = swept(client)
        import_photographs(client, Path(state).resolve() / "photographs")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page(base_url=address.url)
            page.set_default_timeout(PATIENCE_MS)
            shown(page, "/login", "login")
            page.get_by_label("Key").fill(str(address.key))
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url("**/")
            shown(page, f"/new?kind={TRAINING}&preset=digits", "new")
            shown(page, "/new", "kinds")
            shown(page, "/datasets", "datasets")
            shown(page, "/workers", "workers")
            shown(page, "/webhooks", "webhooks")
            shown(page, "/sweeps", "sweeps")
            shown(page, f"/sweeps/{sweep}", "sweep")
            shown(page, "/docs", "api_docs")
            for kind, job in jobs.items():
                stem = re.sub(r"\W", "_", kind)
                page.goto(f"/jobs/{job}")
                viewer = page.locator(f'a[href="/jobs/{job}/view"]').count()
                if kind == TRAINING:
                    shown(page, f"/jobs/{job}", f"job_{stem}")
                if viewer:
                    shown(page, f"/jobs/{job}/view", f"view_{stem}")
            shown(page, "/", "jobs")
            pair = (jobs[TRAINING], trained_otherwise(client, jobs[TRAINING]))
            ids = ",".join(x.removeprefix("job_") for x in pair)
            shown(page, f"/compare?jobs={ids}", "compare", DARK)
            register(client, *pair)
            shown(page, "/models", "models")
            shown(page, f"/models/{MODEL}", "model")
            browser.close()


if __name__ == "__main__":
    main()
