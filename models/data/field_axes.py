"""Axes of fields over time, by the CF conventions: times, centres of cells, reference system."""

import warnings
from datetime import timedelta
from typing import Any

import h5netcdf
import numpy as np
from rasterio import CRS
from rasterio.errors import CRSError

from models.core.errors import DataError
from models.data.elevation import length_unit
from models.data.field_units import seconds_of

FRAMES = 1_000_000
EVEN = 0.01  # of a cell, by which coordinates may be off an even grid
CALENDARS = ("", "standard", "gregorian", "proleptic_gregorian")
METRES = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
    **dict.fromkeys(("km", "kilometre", "kilometres", "kilometer", "kilometers"), 1000.0),
    **dict.fromkeys(("ft", "foot", "feet"), 0.3048),
    **dict.fromkeys(("us_survey_foot", "us_survey_feet", "us-ft"), 1200 / 3937),
}


def axis_of(name: str, variable: Any) -> str:
    """Which axis a coordinate is: ``time``, ``x``, ``y``, or empty."""
    standard, unit = text_of(variable, "standard_name"), text_of(variable, "units")
    if name.lower() in ("time", "t") or standard == "time" or " since " in unit:
        return "time"
    for axis, words in (("x", ("x", "lon", "longitude")), ("y", ("y", "lat", "latitude"))):
        if name.lower() in words or standard in (f"projection_{axis}_coordinate", words[-1]):
            return axis
    return ""


def times_of(
    file: h5netcdf.File, name: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Times of the frames [frames] and their bounds [frames, 2], in s.

    Raises:
        DataError: if they do not rise, or their unit or calendar is not known.
    """
    axis = file.variables[name]
    factor, date = seconds_of(text_of(axis, "units"))
    if date is not None and text_of(axis, "calendar").lower() not in CALENDARS:
        raise DataError(f"the calendar {text_of(axis, 'calendar')!r} is not known; use standard")
    times = np.asarray(axis[...], np.float64) * factor
    if not 1 <= len(times) <= FRAMES or not np.isfinite(times).all():
        raise DataError(f"{len(times)} times, or one that is no number; 1 to {FRAMES} are allowed")
    if late := np.flatnonzero(np.diff(times) <= 0).tolist():
        raise DataError(f"the times must rise; that of frame {late[0] + 1} does not")
    given = file.variables.get(text_of(axis, "bounds"))
    bounds = None if given is None else np.asarray(given[...], np.float64) * factor
    if bounds is not None:
        _check_bounds(bounds, len(times))
    first = 0.0
    if date is not None:
        first = float(times[0] if bounds is None else bounds[0, 0])
        notes.append(f"0 s is {(date + timedelta(seconds=first)).isoformat()}")
    elif (times[0] if bounds is None else bounds[0, 0]) < 0:
        raise DataError("the first time is before 0 s; times count from the start of the flood")
    return times - first, None if bounds is None else bounds - first


def _check_bounds(bounds: np.ndarray, frames: int) -> None:
    if bounds.shape != (frames, 2) or not np.isfinite(bounds).all():
        raise DataError(f"the bounds of the times have the shape {bounds.shape}, not {frames} x 2")
    if (bounds[:, 1] <= bounds[:, 0]).any() or (bounds[1:, 0] < bounds[:-1, 1]).any():
        raise DataError("the bounds of the times overlap or have no length")


def centres_of(axis: Any, name: str, crs: Any) -> np.ndarray:
    """Even coordinates of cells in the unit of the reference system.

    Raises:
        DataError: if they are not even, or in another unit.
    """
    unit = text_of(axis, "units").lower()
    in_degrees = crs is not None and crs.is_geographic
    if in_degrees != unit.startswith("degree") and unit:
        raise DataError(f"{name} is in {unit!r}, which does not fit the reference system")
    if unit and not in_degrees and unit not in METRES:
        raise DataError(f"{name} is in {unit!r}; give m, km, ft, US_survey_foot or degrees")
    factor = METRES[unit] / length_unit(crs)[1] if unit and not in_degrees else 1.0
    values = np.asarray(axis[...], np.float64) * factor
    step = (values[-1] - values[0]) / max(len(values) - 1, 1)
    even = values[0] + step * np.arange(len(values))
    if len(values) < 2 or not np.abs(values - even).max() <= EVEN * abs(step):
        raise DataError(f"{name} has {len(values)} coordinates; give two or more, evenly spaced")
    return even


def crs_of(file: h5netcdf.File, variable: Any, x: Any) -> Any:
    """Reference system of a variable with the coordinate ``x``; None: the file names none.

    Raises:
        DataError: if it cannot be read.
    """
    mapping = file.variables.get(text_of(variable, "grid_mapping").split(":")[0].strip())
    wkt = ""
    if mapping is not None:
        wkt = text_of(mapping, "crs_wkt") or text_of(mapping, "spatial_ref")
        if not wkt and text_of(mapping, "grid_mapping_name") != "latitude_longitude":
            raise DataError(
                "the projection is told by its parameters alone; write it as crs_wkt too (rioxarray"
                " or gdal_translate do)"
            )
    if not wkt and mapping is None and not text_of(x, "units").startswith("degree"):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return CRS.from_wkt(wkt) if wkt else CRS.from_epsg(4326)
    except CRSError as error:
        raise DataError(f"the reference system cannot be read: {error}") from error


def text_of(variable: Any, name: str) -> str:
    """An attribute as text; empty where there is none."""
    value = variable.attrs.get(name, "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value).strip()
