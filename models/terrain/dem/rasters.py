"""Reads terrains and writes rasters: heights in metres with their georeference."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from jaxtyping import Bool, Float, Shaped
from rasterio import Affine
from scipy.ndimage import distance_transform_edt

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import elevation, heights
from models.data.samples import heights_of
from models.terrain.dem import subgrid_file
from models.terrain.dem.elevations import NODATA, Elevation
from models.terrain.dem.synthetic import generate
from models.terrain.spec.terrains import (
    SUBGRID_FILE,
    Area,
    ArtifactTerrain,
    DatasetTerrain,
    Map,
    SyntheticTerrain,
    Terrain,
)

ALIGNED = 0.01  # cells by which the corners of a map may be off the terrain's
JACKSBORO_CELL_M = 83.0  # square root of its cells' area
MAPS = {"manning": (1e-3, 1.0), "rain": (0.0, 100.0)}  # least and greatest value
# cloud-optimised: tiles and overviews, so that a viewer reads what it shows; level 1 takes half
# the time of level 6 for a fortieth more bytes
PROFILE: dict[str, Any] = {
    "driver": "COG", "count": 1, "dtype": "float32", "compress": "deflate", "predictor": "YES",
    "level": 1, "blocksize": 512, "overview_resampling": "average",
}  # fmt: skip


class Maps(NamedTuple):
    """Maps of parameters that vary from cell to cell; None: constant.

    Attributes:
        manning: roughness in s/m^(1/3), float32.
        rain: share of the rain on each cell, float32.
    """

    manning: Float[np.ndarray, "ny nx"] | None = None
    rain: Float[np.ndarray, "ny nx"] | None = None


def load(terrain: Terrain, run: Run, seed: int) -> Elevation:
    """Read or generate a terrain.

    Raises:
        DataError: if the raster cannot be used.
        SpecError: if the area exceeds the raster.
    """
    if isinstance(terrain, SyntheticTerrain):
        z = generate(terrain.synthetic, seed).numpy()
        return from_heights(z, terrain.synthetic.cell_size_m, "synthetic terrain")
    whole = _built_in(terrain) if _is_built_in(terrain) else _stored(terrain, run)
    return whole if terrain.area is None else cut(whole, terrain.area)


def warn_of(terrain: Elevation, run: Run) -> None:
    """Warnings of what was assumed when a terrain was read, and of its cells without height."""
    for note in terrain.notes:
        run.warn("terrain_assumed", f"{terrain.name}: {note}")
    if terrain.missing.any():
        count = int(terrain.missing.sum())
        run.warn(
            "nodata", f"{count} cells of {terrain.name} have no height: no water and no result"
        )


def refuse_coarse(terrain: Elevation) -> None:
    """Refuse a subgrid where fine heights are needed.

    Raises:
        SpecError: if the terrain has a subgrid.
    """
    if terrain.subgrid is not None:
        raise SpecError(
            f"terrain: {terrain.name} is coarse already; name the fine terrain it was made of"
        )


def _is_built_in(terrain: DatasetTerrain | ArtifactTerrain) -> bool:
    return isinstance(terrain, DatasetTerrain) and terrain.sha256 is None


def _built_in(terrain: Any) -> Elevation:
    size = terrain.cell_size_m or JACKSBORO_CELL_M
    note = f"cells of 3 arc-seconds, 74 m wide and 93 m high, are taken as squares of {size:g} m"
    return from_heights(heights_of(terrain.dataset), size, terrain.dataset)._replace(notes=(note,))


def _stored(terrain: DatasetTerrain | ArtifactTerrain, run: Run) -> Elevation:
    name = terrain.dataset if isinstance(terrain, DatasetTerrain) else terrain.artifact
    size = terrain.cell_size_m if isinstance(terrain, DatasetTerrain) else None
    nodata = terrain.nodata if isinstance(terrain, DatasetTerrain) else None
    project = terrain.project if isinstance(terrain, DatasetTerrain) else None
    if isinstance(terrain, ArtifactTerrain) and terrain.artifact == SUBGRID_FILE:
        return subgrid_file.read(run.input(terrain), name)
    return read(run.input(terrain), size, name, nodata, project)


def maps_of(spec: Any, fine: Elevation, run: Run) -> Maps:
    """The maps that a spec names, on the cells of its terrain; empty for kinds without maps.

    Raises:
        DataError: if a raster cannot be used.
        SpecError: if its cells are not the terrain's, one of them has no value, or a value is out
            of range.
    """
    maps = {}
    for name, (low, high) in MAPS.items():
        ref = getattr(spec, f"{name}_map", None)
        if ref is not None:
            maps[name] = map_on(fine, ref, run, f"{name}_map", low, high)
    return Maps(**maps)


def map_on(
    fine: Elevation, ref: Map, run: Run, field: str, low: float, high: float
) -> Float[np.ndarray, "ny nx"]:
    """Values of a raster on the cells of a terrain, in the raster's own unit; 0 in its voids.

    Args:
        fine: the terrain.
        ref: names the raster.
        run: gives access to its file.
        field: of the spec, for messages.
        low: least value that is allowed.
        high: greatest value.

    Raises:
        DataError: if the raster cannot be used.
        SpecError: as of :func:`maps_of`.
    """
    values = _map(ref, run, field)
    _check_same_cells(values, fine, field)
    if not (values.georeferenced and fine.georeferenced):
        run.warn("map_by_cells", f"{field}: without coordinates, laid on the terrain cell by cell")
    gaps = values.missing & ~fine.missing
    if gaps.any():
        row, column = (int(k) for k in np.argwhere(gaps)[0])
        raise SpecError(
            f"{field}: {int(gaps.sum())} cells of the terrain have no value, the first at row"
            f" {row}, column {column}; fill them, or cut the terrain by area"
        )
    known = values.z[~fine.missing]
    least, most = float(known.min()), float(known.max())
    if not low <= least <= most <= high:
        raise SpecError(
            f"{field}: values from {least:g} to {most:g}; {low:g} to {high:g} are allowed"
        )
    return np.where(fine.missing, np.clip(values.z, low, high), values.z)


def _map(ref: Map, run: Run, field: str) -> Elevation:
    """A raster of anything but heights."""
    how = (ref.cell_size_m, ref.nodata, ref.project) if isinstance(ref, DatasetTerrain) else ()
    try:
        with elevation.open_grid(run.input(ref), *how, are_heights=False) as grid:
            values, missing = _all_rows(grid)
    except DataError as error:
        raise DataError(f"{field}: {error}", hint=error.hint) from error
    whole = north_up(_on_grid(values, missing, grid, field))
    return whole if ref.area is None else cut(whole, ref.area)


def _check_same_cells(values: Elevation, fine: Elevation, field: str) -> None:
    """Refuse a map of another shape, cell size, reference system or position."""
    way_out = "; bring it to the terrain's cells (gdalwarp -tr -te -t_srs), or cut both by area"
    if values.z.shape != fine.z.shape:
        raise SpecError(f"{field}: {values.z.shape} cells, the terrain {fine.z.shape}{way_out}")
    if abs(values.dx - fine.dx) > ALIGNED * fine.dx:
        raise SpecError(f"{field}: cells of {values.dx:g} m, the terrain {fine.dx:g} m{way_out}")
    if not (values.georeferenced and fine.georeferenced):
        return
    if values.crs and fine.crs and horizontal(values.crs) != horizontal(fine.crs):
        raise SpecError(
            f"{field}: {values.crs.to_string()}, the terrain {fine.crs.to_string()}{way_out}"
        )
    ny, nx = fine.z.shape
    side = abs(fine.transform.determinant) ** 0.5
    for corner in ((0, 0), (nx, 0), (0, ny)):
        here, there = values.transform @ corner, fine.transform @ corner
        if math.dist(here, there) > ALIGNED * side:
            raise SpecError(
                f"{field}: the cells are elsewhere, a corner at {here[0]:.9g}, {here[1]:.9g}, the"
                f" terrain's at {there[0]:.9g}, {there[1]:.9g}{way_out}"
            )


def _in_metres(crs: Any) -> Any:
    """A reference system without a vertical part in another unit than the heights now have."""
    vertical = heights.VERTICAL_UNIT.search(crs.to_wkt())
    return crs if vertical is None or float(vertical.group(2)) == 1.0 else horizontal(crs)


def horizontal(crs: Any) -> Any:
    """A reference system of rasterio without its vertical part."""
    wkt = crs.to_wkt()
    if not wkt.startswith("COMPD_CS["):
        return crs
    begin = wkt.index("[", wkt.index(",")) - len("PROJCS")
    depth = 0
    for end in range(begin, len(wkt)):
        depth += {"[": 1, "]": -1}.get(wkt[end], 0)
        if wkt[end] == "]" and depth == 0:
            return type(crs).from_wkt(wkt[begin : end + 1].lstrip(","))
    return crs


def local_transform(shape: tuple[int, ...], dx: float) -> Affine:
    """From (column, row) to metres from the lower left corner."""
    return Affine(dx, 0, 0, 0, -dx, shape[0] * dx)


def from_heights(z: Shaped[np.ndarray, "ny nx"], dx: float, name: str) -> Elevation:
    """A terrain without a georeference."""
    missing = np.zeros(z.shape, bool)
    heights = np.ascontiguousarray(z, np.float32)
    return Elevation(heights, missing, dx, None, local_transform(z.shape, dx), name)


def read(
    path: Path,
    cell_size_m: float | None,
    name: str,
    nodata: elevation.Nodata | None = None,
    project: str | None = None,
) -> Elevation:
    """Heights in metres of a file that :func:`models.data.elevation.check` accepts, north up.

    Args:
        path: of the file.
        cell_size_m: side of a cell in m, where the file does not tell.
        name: for messages.
        nodata: stored value of cells without a height, beside the declared one.
        project: reference system to bring it to, if to another.

    Raises:
        DataError: naming what is wrong.
    """
    with elevation.open_grid(path, cell_size_m, nodata, project) as grid:
        values, missing = _all_rows(grid)
    return _filled(values, missing, grid, name)


def _all_rows(grid: elevation.Grid) -> tuple[np.ndarray, np.ndarray]:
    values = np.empty((grid.rows, grid.columns), np.float32)
    missing = np.empty(values.shape, bool)
    for block in grid.blocks():
        rows = slice(block.top, block.top + len(block.values))
        values[rows], missing[rows] = block.values, block.missing
    return values, missing


def _filled(values: np.ndarray, missing: np.ndarray, grid: elevation.Grid, name: str) -> Elevation:
    if missing.all():
        raise DataError(f"{name} has no data: every cell is nodata")
    turned = north_up(_on_grid(values, missing, grid, name))
    return turned._replace(z=np.ascontiguousarray(nearest_known(turned.z, turned.missing)))


def _on_grid(values: np.ndarray, missing: np.ndarray, grid: elevation.Grid, name: str) -> Elevation:
    transform = grid.transform or local_transform(values.shape, grid.cell_size_m)
    crs = None if grid.crs is None else _in_metres(grid.crs)
    return Elevation(
        values, missing, grid.cell_size_m, crs, transform, name, tuple(grid.notes),
        grid.transform is not None,
    )  # fmt: skip


def nearest_known(
    z: Float[np.ndarray, "ny nx"], missing: Bool[np.ndarray, "ny nx"]
) -> Float[np.ndarray, "ny nx"]:
    """The heights, missing ones replaced by that of the nearest known cell."""
    if not missing.any():
        return z
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return z[tuple(nearest)]


def north_up(terrain: Elevation) -> Elevation:
    """The terrain with its first row in the north and its first column in the west.

    A rotated grid stays as it is: its edges face no point of the compass.
    """
    transform, notes = terrain.transform, list(terrain.notes)
    rows, columns = terrain.z.shape
    if transform.b or transform.d:
        return terrain._replace(
            notes=(*notes, "the grid is rotated: its first row counts as north, as top")
        )
    z, missing = terrain.z, terrain.missing
    if transform.e > 0:
        z, missing = z[::-1], missing[::-1]
        transform = transform @ Affine.translation(0, rows) @ Affine.scale(1, -1)
        notes.append("rows that run northwards were turned: the first is the northernmost")
    if transform.a < 0:
        z, missing = z[:, ::-1], missing[:, ::-1]
        transform = transform @ Affine.translation(columns, 0) @ Affine.scale(-1, 1)
        notes.append("columns that run westwards were turned: the first is the westernmost")
    return terrain._replace(z=z, missing=missing, transform=transform, notes=tuple(notes))


def cut(whole: Elevation, area: Area) -> Elevation:
    """A rectangular part of a terrain.

    Raises:
        SpecError: if the area exceeds the terrain.
        DataError: if all of its cells are nodata.
    """
    ny, nx = whole.z.shape
    last_row, last_column = area.row + area.rows, area.column + area.columns
    if whole.subgrid is not None:
        raise SpecError(
            "terrain.area: a subgrid cannot be cut; cut the fine terrain, then downsample"
        )
    if last_row > ny or last_column > nx:
        raise SpecError(
            f"terrain.area ends at row {last_row}, column {last_column}; {whole.name} has {ny} "
            f"rows and {nx} columns"
        )
    part = (slice(area.row, last_row), slice(area.column, last_column))
    transform = whole.transform @ Affine.translation(area.column, area.row)
    if whole.missing[part].all():
        raise DataError(f"terrain.area: every cell of this part of {whole.name} is nodata")
    return whole._replace(z=whole.z[part].copy(), missing=whole.missing[part], transform=transform)


def cropped(whole: Elevation, factor: int) -> Elevation:
    """The terrain without the rows and columns that do not fill a coarse cell.

    Raises:
        DataError: if all of the remaining cells are nodata.
    """
    rows, columns = (count // factor * factor for count in whole.z.shape)
    return cut(whole, Area(rows=rows, columns=columns))


def coarsened(fine: Elevation, z: Float[np.ndarray, "nyc nxc"], factor: int) -> Elevation:
    """The terrain with coarse heights [nyc, nxc]: same corner, cells ``factor`` times as large."""
    rows, columns = z.shape
    missing = np.ones((rows * factor, columns * factor), bool)
    ny, nx = (min(a, b) for a, b in zip(fine.z.shape, missing.shape, strict=True))
    missing[:ny, :nx] = fine.missing[:ny, :nx]
    all_missing = np.asarray(missing.reshape(rows, factor, columns, factor).all((1, 3)))
    transform = fine.transform @ Affine.scale(factor, factor)
    return fine._replace(z=z, missing=all_missing, dx=fine.dx * factor, transform=transform)


class BandInfo(NamedTuple):
    """What a raster holds: a sentence without a unit, and the unit."""

    description: str
    unit: str


def write(
    path: Path, values: np.ndarray, like: Elevation, band: BandInfo, **tags: str | int | float
) -> None:
    """Write a cloud-optimised GeoTIFF of float32; missing cells and NaN become nodata.

    Args:
        path: of the file; its folder is created.
        values: [ny, nx].
        like: terrain that gives grid, CRS and missing cells.
        band: description and unit of the values.
        tags: metadata of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.where(like.missing | ~np.isfinite(values), np.float32(NODATA), values)
    shape = {"height": shown.shape[0], "width": shown.shape[1]}
    transform = {"crs": like.crs, "transform": like.transform, "nodata": NODATA}
    with rasterio.open(path, "w", **PROFILE, **shape, **transform) as raster:
        raster.write(shown.astype(np.float32, copy=False), 1)
        raster.set_band_description(1, band.description)
        raster.units = (band.unit,)
        size = {elevation.CELL_SIZE_TAG: like.dx}  # which coordinates in degrees do not tell
        raster.update_tags(**{name: str(value) for name, value in (tags | size).items()})
