"""What the page's viewer of rasters shows: the ground, layers on it over time, gauges."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from models.core.run import Run
from models.terrain.dem import rasters
from models.terrain.dem.elevations import Elevation
from models.terrain.figures import maps
from models.terrain.figures.floods import SHOWN_M
from models.terrain.solver.gauges import Station

GROUND = "ground.tif"
HEIGHT = rasters.BandInfo("height of the ground", "m")


class ViewLayer(NamedTuple):
    """Rasters of one meaning, one or over time.

    Attributes:
        title: of the layer.
        unit: of its values.
        style: ``heights``, ``water`` (nothing below ``SHOWN_M``) or ``measure``; layers of one
            style and unit share one scale.
        frames: artifact and time in s of each; the time is None where there is a single one.
        high: greatest value.
        low: least value.
        cells: side of a cell in cells of the ground.
    """

    title: str
    unit: str
    style: str
    frames: Sequence[tuple[str, float | None]]
    high: float
    low: float = 0.0
    cells: int = 1


def heights(title: str, file: str, z: np.ndarray, cells: int = 1) -> ViewLayer:
    """A layer of heights in m."""
    return ViewLayer(title, "m", "heights", [(file, None)], float(z.max()), float(z.min()), cells)


def measure(title: str, unit: str, file: str, values: np.ndarray) -> ViewLayer:
    """A layer of anything that is 0 or more, such as speeds or times; infinity is no value."""
    greatest = float(values[np.isfinite(values)].max(initial=0))
    return ViewLayer(title, unit, "measure", [(file, None)], greatest)


def write(
    run: Run,
    ground: Elevation,
    layers: Sequence[ViewLayer],
    shown: tuple[str, str | None],
    stations: Sequence[Station] = (),
) -> None:
    """Leave the ground and the view.

    Args:
        run: gets the artifacts.
        ground: the terrain under the layers, the finest there is.
        layers: what can be chosen.
        shown: titles of the layers on the left and on the right at first; None: no layer.
        stations: gauges, whose readings are in ``gauges.csv``.
    """
    rasters.write(run.dir / GROUND, ground.z, ground, HEIGHT)
    run.artifact(GROUND, role="raster")
    base = maps.BaseMap(ground.z, ground.dx, ground.missing, maps.coordinates(ground), ground.crs)
    transform = base.transform or maps.from_corner(ground.dx)
    contents: dict[str, Any] = {
        "ground": {"file": GROUND, "shape": list(ground.z.shape), "cell_m": ground.dx},
        "axes": list(base.axis_names),
        "transform": [transform.a, transform.e, transform.c, transform.f],
        "least_water_m": SHOWN_M,
        "layers": [_described(layer) for layer in layers],
        "shown": list(shown),
        "gauges": [{"name": each.name, "cell": each.cell} for each in stations],
    }
    run.view("rasters", contents)


def _described(layer: ViewLayer) -> dict[str, Any]:
    frames = [{"file": file, "time_s": time_s} for file, time_s in layer.frames]
    high = layer.high if layer.high > layer.low else layer.low + 1  # level ground has a scale too
    return layer._asdict() | {"frames": frames, "high": high}
