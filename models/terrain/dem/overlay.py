"""Fields on an even grid brought to the cells of a terrain: by area, or the nearest."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform
from scipy.sparse import csr_array

from models.core.errors import SpecError
from models.terrain.dem.places import bounds_of
from models.terrain.dem.rasters import ALIGNED, Elevation, horizontal

ROWS_AT_A_TIME = 256


class EvenGrid(NamedTuple):
    """Centres of the cells of a grid.

    Attributes:
        x: rising, in the unit of ``crs``.
        y: falling.
        crs: None: not known.
    """

    x: Float[np.ndarray, "nx"]
    y: Float[np.ndarray, "ny"]
    crs: Any

    @property
    def side(self) -> tuple[float, float]:
        """Width and height of a cell."""
        return float(self.x[1] - self.x[0]), float(self.y[0] - self.y[1])


class GridOverlay(NamedTuple):
    """How the cells of a terrain lie on a part of a grid.

    Attributes:
        rows: of the grid that the terrain needs.
        columns: likewise.
        down: share of each of these rows in each row of the terrain; None: the nearest is taken.
        along: of each of these columns in each column.
        nearest: of each cell of the terrain, the flat index in this part; None: shares are taken.
        words: one sentence about it.
    """

    rows: slice
    columns: slice
    down: Any
    along: Any
    nearest: Int[np.ndarray, "ny nx"] | None
    words: str

    def on_terrain(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "ny nx"]:
        """Values of the part on the cells of the terrain."""
        if self.nearest is not None:
            return values.reshape(-1)[self.nearest]
        return (self.along @ (self.down @ values).T).T

    def used(self, known: Bool[np.ndarray, "ny nx"]) -> Bool[np.ndarray, "rows columns"]:
        """Cells of the part on which a known cell of the terrain lies."""
        shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        if self.nearest is not None:
            count = np.bincount(self.nearest[known], minlength=shape[0] * shape[1])
            return count.reshape(shape) > 0
        touched = self.down.T @ known.astype(np.float64)
        return (self.along.T @ touched.T).T > 0


def overlay_of(fine: Elevation, grid: EvenGrid, field: str) -> GridOverlay:
    """The cells of a terrain on a grid.

    By area where both have one reference system, which loses no water; else each cell takes the
    value at its centre.

    Args:
        fine: the terrain.
        grid: the grid; without a reference system in the terrain's coordinates, for a terrain
            without any in m from its lower left corner.
        field: of the spec, for messages.

    Raises:
        SpecError: if the terrain is not covered, or the grid is finer and in another system.
    """
    t, apart = fine.transform, False
    if grid.crs is not None:
        if fine.crs is None:
            raise SpecError(
                f"{field}: it has a reference system and {fine.name} has none; give the terrain its"
                " own (gdal_translate -a_srs)"
            )
        apart = horizontal(grid.crs) != horizontal(fine.crs)
    if apart or t.b or t.d:
        return _nearest(fine, grid, field, apart=apart)
    ny, nx = fine.z.shape
    rows, down = _shares(-grid.y, -(t.f + t.e * np.arange(ny + 1)))
    columns, along = _shares(grid.x, t.c + t.a * np.arange(nx + 1))
    if rows is None or columns is None:
        raise _not_covered(fine, grid, field)
    where = "" if fine.georeferenced else ", its coordinates as m from the lower left corner"
    return GridOverlay(rows, columns, down, along, None, f"laid on the terrain by area{where}")


def _shares(centres: np.ndarray, edges: np.ndarray) -> tuple[slice | None, Any]:
    """Of each span between edges, which part of it each cell covers; None: not covered."""
    step = centres[1] - centres[0]
    at = (edges - centres[0]) / step + 0.5  # in cells of the grid
    slack = ALIGNED * (at[1] - at[0])
    if at[0] < -slack or at[-1] > len(centres) + slack:
        return None, None
    at = np.clip(at, 0, len(centres))
    first, last = int(at[0]), int(np.ceil(at[-1]))
    cuts = np.union1d(at, np.arange(first + 1, last))
    middle = (cuts[1:] + cuts[:-1]) / 2
    span = np.clip(np.searchsorted(at, middle) - 1, 0, len(at) - 2)
    share = np.diff(cuts) / np.diff(at)[span]
    cell = np.clip(middle.astype(np.int64), first, last - 1) - first
    return slice(first, last), csr_array((share, (span, cell)), (len(at) - 1, last - first))


def _nearest(fine: Elevation, grid: EvenGrid, field: str, *, apart: bool) -> GridOverlay:
    """The cell of the grid at the centre of each cell of the terrain."""
    (ny, nx), (width, height) = fine.z.shape, grid.side
    index = np.empty((2, ny, nx), np.int32)
    for top in range(0, ny, ROWS_AT_A_TIME):
        x, y = _centres(fine, top, min(top + ROWS_AT_A_TIME, ny))
        if apart:
            x, y = _moved(fine, grid, x, y, field)
        at = np.stack([(grid.y[0] - y) / height, (x - grid.x[0]) / width])
        if max(float(np.abs(np.diff(at, axis=k)).max(initial=0)) for k in (1, 2)) > 1 + ALIGNED:
            raise SpecError(
                f"{field}: its cells are smaller than the terrain's and in another reference"
                " system; bring it to the terrain's (gdalwarp -t_srs -r average)"
            )
        index[:, top : top + ROWS_AT_A_TIME] = np.floor(at + 0.5)
    known, most = index[:, ~fine.missing], np.array([[len(grid.y)], [len(grid.x)]])
    if (known < 0).any() or (known >= most).any():
        raise _not_covered(fine, grid, field)
    index = np.clip(index, 0, most[..., None] - 1)
    (top, left), (bottom, right) = known.min(1).tolist(), (known.max(1) + 1).tolist()
    row, column = (np.clip(index[0], top, bottom - 1) - top, np.clip(index[1], left, right - 1))
    flat = row * (right - left) + (column - left)
    words = "each cell of the terrain takes the value at its centre"
    return GridOverlay(slice(top, bottom), slice(left, right), None, None, flat, words)


def _centres(fine: Elevation, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    t, nx = fine.transform, fine.z.shape[1]
    row, column = np.meshgrid(np.arange(top, bottom) + 0.5, np.arange(nx) + 0.5, indexing="ij")
    return t.c + t.a * column + t.b * row, t.f + t.d * column + t.e * row


def _moved(
    fine: Elevation, grid: EvenGrid, x: np.ndarray, y: np.ndarray, field: str
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of a terrain in the reference system of a grid."""
    flat = x.reshape(-1).tolist(), y.reshape(-1).tolist()
    try:
        with warnings.catch_warnings(action="ignore"):
            moved = transform(horizontal(fine.crs), horizontal(grid.crs), *flat)
    except (CRSError, RasterioError) as error:
        raise SpecError(f"{field}: the terrain cannot be brought to its system: {error}") from error
    across, up = (np.array(one).reshape(x.shape) for one in moved[:2])
    if grid.crs.is_geographic:  # some count longitudes from 0 to 360
        across = np.where(across < grid.x[0] - grid.side[0], across + 360, across)
    return across, up


def _not_covered(fine: Elevation, grid: EvenGrid, field: str) -> SpecError:
    width, height = grid.side
    return SpecError(
        f"{field}: it reaches from x {grid.x[0] - width / 2:.9g} to {grid.x[-1] + width / 2:.9g}, y"
        f" {grid.y[-1] - height / 2:.9g} to {grid.y[0] + height / 2:.9g} and does not cover"
        f" {fine.name}, {bounds_of(fine)}; give one that does, or cut the terrain by area"
    )
