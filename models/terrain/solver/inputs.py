"""The water of a spec with what it refers to in place: series of datasets, coordinates."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.core.spec import SpecGroup
from models.data import columns, series
from models.terrain.dem import places
from models.terrain.dem.rasters import Elevation
from models.terrain.spec.water import (
    Inflow,
    Level,
    LevelMoment,
    Moment,
    Outflow,
    Rain,
    Segment,
    SeriesRef,
    Side,
    Source,
    Valley,
    Water,
    check_begin,
)

VALLEY_KM2 = 20.0  # larger terrains are hardly wetted by an inflow of 50 m3/s
RAIN_MM_H, OPEN_SLOPE = 50.0, 0.01
NEAR_CELLS = 10.0  # a line along an edge may be as far from it
UNITS = {"inflow": "m3_s", "source": "m3_s", "rain": "mm_h", "level": "m"}
MOST = {"inflow": 1e7, "source": 1e7, "rain": 1e4}  # as of the constant values


def given_or_default(spec: Any, fine: Elevation, run: Run) -> list[Water]:
    """The water of a spec; where it names none, what floods its terrain, with a warning.

    Args:
        spec: with ``water`` and, where its kind has it, ``start``.
        fine: the terrain.
        run: takes the warning.
    """
    if spec.water is not None:
        return list(spec.water)
    if getattr(spec, "start", None) is not None:
        return []
    area_km2 = fine.z.size * fine.dx**2 / 1e6
    if area_km2 <= VALLEY_KM2:
        return [Valley(type="valley")]
    run.warn(
        "default_water",
        f"no water is given: rain of {RAIN_MM_H:g} mm/h on {area_km2:.0f} km2 and open edges",
    )
    edges: tuple[Side, ...] = ("left", "right", "top", "bottom")
    rain = Rain(type="rain", mm_per_h=RAIN_MM_H)
    return [rain, *(Outflow(type="outflow", edge=edge, slope=OPEN_SLOPE) for edge in edges)]


def with_series(water: list[Water], run: Run) -> list[Water]:
    """Items of water with the moments of the datasets that they name.

    Args:
        water: items of a spec.
        run: gives access to the files.

    Raises:
        SpecError: naming the item, if the file has not the column, its unit or its values are no
            ones of the item, or its levels begin late.
        DataError: if the file cannot be used.
    """
    return [
        _filled(item, item.series, run, f"water.{index}.series")
        if isinstance(item, Inflow | Source | Rain | Level) and isinstance(item.series, SeriesRef)
        else item
        for index, item in enumerate(water)
    ]


def _filled(item: Inflow | Source | Rain | Level, ref: SeriesRef, run: Run, field: str) -> Water:
    name, times, values = _column(run.input(ref), ref, UNITS[item.type], field)
    if columns.unit_of(name) is None:
        run.warn(
            "unit_assumed",
            f"{field}: the column {name!r} of {ref.dataset} names no unit and is taken as"
            f" {UNITS[item.type]}; if it is of another, name it there, for example"
            f" {name}_{list(columns.UNITS[UNITS[item.type]])[-1]}",
        )
    if isinstance(item, Level):
        try:
            check_begin(float(times[0]), item.before)
        except ValueError as error:
            raise SpecError(f"{field}: {error}") from error
    elif not 0 <= values.min() <= values.max() <= MOST[item.type]:
        raise SpecError(
            f"{field}: values from {values.min():g} to {values.max():g}; 0 to {MOST[item.type]:g}"
            f" {UNITS[item.type]} are allowed"
        )
    moment: type[SpecGroup] = LevelMoment if isinstance(item, Level) else Moment
    pairs = zip(times.tolist(), values.tolist(), strict=True)
    moments = [moment.model_construct(time_s=t, value=value) for t, value in pairs]
    return item.model_copy(update={"series": moments})


def _column(
    path: Path, ref: SeriesRef, unit: str, field: str
) -> tuple[str, Float[np.ndarray, "moments"], Float[np.ndarray, "moments"]]:
    """Name of a column, times in s, and its values in ``unit``."""
    try:
        read = series.read(path)
    except DataError as error:
        raise DataError(f"{field}: {error}", hint=error.hint) from error
    names = ", ".join(read.values)
    if ref.column is None and len(read.values) > 1:
        raise SpecError(f"{field}: {ref.dataset} has the columns {names}; name one by column")
    name = next(iter(read.values)) if ref.column is None else ref.column
    if name not in read.values:
        raise SpecError(f"{field}: {ref.dataset} has no column {name!r}; it has {names}")
    try:
        return name, read.times_s, read.values[name] * columns.factor(name, unit)
    except DataError as error:
        raise SpecError(f"{field}: {error}") from error


def placed(water: list[Water], fine: Elevation) -> list[Water]:
    """Items of water with their coordinates in m from the left and the upper edge.

    Args:
        water: items of a spec.
        fine: the terrain.

    Raises:
        SpecError: naming the item, if it is off the terrain or far from its edge.
    """
    made: list[Water] = []
    for index, item in enumerate(water):
        field = f"water.{index}.geometry"
        if isinstance(item, Source) and item.geometry is not None:
            point = places.from_corner(fine, item.geometry.positions, item.geometry.crs, field)
            x, y = places.inside(fine, point, field)[0].tolist()
            made.append(item.model_copy(update={"x_m": x, "y_m": y, "geometry": None}))
        elif isinstance(item, Segment) and item.geometry is not None:
            made.append(_along_edge(item, fine, field))
        else:
            made.append(item)
    return made


def _along_edge(item: Segment, fine: Elevation, field: str) -> Water:
    """A segment from the first to the last coordinate of its line along its edge."""
    assert item.geometry is not None  # noqa: S101  # of the caller
    points = places.from_corner(fine, item.geometry.positions, item.geometry.crs, field)
    ny, nx = fine.z.shape
    upright = item.edge in ("left", "right")
    across, along = (points[:, 0], points[:, 1]) if upright else (points[:, 1], points[:, 0])
    far = 0 if item.edge in ("left", "top") else (nx if upright else ny) * fine.dx
    distance = float(np.abs(across - far).max())
    if distance > NEAR_CELLS * fine.dx:
        raise SpecError(
            f"{field}: the line is up to {distance:g} m from the {item.edge} edge of the terrain, "
            f"{places.bounds_of(fine)}; at most {NEAR_CELLS * fine.dx:g} m are allowed"
        )
    snapped = points.copy()
    snapped[:, 0 if upright else 1] = far
    places.inside(fine, snapped, field)
    low, high = float(along.min()), float(along.max())
    if high == low:
        raise SpecError(f"{field}: the line has no length along the {item.edge} edge")
    update = {"centre_m": (low + high) / 2, "length_m": high - low, "geometry": None}
    return item.model_copy(update=update)  # ty: ignore[invalid-explicit-return]  # a kind
