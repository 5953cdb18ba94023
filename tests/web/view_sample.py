"""Jobs with files for the viewers, and the views that say how to show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine

from app.services import artifacts
from models.terrain.dem.rasters import PROFILE
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


ORIGIN = Affine(5.0, 0, 382_000, 0, -5.0, 6_355_000)


def put_raster(run, folder: Path, name: str, values: np.ndarray, cells: int = 1) -> None:
    """A GeoTIFF as terrain jobs write them."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    where = {"crs": "EPSG:28356", "transform": ORIGIN @ Affine.scale(cells), "nodata": -9999.0}
    rows, columns = values.shape
    with rasterio.open(path, "w", **PROFILE, height=rows, width=columns, **where) as file:
        file.write(values.astype(np.float32), 1)
    assert artifacts.store(run, path, "raster", name)


def terrain_job(folder: Path) -> str:
    """A valley of 40 x 60 cells with two depths over time, a coarse terrain and a gauge."""
    run = start_run(name="a valley", kind="terrain.simulate", method="terrain")
    row, column = np.mgrid[0:40, 0:60]
    z = 10 + np.abs(row - 20) * 0.5 + 2 * np.sin(column / 9)
    z[:4, :6] = -9999  # a void
    put_raster(run, folder, "ground.tif", z)
    put_raster(run, folder, "coarse.tif", np.full((5, 8), 15.0), 8)
    frames = []
    for time_s, rise in ((600, 1.0), (1200, 2.0)):
        name = f"depth/t{time_s:08d}.tif"
        put_raster(run, folder, name, np.maximum(rise - np.abs(row - 20) * 0.25, 0))
        frames.append({"file": name, "time_s": time_s})
    table = b"time_s,mouth stage_m,mouth depth_m\n0,10,0\n600,11,1\n1200,12,2\n"
    put(run, folder, "gauges.csv", "table", table)
    common = {"unit": "m", "low": 0, "high": 2, "cells": 1}
    heights = common | {"style": "heights", "low": 8, "high": 22}
    layers = [
        common | {"title": "depth", "style": "water", "frames": frames},
        heights | {"title": "fine", "frames": [{"file": "ground.tif", "time_s": None}]},
        heights
        | {"title": "coarse", "cells": 8, "frames": [{"file": "coarse.tif", "time_s": None}]},
    ]
    contents = {
        "ground": {"file": "ground.tif", "shape": [40, 60], "cell_m": 5.0},
        "axes": ["easting (m)", "northing (m)"],
        "transform": [5.0, -5.0, 382_000, 6_355_000],
        "least_water_m": 0.02,
        "layers": layers,
        "shown": ["depth", None],
        "gauges": [{"name": "mouth", "cell": [20, 30]}],
    }
    leave_view(run, folder, "rasters", contents)
    end(run, exit_code=0, result={"deepest_m": 2.0})
    return run.job_id


def generator_job(folder: Path) -> str:
    """A job of a generator: 20 grey samples that grow lighter, two ways between three pairs."""
    run = start_run(name="digits", kind="lcw.sample", method="lcw")
    shape = [6, 8, 1]
    samples = np.repeat(np.arange(20, dtype=np.uint8) * 12, 48)
    way = np.tile(np.repeat(np.arange(5, dtype=np.uint8) * 50, 48), 3)
    put(run, folder, "view.npz", "samples", b"head" + samples.tobytes() + 2 * way.tobytes())
    grid = {"title": "Samples, not selected", "count": 20, "offset": 4, "beside": 4}
    grid |= {"beside_title": "nearest training image", "distances": [0.25] * 20}
    first = 4 + samples.size
    strips = [
        {"title": title, "offset": offset, "pairs": 3, "steps": 5}
        for title, offset in (("linear", first), ("spherical", first + way.size))
    ]
    contents = {"file": "view.npz", "shape": shape, "grid": grid, "strips": strips}
    leave_view(run, folder, "images", contents)
    end(run, exit_code=0, result={"count": 20})
    return run.job_id


def ensemble_job(folder: Path) -> str:
    """A job of two tickets and their ensemble, with two test images that they differ on."""
    run = start_run(name="tickets", kind="freetickets.train", method="freetickets")
    put(run, folder, "view.npz", "samples", bytes(range(2 * 4 * 4)))
    figures = [
        {"accuracy": accuracy, "nll": 0.2, "brier": 0.1, "ece": 0.03}
        for accuracy in (0.9, 0.94, 0.97)
    ]
    bins = {"counts": [10, 90], "confidence": [0.6, 0.95], "accuracy": [0.5, 0.97]}
    votes = [["three", 0.6], ["eight", 0.7], ["three", 0.55]]
    rows = [
        {"index": index, "class": "three", "apart_nats": 0.2, "votes": votes} for index in (4, 9)
    ]
    matrix = {"unit": "share of test images", "values": [[0, 0.08], [0.08, 0]]}
    contents = {
        "members": ["ticket 0", "ticket 1"],
        "together": "ensemble",
        "images": 100,
        "figures": figures,
        "calibration": [bins] * 3,
        "matrices": [
            {"title": "predictions that differ"} | matrix,
            {"title": "masks in common"} | matrix,
        ],
        "disputed": {"file": "view.npz", "offset": 0, "shape": [4, 4, 1], "rows": rows},
    }
    leave_view(run, folder, "members", contents)
    end(run, exit_code=0, result={"ensemble_accuracy": 0.97})
    return run.job_id
