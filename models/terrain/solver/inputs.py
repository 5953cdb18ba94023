"""The water of a spec with what it refers to in place: series of datasets."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.core.spec import SpecGroup
from models.data import columns, series
from models.terrain.spec.fields import (
    Inflow,
    Level,
    LevelMoment,
    Moment,
    Rain,
    SeriesRef,
    Source,
    Water,
    check_begin,
)

UNITS = {"inflow": "m3_s", "source": "m3_s", "rain": "mm_h", "level": "m"}
MOST = {"inflow": 1e7, "source": 1e7, "rain": 1e4}  # as of the constant values


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
    times, values = _column(run.input(ref), ref, UNITS[item.type], field)
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
) -> tuple[Float[np.ndarray, "moments"], Float[np.ndarray, "moments"]]:
    """Times in s, and the values of one column in ``unit``."""
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
        return read.times_s, read.values[name] * columns.factor(name, unit)
    except DataError as error:
        raise SpecError(f"{field}: {error}") from error
