"""The terrain under a picture: its part, its resolution, its coordinates."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from jaxtyping import Bool, Float
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window

from models.data.elevation import length_unit
from models.terrain.dem.rasters import Elevation

LONGEST = 1024  # cells of a picture's longer side; a panel has about 360 pixels
MARGIN, LEAST_CELLS = 0.15, 24  # around the wet part
WHOLE_SHARE = 0.6  # a wet part larger than this is drawn with all of the terrain


class View(NamedTuple):
    """Rows and columns of a terrain, from the first to before the last."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def reduced(self, longest: int) -> tuple[int, int]:
        """Rows and columns when the longer side has at most ``longest``."""
        scale = min(1.0, longest / max(self.shape))
        return max(1, round(self.shape[0] * scale)), max(1, round(self.shape[1] * scale))


class BaseMap(NamedTuple):
    """The terrain under the panels.

    Attributes:
        z: heights in m [ny, nx].
        dx: side of a cell in m.
        missing: nodata cells.
        transform: from (column, row) to coordinates; None: metres from the upper left corner.
        crs: of the coordinates; None: not known.
        part: of ``z`` that is drawn; None: all.
    """

    z: np.ndarray
    dx: float
    missing: np.ndarray
    transform: Affine | None = None
    crs: Any = None
    part: View | None = None

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of all of it in its coordinates."""
        ny, nx = self.z.shape
        t = self._upright
        return t.c, t.c + nx * t.a, t.f + ny * t.e, t.f

    @property
    def shown(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the part that is drawn."""
        ny, nx = self.z.shape
        part, t = self.part or View(0, ny, 0, nx), self._upright
        return (
            t.c + part.left * t.a, t.c + part.right * t.a,
            t.f + part.bottom * t.e, t.f + part.top * t.e,
        )  # fmt: skip

    @property
    def _upright(self) -> Affine:
        return from_corner(self.dx) if self.transform is None else self.transform

    @property
    def aspect(self) -> float:
        """Height over width that a unit of the coordinates is drawn with: cells are square."""
        return abs(self._upright.a / self._upright.e)

    @property
    def north_up(self) -> bool:
        """Whether the upper edge is known to face north."""
        return self._upright.e < 0 and self.crs is not None

    @property
    def per_metre(self) -> float:
        """Units of the coordinates along x in a metre."""
        return abs(self._upright.a) / self.dx

    @property
    def axis_names(self) -> tuple[str, str]:
        """What the coordinates are."""
        if self._upright.e > 0:
            return "x from the left edge (m)", "y from the upper edge (m)"
        if self.crs is None:
            return "x (m)", "y (m)"
        if self.crs.is_geographic:
            return "longitude (°)", "latitude (°)"
        unit = length_unit(self.crs)[0]
        return f"easting ({unit})", f"northing ({unit})"

    def known(self, values: Float[np.ndarray, "nyc nxc"]) -> Float[np.ndarray, "nyc nxc"]:
        """A field on fine or coarse cells, NaN where all fine cells are nodata."""
        ny, nx = values.shape
        f = self.missing.shape[0] // ny
        nowhere = self.missing[: ny * f, : nx * f].reshape(ny, f, nx, f).all((1, 3))
        return np.where(nowhere, np.nan, values)


def from_corner(dx: float) -> Affine:
    """From (column, row) to metres from the left and the upper edge, as the water of a spec."""
    return Affine(dx, 0, 0, 0, dx, 0)


def coordinates(ground: Elevation) -> Affine:
    """The terrain's transform; from its corner where it has none or follows no axis."""
    t = ground.transform
    return t if ground.georeferenced and not (t.b or t.d) else from_corner(ground.dx)


def wet_part(wet: Bool[np.ndarray, "ny nx"], multiple: int = 1) -> View:
    """The part around all wet cells, in cells times ``multiple``; all where that is most of it."""
    ny, nx = wet.shape
    rows, columns = np.flatnonzero(wet.any(1)), np.flatnonzero(wet.any(0))
    whole = View(0, ny * multiple, 0, nx * multiple)
    if len(rows) == 0:
        return whole
    margin = math.ceil(MARGIN * max(np.ptp(rows), np.ptp(columns)) + LEAST_CELLS / 2 / multiple)
    top, bottom = max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, ny)
    left, right = max(int(columns[0]) - margin, 0), min(int(columns[-1]) + 1 + margin, nx)
    if (bottom - top) * (right - left) > WHOLE_SHARE * ny * nx:
        return whole
    return View(*(k * multiple for k in (top, bottom, left, right)))


def base_map(ground: Elevation, part: View, longest: int = LONGEST) -> BaseMap:
    """A part of a terrain; of a large one a sample of its rows and columns."""
    ny, nx = part.reduced(longest)
    rows = part.top + np.arange(ny) * part.shape[0] // ny
    columns = part.left + np.arange(nx) * part.shape[1] // nx
    cells = np.ix_(rows, columns)
    high, wide = part.shape[0] / ny, part.shape[1] / nx
    moved = coordinates(ground) @ Affine.translation(part.left, part.top)
    transform = moved @ Affine.scale(wide, high)
    return BaseMap(ground.z[cells], ground.dx * wide, ground.missing[cells], transform, ground.crs)


def sample_part(
    values: Float[np.ndarray, "ny nx"], part: View, longest: int = LONGEST
) -> Float[np.ndarray, "_ny _nx"]:
    """A part of a field; of a large one a sample of its rows and columns, as of its base map."""
    ny, nx = part.reduced(longest)
    rows = part.top + np.arange(ny) * part.shape[0] // ny
    columns = part.left + np.arange(nx) * part.shape[1] // nx
    return values[np.ix_(rows, columns)]


class Frames:
    """The same part of several rasters, read when it is asked for.

    Args:
        paths: of the rasters.
        part: to read.
        longest: rows or columns of what is read.
    """

    def __init__(self, paths: list[Path], part: View, longest: int) -> None:
        self._wanted = paths, part, longest

    def __iter__(self) -> Iterator[np.ndarray]:
        paths, part, longest = self._wanted
        return (read_part(path, part, longest) for path in paths)


def read_part(path: Path, part: View, longest: int = LONGEST) -> Float[np.ndarray, "ny nx"]:
    """A part of a raster that a job wrote, reduced as :func:`base_map` does; NaN is nodata."""
    window = Window.from_slices((part.top, part.bottom), (part.left, part.right))
    with rasterio.open(path) as raster:
        band = raster.read(
            1, window=window, out_shape=part.reduced(longest), masked=True,
            resampling=Resampling.average,
        )  # fmt: skip
    return band.filled(np.nan)
