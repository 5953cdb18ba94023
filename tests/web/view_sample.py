"""Jobs with files for the viewers, and the views that say how to show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from app.services import artifacts
from tests.app.factories import start_run, write
from tests.web.sample import end, png, put

SIDE = 24
CLASSES = [{"class": 3, "name": "tabby", "score": 0.75}, {"class": 7, "name": "fox", "score": 0.2}]
METHODS = {
    "occlusion": {
        "described": "occlusion (window 8)",
        "quantity": "fall of probability when covered",
        "signed": True,
        "open": False,
    },
    "edge": {
        "described": "edge",
        "quantity": "control, arbitrary units",
        "signed": False,
        "open": False,
    },
}
CELLS = (("occlusion", "black", 0.5), ("occlusion", "blur", 0.25), ("edge", "none", 1.0))
SHARES = [0, 0.25, 0.5, 0.75, 1]


def leave_view(run, folder: Path, viewer: str, contents: dict[str, Any]) -> None:
    """The view of a run."""
    path = write(folder / "view.json", json.dumps(contents).encode())
    assert artifacts.store(run, path, "view", "view.json", metadata={"viewer": viewer})


def slope(height: float) -> np.ndarray:
    """A map [24, 24] that rises to ``height`` from left to right, a row like every other."""
    return np.tile(np.linspace(0, height, SIDE, dtype="<f4"), (SIDE, 1))


def maps_job(folder: Path) -> str:
    """A job with the maps of two methods and two classes, all in one file, and their curves."""
    run = start_run(name="a cat", kind="saliency.evaluate", method="saliency")
    content, maps = b"", []
    for each in CLASSES:
        for method, baseline, height in CELLS:
            curves = {
                "deletion": [SHARES, [each["score"], 0.4, 0.2, 0.1, 0.05]],
                "insertion": [SHARES, [0.05, 0.1, 0.4, 0.6, each["score"]]],
            }
            maps.append(
                {
                    "class": each["class"],
                    "method": method,
                    "baseline": baseline,
                    "seed": 0,
                    "file": "maps.npz",
                    "offset": len(content),
                    "shape": [SIDE, SIDE],
                    "low": -height,
                    "high": height,
                    "curves": curves,
                    "grades": {"deletion": 0.31 * height, "insertion": 0.52},
                }
            )
            content += slope(height).tobytes()
    put(run, folder, "maps.npz", "table", content)
    put(run, folder, "image.png", "image", png(SIDE, SIDE))
    image = {"name": "000-photos-0", "picture": "image.png", "classes": CLASSES, "maps": maps}
    contents = {
        "score": "probability",
        "of": 3,
        "orders": {"deletion": "most", "insertion": "restored"},
        "methods": METHODS,
        "images": [image],
    }
    leave_view(run, folder, "maps", contents)
    end(run, exit_code=0, result={"maps": len(maps)})
    return run.job_id
