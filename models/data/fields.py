"""Fields over time on a grid: NetCDF-4 by the CF conventions, read frame by frame."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5netcdf
import h5py
import numpy as np
from jaxtyping import Float

from models.core.errors import DataError
from models.data.contents import notes_alone
from models.data.decode import PIXELS
from models.data.field_axes import axis_of, centres_of, crs_of, text_of, times_of
from models.data.field_units import depth_of

CHUNK_BYTES = 256 * 2**20  # what one read may unpack
HDF5, CLASSIC = b"\x89HDF\r\n\x1a\n", b"CDF"


class Fields(NamedTuple):
    """One variable of an open file.

    Attributes:
        name: of the variable.
        unit: as the file spells it.
        times_s: of the frames, rising; those since a date count from the first one.
        bounds_s: begin and end of each frame [frames, 2]; None: the file has none.
        summed: whether a value is an amount over the bounds of its frame.
        x: centres of the columns, rising, in the unit of ``crs``.
        y: centres of the rows, falling.
        crs: reference system; None: not known.
        notes: sentences about what was converted or assumed.
        source: the variable, its rows turned where they rise.
    """

    name: str
    unit: str
    times_s: Float[np.ndarray, "frames"]
    bounds_s: Float[np.ndarray, "frames 2"] | None
    summed: bool
    x: Float[np.ndarray, "nx"]
    y: Float[np.ndarray, "ny"]
    crs: Any
    notes: list[str]
    source: "_Source"

    @property
    def is_rain(self) -> bool:
        """Whether values are rates of water, or amounts over times that the file tells."""
        given = depth_of(self.unit)
        told = self.summed and self.bounds_s is not None
        return given is not None and (given[1] or told)

    def frame(
        self, k: int, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Float[np.ndarray, "rows columns"]:
        """Values of a frame or of a part of it, float64; NaN where there is none."""
        return self.source.read(k, rows, columns)


class _Source(NamedTuple):
    variable: Any
    turned: tuple[bool, bool]

    def read(self, k: int, *part: slice) -> np.ndarray:
        """Unpacked values, NaN for the fill value and what is out of the valid range."""
        shape = self.variable.shape[1:]
        where = tuple(map(_stored_slice, part, shape, self.turned))
        way = tuple(slice(None, None, -1 if turn else 1) for turn in self.turned)
        try:
            stored = np.asarray(self.variable[k, *where])[way]
        except OSError as error:
            raise DataError(f"frame {k} cannot be read: {error}") from error
        attributes = self.variable.attrs
        values = stored.astype(np.float64)
        for name in ("_FillValue", "missing_value"):
            for fill in np.atleast_1d(attributes.get(name, ())):
                values[stored == fill] = np.nan
        low, high = _valid(attributes)
        values[(values < low) | (values > high)] = np.nan
        values = values * _number(attributes, "scale_factor", 1.0)
        return values + _number(attributes, "add_offset", 0.0)


def _stored_slice(part: slice, count: int, turned: bool) -> slice:
    """Where a part of an axis lies in the file."""
    first, last, _ = part.indices(count)
    return slice(count - last, count - first) if turned else slice(first, last)


def check(path: Path) -> dict[str, Any]:
    """Validate all fields of a file by reading every frame.

    Returns:
        ``frames`` of the longest, ``variables``, ``rain_variables`` of these, and ``contents`` with
        ``notes``.

    Raises:
        DataError: naming what is wrong.
    """
    notes, frames, rain = [], 0, 0
    names = _names(path)
    for name in names:
        with open_fields(path, name) as fields:
            missing, low, high = 0, np.inf, -np.inf
            for k in range(len(fields.times_s)):
                values = fields.frame(k)
                missing += int(np.isnan(values).sum())
                low = np.fmin.reduce(values, axis=None, initial=low)
                high = np.fmax.reduce(values, axis=None, initial=high)
            if low > high:
                raise DataError(f"{name} has no value in any of its cells; leave it out")
            frames, rain = max(frames, len(fields.times_s)), rain + fields.is_rain
            gaps = f", {missing} without a value" if missing else ""
            notes.append(
                f"{name} [{fields.unit}]: {len(fields.times_s)} times from {fields.times_s[0]:g} to"
                f" {fields.times_s[-1]:g} s, {len(fields.y)} x {len(fields.x)} cells, values from"
                f" {low:g} to {high:g}{gaps}"
            )
            notes += fields.notes
    counts = {"frames": frames, "variables": len(names), "rain_variables": rain}
    return counts | {"contents": notes_alone(notes)}


@contextmanager
def open_fields(path: Path, name: str | None = None) -> Generator[Fields]:
    """Open one variable of dimensions time, y and x.

    Args:
        path: of the file.
        name: of the variable; None: the only one.

    Raises:
        DataError: naming what is wrong, also while frames are read.
    """
    names = _names(path)
    if name is None and len(names) > 1:
        raise DataError(f"the file has the variables {', '.join(names)}; name one by variable")
    if name is not None and name not in names:
        raise DataError(
            f"the file has no variable {name!r} of time, y and x; it has {', '.join(names)}"
        )
    with h5netcdf.File(path, "r") as file:
        yield _opened(file, names[0] if name is None else name)


def _names(path: Path) -> list[str]:
    """Variables of time and two coordinates, in a file that refers to nothing outside of it."""
    with path.open("rb") as file:
        magic = file.read(8)
    if magic.startswith(CLASSIC):
        raise DataError("the file is NetCDF of the classic format; nccopy -k nc4 converts it")
    if magic != HDF5:
        raise DataError(f"the file begins with {magic!r}; it is no NetCDF")
    try:
        with h5py.File(path, "r") as raw:
            _refuse_foreign(raw)
        with h5netcdf.File(path, "r") as file:
            names = [name for name, one in file.variables.items() if _is_field(file, one)]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"the NetCDF is damaged or cut short: {error}") from error
    if not names:
        raise DataError(
            "no variable has the dimensions time, y and x in this order, each with a coordinate of"
            " its name in one dimension"
        )
    return names


def _refuse_foreign(raw: h5py.File) -> None:
    """Refuse links to other files, and pieces that unpack to more than memory should hold."""
    for name in raw:
        if not isinstance(raw.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{name!r} is a link; copy what it names into the file")
        one = raw[name]
        if not isinstance(one, h5py.Dataset):
            continue
        if one.external or one.is_virtual:
            raise DataError(f"the values of {name!r} lie in another file; copy them into this one")
        count = np.prod(one.chunks or one.shape[1:] or (1,), dtype=np.float64)
        if count * one.dtype.itemsize > CHUNK_BYTES:
            raise DataError(
                f"a piece of {name!r} unpacks to {count * one.dtype.itemsize:.3g} bytes; at most"
                f" {CHUNK_BYTES} are read at once: nccopy -c time/1 writes smaller ones"
            )


def _is_field(file: h5netcdf.File, variable: Any) -> bool:
    if len(variable.dimensions) != 3 or np.dtype(variable.dtype).kind not in "fiu":
        return False
    axes = [file.variables.get(name) for name in variable.dimensions]
    if any(axis is None or len(axis.shape) != 1 for axis in axes):
        return False
    kinds = [axis_of(name, axis) for name, axis in zip(variable.dimensions, axes, strict=True)]
    return kinds[0] == "time" and kinds[1:] != ["x", "y"]


def _opened(file: h5netcdf.File, name: str) -> Fields:
    variable = file.variables[name]
    if "_Unsigned" in variable.attrs:
        raise DataError(f"{name} is packed with _Unsigned; store it as an unsigned type")
    time, y_name, x_name = variable.dimensions
    notes: list[str] = []
    times, bounds = times_of(file, time, notes)
    crs = crs_of(file, variable, file.variables[x_name])
    x, y = (centres_of(file.variables[axis], axis, crs) for axis in (x_name, y_name))
    if len(x) * len(y) > PIXELS:
        raise DataError(f"{name}: {len(y)} x {len(x)} cells; at most {PIXELS} are allowed")
    turned = bool(y[0] < y[-1]), bool(x[0] > x[-1])
    methods = text_of(variable, "cell_methods").replace(f"{time}:", "time:")
    summed = bounds is not None and "time: sum" in methods
    source = _Source(variable, turned)
    x, y = (x[::-1] if turned[1] else x), (y[::-1] if turned[0] else y)
    return Fields(
        name, text_of(variable, "units"), times, bounds, summed, x, y, crs, notes,
        source,
    )  # fmt: skip


def _valid(attributes: Any) -> tuple[float, float]:
    """Least and greatest packed value that counts."""
    if "valid_range" in attributes:
        low, high = np.asarray(attributes["valid_range"], np.float64)
        return float(low), float(high)
    return _number(attributes, "valid_min", -np.inf), _number(attributes, "valid_max", np.inf)


def _number(attributes: Any, name: str, default: float) -> float:
    return float(np.asarray(attributes.get(name, default), np.float64).reshape(-1)[0])
