"""What terrain jobs leave for the page's viewer of rasters."""

import json

import numpy as np
import pytest
import rasterio
from pydantic import TypeAdapter

from models.catalog import JobSpec
from models.stored import load_entry

TERRAIN = {"synthetic": {"rows": 40, "columns": 56, "cell_size_m": 5.0}}


@pytest.fixture
def view_of(new_run):
    """Run a spec; gives the folder and its view."""

    def view_of(**fields):
        run = new_run()
        spec = TypeAdapter(JobSpec).validate_python({"terrain": TERRAIN, **fields})
        load_entry(spec)(spec, run)
        return run.dir, json.loads((run.dir / "view.json").read_text())

    return view_of


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(1)


@pytest.mark.slow
def test_a_flood_is_shown_over_time_with_its_gauges(view_of):
    gauges = [
        {"name": "mouth", "x_m": 100.0, "y_m": 60.0},
        {"name": "bar", "line_m": [[20, 0], [20, 190]]},
    ]
    folder, seen = view_of(kind="terrain.simulate", duration_s=60.0, outputs=3, gauges=gauges)
    assert seen["shown"] == ["depth", None]
    depth, greatest = seen["layers"][:2]
    assert [frame["time_s"] for frame in depth["frames"]] == [20, 40, 60]
    assert depth["high"] == greatest["high"] > 0
    for layer in seen["layers"]:
        for frame in layer["frames"]:
            assert read(folder / frame["file"]).shape == (40, 56)
    assert read(folder / seen["ground"]["file"]).shape == tuple(seen["ground"]["shape"])
    assert seen["gauges"] == [{"name": "mouth", "cell": [12, 20]}, {"name": "bar", "cell": None}]
    assert seen["transform"] == [5, 5, 0, 0]  # no coordinates: from the upper left corner
    assert (folder / "gauges.csv").read_text().startswith("time_s,mouth stage_m,")


def test_coarse_lies_beside_fine_on_one_scale(view_of):
    folder, seen = view_of(kind="terrain.downsample", factor=16, method="max")
    fine, coarse = seen["layers"]
    assert seen["shown"] == ["fine", "coarse"]
    assert (fine["cells"], coarse["cells"]) == (1, 16)
    values = read(folder / coarse["frames"][0]["file"])
    assert values.shape == (3, 4)  # padded: its edges reach beyond the ground's
    np.testing.assert_allclose([coarse["low"], coarse["high"]], [values.min(), values.max()])


def test_floods_of_coarse_terrains_lie_beside_that_of_the_fine_one(view_of):
    folder, seen = view_of(
        kind="terrain.compare", factor=8, duration_s=60.0, methods=["mean", "max"]
    )
    assert seen["shown"] == ["depth, fine pooled", "depth, mean"]
    depths = [layer for layer in seen["layers"] if layer["style"] == "water"]
    assert len(depths) == 3
    assert len({layer["high"] for layer in depths}) == 1
    truth, mean = (read(folder / layer["frames"][0]["file"]) for layer in depths[:2])
    report = json.loads((folder / "report.json").read_text())
    assert np.abs(mean - truth).mean() == pytest.approx(report["methods"][0]["mae_m"], rel=1e-3)
