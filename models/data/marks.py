"""Surveyed water levels as CSV: columns x, y and a level."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from models.core.errors import DataError
from models.data import columns
from models.data.contents import notes_alone

X, Y = ("x", "easting", "lon", "longitude"), ("y", "northing", "lat", "latitude")
LEVEL = ("level", "stage", "elevation", "wse", "z", "height")


class Marks(NamedTuple):
    """Surveyed levels.

    Attributes:
        x: in the coordinates of the terrain, or degrees east where the column is called so.
        y: likewise.
        level_m: height of the water, m.
        in_degrees: whether x and y are longitude and latitude.
    """

    x: Float[np.ndarray, "marks"]
    y: Float[np.ndarray, "marks"]
    level_m: Float[np.ndarray, "marks"]
    in_degrees: bool


def check(path: Path) -> dict[str, Any]:
    """Validate surveyed levels by reading all of them.

    Returns:
        ``marks`` and ``contents`` with ``notes``.

    Raises:
        DataError: naming what is wrong and the line.
    """
    marks = read(path)
    low, high = float(marks.level_m.min()), float(marks.level_m.max())
    kind = "longitude and latitude" if marks.in_degrees else "coordinates of the terrain"
    notes = [f"{kind}; levels from {low:g} to {high:g} m"]
    return {"marks": len(marks.x), "contents": notes_alone(notes)}


def read(path: Path) -> Marks:
    """Columns ``x``, ``y`` (or ``lon``, ``lat``) and ``level_m`` of a file; others are left out.

    Raises:
        DataError: naming what is wrong and the line.
    """
    table = columns.read(path)
    chosen = [_find(table.header, names) for names in (X, Y, LEVEL)]
    header = [table.header[k] for k in chosen]
    rows = ((line, [cells[k] for k in chosen]) for line, cells in table.rows)
    grid = columns.numbers(columns.NumberTable(header, rows, table.separator))
    if len(grid) == 0:
        raise DataError("the file has a header and no row")
    level_m = grid[:, 2] * columns.factor(header[2], "m")
    in_degrees = _word(header[0]) in X[2:]
    if in_degrees and (abs(grid[:, 0]).max() > 360 or abs(grid[:, 1]).max() > 90):
        raise DataError(f"{header[0]!r} and {header[1]!r} hold values that are no degrees")
    return Marks(grid[:, 0], grid[:, 1], level_m, in_degrees)


def _word(name: str) -> str:
    """A column's name without its unit."""
    return re.split(r"[\s_\[(]", name.strip().lower())[0]


def _find(header: list[str], names: tuple[str, ...]) -> int:
    found = [k for k, name in enumerate(header) if _word(name) in names]
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(names[:1] + names[-1:])
    how_many = "two columns are" if found else "no column is"
    raise DataError(
        f"{how_many} called {names[0]}; name the columns x, y and level_m (or lon, lat); {wanted}"
        f" was looked for in {', '.join(header)[:120]}"
    )
