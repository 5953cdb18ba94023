"""Series over time as CSV: a column of times, then one or more of values."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from models.core.errors import DataError
from models.data import columns
from models.data.contents import notes_alone

CLOCK = ("time", "date", "datetime", "timestamp")  # names of columns of dates


class SeriesFile(NamedTuple):
    """A file of series.

    Attributes:
        times_s: increasing, in s.
        values: of each column by its name, as they stand in the file.
        notes: sentences about what was assumed.
    """

    times_s: Float[np.ndarray, "moments"]
    values: dict[str, Float[np.ndarray, "moments"]]
    notes: list[str]


def check(path: Path) -> dict[str, Any]:
    """Validate a series by reading all of it.

    Args:
        path: of the file.

    Returns:
        ``moments`` and ``values`` (columns beside the time), and ``contents`` with ``notes``.

    Raises:
        DataError: naming what is wrong and the line.
    """
    made = read(path)
    counts = {"moments": len(made.times_s), "values": len(made.values)}
    spans = f"from {made.times_s[0]:g} to {made.times_s[-1]:g} s; columns: {', '.join(made.values)}"
    return counts | {"contents": notes_alone([*made.notes, spans])}


def read(path: Path) -> SeriesFile:
    """Times and values of a file; its first column is the time.

    Times are numbers in the unit that the name of their column tells (``time_s``, ``time [h]``),
    or dates by ISO 8601, which count from the first one.

    Raises:
        DataError: naming what is wrong and the line.
    """
    table = columns.read(path)
    name = table.header[0]
    unit = columns.unit_of(name)
    if unit is None and name.lower() in CLOCK:
        return _by_date(table)
    if unit not in columns.UNITS["s"]:
        raise DataError(
            f"the first column is called {name!r}; call it time_s, time_min, time_h or time_d, or "
            "time for dates such as 2024-05-01T12:00"
        )
    grid = columns.numbers(table)
    notes = [] if unit == "s" else [f"times are converted from {unit} to s"]
    return _made(table.header, grid[:, 0] * columns.UNITS["s"][unit], grid[:, 1:], notes)


def _by_date(table: columns.NumberTable) -> SeriesFile:
    name, *names = table.header
    dates: list[datetime] = []

    def rows() -> Iterator[tuple[int, list[str]]]:
        for line, cells in table.rows:
            dates.append(_date(cells[0], line, name))
            yield line, cells[1:]

    grid = columns.numbers(columns.NumberTable(names, rows(), table.separator))
    if len({date.tzinfo is None for date in dates}) > 1:
        raise DataError("some times name a time zone and some do not")
    times = np.array([(date - dates[0]).total_seconds() for date in dates])
    notes = [f"0 s is {dates[0].isoformat()}"] if dates else []
    return _made(table.header, times, grid, notes)


def _date(text: str, line: int, name: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"line {line}: the column {name!r} holds {text[:40]!r}; write a date as"
            " 2024-05-01T12:00, or call the column time_s for seconds"
        ) from error


def _made(header: list[str], times: np.ndarray, grid: np.ndarray, notes: list[str]) -> SeriesFile:
    if len(times) == 0:
        raise DataError("the file has a header and no row")
    if times[0] < 0:
        raise DataError(f"the first time is {times[0]:g} s; times count from the start, from 0 on")
    for row, (a, b) in enumerate(pairwise(times.tolist()), 2):
        if b <= a:
            raise DataError(f"the times must rise; that of row {row} is {b:g} s after {a:g} s")
    return SeriesFile(times, dict(zip(header[1:], grid.T, strict=True)), notes)
