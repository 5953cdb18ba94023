"""Pictures of the page with jobs that were really run.

    python -m tests.bench.gallery STATE [KIND ...]      # default: the kinds of docs/web.md

Runs the catalogue's example of each kind in a service over the folder STATE, unless a job of the
kind has succeeded there before, and photographs the jobs, their viewers and the list into
``docs/gallery``.
"""

import tests.conftest  # noqa: F401  # before models

# isort: split
import re
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from app.local import up
from models.catalog import kinds
from sextant_client import Client
from tests.web.conftest import Look, chromium, photograph

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
KINDS = (
    "dynamic_downsampling.train",
    "saliency.evaluate",
    "terrain.simulate",
    "terrain.downsample",
)
LOOK = Look(1280, "light")
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


def shown(page: Any, address: str, name: str) -> None:
    """One page, once its curves and pictures are there."""
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    photograph(page, name, LOOK, GALLERY)
    print(name, flush=True)


def main() -> None:
    """Run what was not run yet, then take all pictures."""
    state, *asked = sys.argv[1:]
    up.isolate(Path(state).resolve())
    with up.running(print) as address, Client(address.url, address.key) as client:
        jobs = {kind: finished(client, kind) for kind in asked or KINDS}
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page(base_url=address.url)
            page.set_default_timeout(PATIENCE_MS)
            LOOK.apply(page)
            page.goto("/login")
            page.get_by_label("Key").fill(str(address.key))
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url("**/")
            shown(page, "/", "real_jobs")
            for kind, job in jobs.items():
                stem = re.sub(r"\W", "_", kind)
                shown(page, f"/jobs/{job}", f"real_{stem}")
                if page.locator(f'a[href="/jobs/{job}/view"]').count():
                    shown(page, f"/jobs/{job}/view", f"view_{stem}")
            browser.close()


if __name__ == "__main__":
    main()
