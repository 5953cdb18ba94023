"""A grid of heights brought to another reference system, on square cells."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from rasterio import CRS, Affine, warp
from rasterio.enums import Resampling
from rasterio.errors import CRSError

from models.core.errors import DataError
from models.data.decode import PIXELS

WGS_84 = CRS.from_epsg(4326)
UTM_LATITUDES = (-80.0, 84.0)
UTM_REACH = 6.0  # degrees from the middle of a zone, where lengths are off by up to half a percent
COARSER = 2.0  # cells so many times as long as those of the file are means of them


class Projected(NamedTuple):
    """Heights in another reference system.

    Attributes:
        values: float32, NaN where missing [rows, columns], the first in the north.
        transform: from (column, row) to coordinates.
        crs: of the coordinates, which are metres.
        note: a sentence about what was done.
    """

    values: Float32[np.ndarray, "rows columns"]
    transform: Affine
    crs: CRS
    note: str


def project(
    values: Float32[np.ndarray, "h w"],
    transform: Affine,
    crs: CRS,
    target: str,
    cell_size_m: float | None,
) -> Projected:
    """Interpolate heights to square cells of another reference system, and cut off bare margins.

    A raster that comes to lie askew leaves triangles without heights at the edges; whole rows and
    columns are cut until none of them is left.

    Args:
        values: NaN where missing.
        transform: from (column, row) to coordinates.
        crs: of these.
        target: ``utm`` for the zone of the middle, or ``EPSG:`` and a number.
        cell_size_m: side of a cell; None: about that of the file.

    Raises:
        DataError: if there is no such system in metres, or UTM does not suit the raster.
    """
    height, width = values.shape
    corners = [transform @ at for at in ((0, 0), (width, 0), (0, height), (width, height))]
    xs, ys = zip(*corners, strict=True)
    into = _utm(crs, xs, ys) if target == "utm" else _system(target)
    bounds = min(xs), min(ys), max(xs), max(ys)
    try:
        onto, columns, rows = warp.calculate_default_transform(
            crs, into, width, height, *bounds, resolution=cell_size_m
        )
        native, *_ = warp.calculate_default_transform(crs, into, width, height, *bounds)
    except CRSError as error:
        raise DataError(f"options.project: {target} does not reach to the raster") from error
    if onto is None or columns is None or rows is None:
        raise DataError(f"options.project: {target} does not reach to the raster")
    if rows * columns > PIXELS:
        raise DataError(
            f"options.cell_size_m: {rows} x {columns} cells of {onto.a:g} m; {PIXELS} are allowed"
        )
    coarser = onto.a > COARSER * native.a
    how = Resampling.average if coarser else Resampling.bilinear
    shape = (rows, columns)
    ends = {"src_transform": transform, "src_crs": crs, "dst_transform": onto, "dst_crs": into}
    inside = np.zeros(shape, np.uint8)
    warp.reproject(np.ones((height, width), np.uint8), inside, **ends)
    made = np.full(shape, np.nan, np.float32)
    warp.reproject(values, made, **ends, src_nodata=np.nan, dst_nodata=np.nan, resampling=how)
    top, bottom, left, right = _within(inside > 0)
    cut = rows * columns - (bottom - top) * (right - left)
    means = "means of those of the file" if coarser else "interpolated between those of the file"
    note = (
        f"heights were projected from {crs.to_string()[:40]} to {into.to_string()}: cells of"
        f" {onto.a:.6g} m, {means}; {cut / (rows * columns):.1%} of the cells, at the edges, were"
        " cut off"
    )
    onto = onto @ Affine.translation(left, top)
    return Projected(made[top:bottom, left:right], onto, into, note)


def _system(target: str) -> CRS:
    try:
        system = CRS.from_string(target)
        metres = system.linear_units_factor[1] if system.is_projected else math.nan
    except CRSError as error:
        raise DataError(f"options.project: no reference system is called {target}") from error
    if metres != 1.0:
        raise DataError(
            f"options.project: {target} is not in metres; give utm, or a projection in metres"
        )
    return system


def _utm(crs: CRS, xs: tuple[float, ...], ys: tuple[float, ...]) -> CRS:
    """The zone of the middle of some corners.

    Raises:
        DataError: if they lie too far apart, or too near to a pole.
    """
    longitudes, latitudes = warp.transform(crs, WGS_84, xs, ys)
    # some count from 0 to 360, and 180 east is 180 west
    longitudes = [longitudes[0] + _turned(x - longitudes[0]) for x in longitudes]
    west, east = min(longitudes), max(longitudes)
    low, high = UTM_LATITUDES
    zone = int((((west + east) / 2 + 180) % 360) // 6) + 1
    middle = zone * 6 - 183
    reach = max(abs(_turned(x - middle)) for x in longitudes)
    if not low <= min(latitudes) <= max(latitudes) <= high or reach > UTM_REACH:
        raise DataError(
            f"options.project: the raster reaches from {west:.6g} to {east:.6g} degrees east and"
            f" {min(latitudes):.4g} to {max(latitudes):.4g} north; UTM is for {low:g} to {high:g}"
            f" north, and {2 * UTM_REACH:g} degrees wide at most: cut it, or give EPSG: and the"
            " number of a projection in metres"
        )
    return CRS.from_epsg((32600 if sum(latitudes) >= 0 else 32700) + zone)


def _turned(degrees: float) -> float:
    """An angle from -180 to 180."""
    return (degrees + 180) % 360 - 180


def _within(inside: Bool[np.ndarray, "rows columns"]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a part without cells outside; edges with most go first."""
    top, left, (bottom, right) = 0, 0, inside.shape
    while bottom - top > 1 and right - left > 1:
        part = inside[top:bottom, left:right]
        edges = (part[0], part[-1], part[:, 0], part[:, -1])
        shares = [1 - float(edge.mean()) for edge in edges]
        worst = int(np.argmax(shares))
        if shares[worst] == 0:
            break
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return top, bottom, left, right
