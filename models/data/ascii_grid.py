"""ASCII grids of Esri: header lines in any order, then rows of numbers; read strictly.

GDAL reads short rows, thousands commas, Fortran exponents and a first NaN as other numbers than
those written, without a word.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from models.core.errors import DataError

KEYS = {
    "ncols", "nrows", "xllcorner", "yllcorner", "xllcenter", "yllcenter", "cellsize", "dx", "dy",
    "nodata_value",
}  # fmt: skip
PIECE = 1 << 22  # characters of a line read at once
ROWS_AT_A_TIME = 256
FORTRAN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))[dD]([-+]?\d+)")
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
AMBIGUOUS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")  # 1,234: thousands or a decimal comma?


class Header(NamedTuple):
    """Of an ASCII grid.

    Attributes:
        columns: cells a row.
        rows: of the grid.
        left: x of the outer left edge, in the unit of the coordinates.
        bottom: y of the outer lower edge.
        cell: width and height of a cell.
        nodata: text that marks a cell without value; None: there is none.
    """

    columns: int
    rows: int
    left: float
    bottom: float
    cell: tuple[float, float]
    nodata: str | None

    @property
    def nodata_value(self) -> float | None:
        """``nodata`` as a number; None where it is a word or absent."""
        try:
            return None if self.nodata is None else _number(self.nodata)
        except ValueError:
            return None


def begins(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an ASCII grid."""
    words = head.decode("utf-8-sig", errors="replace").split(maxsplit=1)
    return bool(words) and words[0].lower() in KEYS


def open_text(path: Path) -> TextIO:
    """The file as text, with any line ends and with or without a byte order mark."""
    return path.open(encoding="utf-8-sig", errors="replace")


def read_header(file: TextIO) -> Header:
    """Read the header; the file then stands before the first row.

    Raises:
        DataError: naming the entry that is missing or wrong.
    """
    entries: dict[str, str] = {}
    while True:
        before = file.tell()
        words = file.readline(PIECE).split()
        if len(words) != 2 or words[0].lower() not in KEYS:
            file.seek(before)
            break
        entries[words[0].lower()] = words[1]
    cell = _entry(entries, "cellsize", "dx"), _entry(entries, "cellsize", "dy")
    return Header(
        _count(entries, "ncols"),
        _count(entries, "nrows"),
        _corner(entries, "x", cell[0]),
        _corner(entries, "y", cell[1]),
        cell,
        entries.get("nodata_value"),
    )


def _entry(entries: dict[str, str], *names: str) -> float:
    """The number of the first of these entries that is there."""
    name = next((name for name in names if name in entries), None)
    if name is None:
        raise DataError(f"the header of the ASCII grid has no {' or '.join(names)}")
    try:
        return _number(entries[name])
    except ValueError as error:
        raise DataError(f"the header of the ASCII grid: {name} is {entries[name]!r}") from error


def _number(text: str) -> float:
    """A number with a decimal point or comma and an exponent with E or D."""
    return float(FORTRAN.sub(r"\1e\2", text).replace(",", "."))


def _plain(token: str) -> float | None:
    """A number as written; None for anything else, also for Python's 1_000."""
    try:
        return None if "_" in token or "," in token else float(token)
    except ValueError:
        return None


def _count(entries: dict[str, str], name: str) -> int:
    value = _entry(entries, name)
    if value < 1 or value % 1:
        raise DataError(f"the header of the ASCII grid: {name} is {entries[name]}; give 1 or more")
    return int(value)


def _corner(entries: dict[str, str], axis: str, size: float) -> float:
    corner = _entry(entries, f"{axis}llcorner", f"{axis}llcenter")
    return corner if f"{axis}llcorner" in entries else corner - size / 2


class Rows:
    """The rows below a header, read once.

    Attributes:
        notes: a sentence about everything that was not a plain number; complete after reading.

    Args:
        file: standing before the first row.
        header: of the file.
    """

    def __init__(self, file: TextIO, header: Header) -> None:
        self.notes: list[str] = []
        self._file, self._header = file, header
        self._line, self._uneven = 0, ""
        self._nan = self._comma = self._point = self._fortran = False
        self._ambiguous = ""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of whole rows, float64 [k, columns]; NaN where there is no value.

        Raises:
            DataError: naming the row that is short, long or no number.
        """
        columns, total = self._header.columns, self._header.columns * self._header.rows
        pending: list[np.ndarray] = []
        held = done = 0
        for values in self._pieces():
            pending.append(values)
            held += len(values)
            if done + held > total:
                self._wrong_count(done + held, more=True)
            if held >= ROWS_AT_A_TIME * columns:
                flat = np.concatenate(pending)
                whole = held // columns * columns
                yield flat[:whole].reshape(-1, columns)
                pending, held, done = [flat[whole:]], held - whole, done + whole
        if done + held != total:
            self._wrong_count(done + held, more=False)
        self._check_lines()
        self._check_commas()
        if held:
            yield np.concatenate(pending).reshape(-1, columns)
        self._describe()

    def _pieces(self) -> Iterator[np.ndarray]:
        """The numbers of a line, or of a part of a long one."""
        rest, count = "", 0
        while piece := self._file.readline(PIECE):
            ended, piece, rest = piece.endswith("\n"), rest + piece, ""
            if not ended and not piece[-1].isspace():
                cut = len(piece) - len(piece.split()[-1])
                piece, rest = piece[:cut], piece[cut:]
            tokens = piece.split()
            count += len(tokens)
            yield self._numbers(tokens, piece)
            if ended:
                self._end_line(count)
                count = 0
        if rest:
            yield self._numbers([rest], rest)
        self._end_line(count + bool(rest))

    def _end_line(self, count: int) -> None:
        if count == 0:
            return
        self._line += 1
        if count != self._header.columns and not self._uneven:
            self._uneven = (
                f"row {self._line} of {self._header.rows} has {count} values, ncols is"
                f" {self._header.columns}"
            )

    def _numbers(self, tokens: list[str], text: str) -> np.ndarray:
        self._point = self._point or "." in text
        if "," in text or "_" in text:
            return self._each(tokens)
        try:
            values = np.array(tokens, np.float64)
        except ValueError:
            return self._each(tokens)
        self._nan = self._nan or bool(np.isnan(values).any())
        return values

    def _each(self, tokens: list[str]) -> np.ndarray:
        return np.array([self._number(token) for token in tokens], np.float64)

    def _number(self, token: str) -> float:
        """One number that numpy does not read, or a word for no value."""
        if token == self._header.nodata and self._header.nodata_value is None:
            return np.nan
        if FORTRAN.fullmatch(token):
            self._fortran = True
            return _number(token)
        if DECIMAL_COMMA.fullmatch(token):
            self._comma = True
            if not AMBIGUOUS.fullmatch(token):
                self._ambiguous = "-"  # settled: no thousands have so few or so many digits
            elif not self._ambiguous:
                self._ambiguous = f"row {self._line + 1}: {token!r}"
            return _number(token)
        value = _plain(token)
        if value is None:
            raise DataError(
                f"row {self._line + 1} of the ASCII grid: {token!r} is no number; write numbers"
                " without thousands separators, divided by blanks"
            )
        self._nan = self._nan or math.isnan(value)
        return value

    def _wrong_count(self, count: int, *, more: bool) -> None:
        rows, columns = self._header.rows, self._header.columns
        if more:
            raise DataError(
                f"row {rows + 1} of the ASCII grid is beyond nrows {rows}: more than {rows} x"
                f" {columns} values"
            )
        why = self._uneven or f"the last is in row {count // columns + 1} of {rows}"
        raise DataError(
            f"the ASCII grid is damaged or cut short: {count} values for {rows} rows of"
            f" {columns}: {why}"
        )

    def _check_lines(self) -> None:
        """A line for each row and one of them uneven: the values after it would be shifted."""
        if self._uneven and self._line == self._header.rows:
            raise DataError(f"the ASCII grid: {self._uneven}")

    def _check_commas(self) -> None:
        if not self._comma:
            return
        if self._point or self._ambiguous != "-":
            where = self._ambiguous.removeprefix("-") or "commas beside decimal points"
            raise DataError(
                f"the ASCII grid: {where}: thousands or decimals? Write 1234.5 for one thousand two"
                " hundred and thirty-four and a half"
            )

    def _describe(self) -> None:
        if self._comma:
            self.notes.append("commas are decimal points")
        if self._fortran:
            self.notes.append("exponents with D are those of Fortran")
        if self._nan:
            self.notes.append("cells that are NaN have no height")
