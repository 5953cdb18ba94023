"""Grids of heights: GeoTIFF, ASCII grid, npy; recognised by their first bytes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from models.core.errors import DataError
from models.data.decode import PIXELS

NPY_MAGIC = b"\x93NUMPY"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CELL_SIZE_M = (1e-3, 1e6)
SQUARE_TOLERANCE = 1e-3  # a pixel may be this much longer than wide
ROWS_AT_A_TIME = 256


def check(path: Path, cell_size_m: float | None) -> dict[str, Any]:
    """Validate a terrain by reading all of it, a band of rows at a time.

    Args:
        path: of the file.
        cell_size_m: side of a cell in metres; needed for npy, which does not tell it, and for a
            raster whose unit is the degree; elsewhere it must agree with the file.

    Returns:
        ``rows``, ``columns`` and ``cell_size_m``.

    Raises:
        DataError: naming what is wrong.
    """
    low, high = CELL_SIZE_M
    if cell_size_m is not None and not low <= cell_size_m <= high:
        raise DataError(f"options.cell_size_m is {cell_size_m}; use {low:g} to {high:g} metres")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic == NPY_MAGIC:
        return _check_npy(path, cell_size_m)
    if magic[:4] in TIFF_MAGICS:
        return _check_raster(path, "GTiff", cell_size_m)
    if magic[:5].lower() == b"ncols":
        return _check_raster(path, "AAIGrid", cell_size_m)
    raise DataError(f"the file begins with {magic!r}: neither GeoTIFF, ASCII grid nor npy")


def _check_npy(path: Path, cell_size_m: float | None) -> dict[str, Any]:
    if cell_size_m is None:
        raise DataError("options.cell_size_m is needed: an npy file does not tell its cell size")
    try:
        heights = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"the npy is damaged, cut short or of Python objects: {error}") from error
    if heights.ndim != 2 or heights.dtype.kind not in "fiu":
        raise DataError(
            f"the npy holds {heights.dtype} of shape {heights.shape}; give heights in metres as a "
            "2-D array of numbers"
        )
    rows, columns = heights.shape
    _check_size(rows, columns)
    for top in range(0, rows, ROWS_AT_A_TIME):
        _check_finite(heights[top : top + ROWS_AT_A_TIME], top)
    return {"rows": rows, "columns": columns, "cell_size_m": cell_size_m}


def _check_raster(path: Path, driver: str, cell_size_m: float | None) -> dict[str, Any]:
    # No look at neighbouring files: a raster is the bytes that were uploaded, nothing else.
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
    ):
        try:
            with rasterio.open(path, driver=driver) as raster:
                return _check_open(raster, cell_size_m)
        except RasterioError as error:
            raise DataError(f"the {driver} file is damaged or cut short: {error}") from error


def _check_open(raster: rasterio.DatasetReader, cell_size_m: float | None) -> dict[str, Any]:
    if raster.count != 1:
        raise DataError(f"the raster has {raster.count} bands; an elevation has one")
    _check_size(raster.height, raster.width)
    known = 0
    for top in range(0, raster.height, ROWS_AT_A_TIME):
        last = min(top + ROWS_AT_A_TIME, raster.height)
        band = raster.read(1, window=((top, last), (0, raster.width)), masked=True)
        _check_finite(band.compressed(), top)
        known += int(band.count())
    if known == 0:
        raise DataError("the raster has no data: every cell is nodata")
    size = _cell_size_m(raster, cell_size_m)
    return {"rows": raster.height, "columns": raster.width, "cell_size_m": size}


def _cell_size_m(raster: rasterio.DatasetReader, given: float | None) -> float:
    """Side of a cell in metres, from the file where it tells."""
    in_degrees = raster.crs is not None and raster.crs.is_geographic
    if in_degrees or raster.transform.is_identity:
        if given is None:
            what = (
                "is in degrees; reproject it to metres,"
                if in_degrees
                else "does not tell its cell size;"
            )
            raise DataError(f"the raster {what} or give options.cell_size_m")
        return given
    width, height = raster.res
    if abs(width - height) > SQUARE_TOLERANCE * width:
        raise DataError(f"cells of {width} x {height}; they must be square")
    size = width * (raster.crs.linear_units_factor[1] if raster.crs is not None else 1.0)
    if given is not None and abs(given - size) > SQUARE_TOLERANCE * size:
        raise DataError(f"options.cell_size_m is {given}, the file says {size} m; leave it out")
    return size


def _check_size(rows: int, columns: int) -> None:
    if not 1 <= rows * columns <= PIXELS:
        raise DataError(f"{rows} x {columns} cells; from 1 to {PIXELS} are allowed")


def _check_finite(heights: np.ndarray, top: int) -> None:
    if not np.isfinite(heights).all():
        raise DataError(f"a height at or after row {top} is NaN or infinite; declare it nodata")
