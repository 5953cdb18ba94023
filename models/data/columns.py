"""Tables of numbers as CSV: header, separator, units in the names of columns; read strictly."""

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from models.core.errors import DataError

ROWS = 1_000_000
LINE = 1 << 16  # characters; a longer line is no row of numbers
SEPARATORS = ",;\t"
FOOT_M, CUBIC_FOOT_M3 = 0.3048, 0.028316846592
# by the unit that a field of a spec has: how many of it are one of the named
UNITS = {
    "m3_s": {"m3_s": 1.0, "cumec": 1.0, "cumecs": 1.0, "l_s": 1e-3, "ft3_s": CUBIC_FOOT_M3},
    "m": {"m": 1.0, "cm": 0.01, "mm": 0.001, "ft": FOOT_M},
    "mm_h": {"mm_h": 1.0, "mm_s": 3600.0, "m_s": 3.6e6, "in_h": 25.4},
    "s": {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
}
SPELLINGS = {  # other words for a unit, as gauges and loggers write them
    **dict.fromkeys(("m3s", "cms", "m3_sec"), "m3_s"),
    **dict.fromkeys(("cfs", "cusec", "cusecs", "ft3s"), "ft3_s"),
    **dict.fromkeys(("metre", "metres", "meter", "meters"), "m"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **dict.fromkeys(("mmh", "mm_hr"), "mm_h"),
    **dict.fromkeys(("inches_h", "inches_hr", "in_hr"), "in_h"),
}
# a unit of these would be taken for one of none, and its numbers for those of another
FOREIGN = {"gpm", "mgd", "mld", "kcfs", "inch", "inches", "yd", "yard", "yards", "km", "psi", "bar"}
KNOWN = {unit for units in UNITS.values() for unit in units} | set(SPELLINGS) | FOREIGN
BRACKETS = re.compile(r"^(.*?)[\[(]([^\])]*)[\])]\s*$")


class NumberTable(NamedTuple):
    """Columns of numbers.

    Attributes:
        header: names of the columns as they stand in the file.
        rows: cells of each row, as text.
        separator: between cells.
    """

    header: list[str]
    rows: Iterator[tuple[int, list[str]]]
    separator: str


def unit_of(name: str) -> str | None:
    """The unit in the name of a column: in brackets, or after its last words; None: none.

    A unit in brackets is returned as it is spelled if it is not known, a suffix only if it is.
    """
    bracketed = BRACKETS.match(name.strip())
    if bracketed is not None:
        return _spelled(bracketed.group(2))
    words = re.split(r"[\s_/]+", name.strip().lower().replace("³", "3"))
    words = [word for word in words if word not in ("per", "")]
    for count in (2, 1):
        if len(words) >= count and "_".join(words[-count:]) in KNOWN:
            return _same("_".join(words[-count:]))
    return None


def _spelled(unit: str) -> str:
    """``m³/s``, ``m3 s-1`` and ``mm per hour`` as this module spells them."""
    text = unit.strip().lower().replace("³", "3").replace("^", "")
    text = re.sub(r"\s*(/|\bper\b)\s*", "_", text).replace(" s-1", "_s").replace(" h-1", "_h")
    text = text.replace("hour", "h").replace("hr", "h")
    times = {"seconds": "s", "sec": "s", "minutes": "min", "hours": "h", "days": "d"}
    return times.get(text, _same(text))


def _same(unit: str) -> str:
    """A unit by the word of ``UNITS`` for it."""
    return SPELLINGS.get(unit, unit)


def factor(name: str, unit: str) -> float:
    """How many of ``unit`` one of a column's unit is; 1 where its name tells none.

    Args:
        name: of the column.
        unit: one of the keys of ``UNITS``.

    Raises:
        DataError: if the column has a unit of something else.
    """
    given = unit_of(name)
    if given is None:
        return 1.0
    if given not in UNITS[unit]:
        raise DataError(
            f"the column {name!r} is in {given}, which is no unit of what is asked for here; use "
            f"{', '.join(UNITS[unit])}, or a name without a unit for {unit}"
        )
    return UNITS[unit][given]


def read(path: Path) -> NumberTable:
    """The header and the rows of a file; blank lines and lines that begin with # are left out.

    Raises:
        DataError: if it is no text, has no header, or two columns have one name.
    """
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise DataError("the file is empty; the first line names the columns")
    separator = max(SEPARATORS, key=first[1].count)
    header = [name.strip() for name in next(csv.reader([first[1]], delimiter=separator))]
    if len(header) < 2 or any(_is_number(name) for name in header):
        raise DataError(
            f"the first line {first[1][:60]!r} does not name two columns or more, separated by a"
            " comma, a semicolon or a tab"
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled or "" in header:
        raise DataError(
            f"two columns are called {doubled[0]!r}" if doubled else "a column has no name"
        )
    return NumberTable(header, _rows(lines, separator, len(header)), separator)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            number = 0
            while line := file.readline(LINE):
                number += 1
                if len(line) >= LINE:
                    raise DataError(f"line {number} has {LINE} characters or more")
                if line.strip() and not line.startswith("#"):
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError("the file is no text in UTF-8; save it as CSV in UTF-8") from error


def _rows(
    lines: Iterator[tuple[int, str]], separator: str, columns: int
) -> Iterator[tuple[int, list[str]]]:
    for count, (number, line) in enumerate(lines, 1):
        if count > ROWS:
            raise DataError(f"more than {ROWS:,} rows; thin the table out")
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
        if len(cells) != columns:
            raise DataError(f"line {number} has {len(cells)} cells, the header {columns}")
        yield number, cells


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def number(text: str, line: int, name: str, separator: str) -> float:
    """A cell as a finite number; a decimal comma is read where it does not separate cells.

    Raises:
        DataError: naming the line and the column.
    """
    plain = text.replace(",", ".") if separator != "," and text.count(",") == 1 else text
    try:
        value = float(plain)
    except ValueError as error:
        shown = "is empty" if not text else f"holds {text[:40]!r}, which is no number"
        raise DataError(f"line {line}: the column {name!r} {shown}") from error
    if not math.isfinite(value):
        raise DataError(f"line {line}: the column {name!r} holds {text!r}; leave the row out")
    return value


def numbers(table: NumberTable) -> Float[np.ndarray, "rows columns"]:
    """All cells as float64.

    Raises:
        DataError: naming line and column of what is no finite number.
    """
    made = [
        [
            number(cell, line, name, table.separator)
            for name, cell in zip(table.header, cells, strict=True)
        ]
        for line, cells in table.rows
    ]
    return np.array(made, np.float64).reshape(-1, len(table.header))
