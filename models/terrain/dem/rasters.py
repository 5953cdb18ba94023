"""Reads terrains and writes rasters: heights in metres with their georeference."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from jaxtyping import Bool, Float, Shaped
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import distance_transform_edt

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.data import elevation
from models.data.samples import heights_of
from models.terrain.dem.synthetic import generate
from models.terrain.spec.fields import (
    Area,
    ArtifactTerrain,
    DatasetTerrain,
    SyntheticTerrain,
    Terrain,
)

NODATA = -9999.0
MAPS = {"manning": (1e-3, 1.0), "rain": (0.0, 100.0)}  # least and greatest value
PROFILE: dict[str, Any] = {
    "driver": "GTiff", "count": 1, "dtype": "float32", "compress": "deflate", "predictor": 3,
}  # fmt: skip


class Maps(NamedTuple):
    """Maps of parameters that vary from cell to cell; None: constant.

    Attributes:
        manning: roughness in s/m^(1/3), float32.
        rain: share of the rain on each cell, float32.
    """

    manning: Float[np.ndarray, "ny nx"] | None = None
    rain: Float[np.ndarray, "ny nx"] | None = None


class Elevation(NamedTuple):
    """A terrain.

    Attributes:
        z: heights in m, float32, nodata filled from the nearest known cell.
        missing: nodata cells.
        dx: side of a cell in m.
        crs: of the raster, or None.
        transform: from (column, row) to coordinates; a grid in metres if the file has none.
        name: for messages and titles.
    """

    z: Float[np.ndarray, "ny nx"]
    missing: Bool[np.ndarray, "ny nx"]
    dx: float
    crs: Any
    transform: Affine
    name: str


def load(terrain: Terrain, run: Run, seed: int) -> Elevation:
    """Read or generate a terrain.

    Raises:
        DataError: if the raster cannot be used.
        SpecError: if neither spec nor raster gives the cell size, or the area exceeds the raster.
    """
    if isinstance(terrain, SyntheticTerrain):
        z = generate(terrain.synthetic, seed).numpy()
        return from_heights(z, terrain.synthetic.cell_size_m, "synthetic terrain")
    given = terrain.cell_size_m if isinstance(terrain, DatasetTerrain) else None
    if isinstance(terrain, DatasetTerrain) and terrain.sha256 is None:
        if given is None:
            raise SpecError(
                f"terrain: the cells of {terrain.dataset} are 3 arc-seconds, 74 x 93 m",
                hint="give terrain.cell_size_m, for example 83",
            )
        elevation_model = from_heights(heights_of(terrain.dataset), given, terrain.dataset)
    else:
        elevation_model = read(run.input(terrain), given, _name(terrain))
    return elevation_model if terrain.area is None else cut(elevation_model, terrain.area)


def maps_of(spec: Any, fine: Elevation, run: Run) -> Maps:
    """The maps that a spec names, on the cells of its terrain; empty for kinds without maps.

    Raises:
        DataError: if a raster cannot be used.
        SpecError: if its cells are not the terrain's, or a value is out of range.
    """
    maps = {}
    for name, (low, high) in MAPS.items():
        ref = getattr(spec, f"{name}_map", None)
        if ref is None:
            continue
        values = load(ref, run, spec.seed).z
        if values.shape != fine.z.shape:
            raise SpecError(
                f"{name}_map: {values.shape} cells, the terrain {fine.z.shape}; cut both by area"
            )
        least, most = float(values.min()), float(values.max())
        if not low <= least <= most <= high:
            raise SpecError(
                f"{name}_map: values from {least:g} to {most:g}; {low:g} to {high:g} are allowed"
            )
        maps[name] = values
    return Maps(**maps)


def _name(terrain: DatasetTerrain | ArtifactTerrain) -> str:
    return terrain.dataset if isinstance(terrain, DatasetTerrain) else terrain.artifact


def from_heights(z: Shaped[np.ndarray, "ny nx"], dx: float, name: str) -> Elevation:
    """A terrain without a georeference."""
    transform = Affine(dx, 0, 0, 0, -dx, z.shape[0] * dx)
    return _filled(z.astype(np.float32), np.zeros(z.shape, bool), dx, None, transform, name)


def read(path: Path, cell_size_m: float | None, name: str) -> Elevation:
    """A file that :func:`models.data.elevation.check` accepts.

    Raises:
        DataError: naming what is wrong.
    """
    metadata = elevation.check(path, cell_size_m)
    dx = float(metadata["cell_size_m"])
    with path.open("rb") as file:
        if file.read(6) == elevation.NPY_MAGIC:
            return from_heights(np.load(path, allow_pickle=False), dx, name)
    with (
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
        rasterio.open(path) as raster,
    ):
        band = raster.read(1, masked=True)
        crs, transform = raster.crs, raster.transform
    if transform.is_identity:
        transform = Affine(dx, 0, 0, 0, -dx, band.shape[0] * dx)
    if crs is not None and crs.is_geographic:
        crs = None if cell_size_m is not None else crs
    missing = np.ma.getmaskarray(band).copy()
    return _filled(band.filled(0).astype(np.float32), missing, dx, crs, transform, name)


def _filled(
    z: np.ndarray, missing: np.ndarray, dx: float, crs: Any, transform: Affine, name: str
) -> Elevation:
    if missing.all():
        raise DataError(f"{name}: every cell is nodata")
    if missing.any():
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        z = z[tuple(nearest)]
    return Elevation(np.ascontiguousarray(z), missing, dx, crs, transform, name)


def cut(whole: Elevation, area: Area) -> Elevation:
    """A rectangular part of a terrain.

    Raises:
        SpecError: if the area exceeds the terrain.
        DataError: if all of its cells are nodata.
    """
    ny, nx = whole.z.shape
    last_row, last_column = area.row + area.rows, area.column + area.columns
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
    return Elevation(z, all_missing, fine.dx * factor, fine.crs, transform, fine.name)


def write(path: Path, values: np.ndarray, like: Elevation, **tags: str | int | float) -> None:
    """Write a float32 GeoTIFF on the grid of ``like``; its missing cells and NaN become nodata.

    Args:
        path: of the file; its folder is created.
        values: [ny, nx].
        like: terrain that gives grid, CRS and missing cells.
        tags: metadata of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.where(like.missing | ~np.isfinite(values), NODATA, values).astype(np.float32)
    shape = {"height": shown.shape[0], "width": shown.shape[1]}
    transform = {"crs": like.crs, "transform": like.transform, "nodata": NODATA}
    with rasterio.open(path, "w", **PROFILE, **shape, **transform) as raster:
        raster.write(shown, 1)
        raster.update_tags(**{name: str(value) for name, value in tags.items()})
