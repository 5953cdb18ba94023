"""From the numbers a file stores to heights in metres: voids, scale, offset, unit, range."""

import math
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from models.core.errors import DataError

RANGE_M = (-500.0, 9000.0)  # of dry land on Earth, with a margin; also of what is not nodata
FOOT_M, US_SURVEY_FOOT_M = 0.3048, 1200 / 3937
UNITS_M = {
    1.0: ("", "m", "metre", "metres", "meter", "meters"),
    FOOT_M: ("ft", "foot", "feet", "international foot", "international feet", "ift"),
    US_SURVEY_FOOT_M: (
        "us survey foot", "us survey feet", "survey foot", "survey feet", "us foot", "us feet",
        "us ft", "us-ft", "usft", "ftus", "sft", "foot us",
    ),
    0.1: ("dm", "decimetre", "decimetres", "decimeter", "decimeters"),
    0.01: ("cm", "centimetre", "centimetres", "centimeter", "centimeters"),
    0.001: ("mm", "millimetre", "millimetres", "millimeter", "millimeters"),
    1000.0: ("km", "kilometre", "kilometres", "kilometer", "kilometers"),
}  # fmt: skip
FACTORS = {name: factor for factor, names in UNITS_M.items() for name in names}
SAME_UNIT = 1e-5  # the two feet differ by 2e-6
# what writers put where they know no height; looked for where no nodata value is declared
SENTINELS = (-9999.0, -32768.0, -32767.0, -99999.0, 32767.0)
LARGEST = 1e30  # beyond it a value is float32's limit, which files write to differing digits
VERTICAL_UNIT = re.compile(
    r'VERT(?:_CS|CRS|ICALCRS)\[.*?\b(?:LENGTH)?UNIT\["([^"]+)",\s*([0-9.eE+-]+)', re.DOTALL
)


class Encoding(NamedTuple):
    """How a file stores its values.

    Attributes:
        scale: metres, or the unit of a map, a stored unit.
        offset: in the same unit.
        nodata: stored values that mean "no value here".
        are_heights: whether the values must be plausible heights; False for maps.
    """

    scale: float = 1.0
    offset: float = 0.0
    nodata: tuple[float, ...] = ()
    are_heights: bool = True


def unit_m(unit: str, vertical_wkt: str) -> float:
    """Metres in the unit of a band's heights; 1 where the file names none.

    Args:
        unit: of the band, as the file names it.
        vertical_wkt: coordinate reference system as WKT; its vertical part may name a unit.

    Raises:
        DataError: if a unit is no length, or the two disagree.
    """
    words = re.sub(r"[\s_.()]+", " ", unit.lower()).strip()
    if words not in FACTORS:
        raise DataError(
            f"the band's unit {unit!r} is no unit of length that is known; use metre, foot or US "
            "survey foot, or remove it where the heights are in metres"
        )
    vertical = VERTICAL_UNIT.search(vertical_wkt)
    if vertical is None:
        return FACTORS[words]
    factor = float(vertical.group(2))
    if words and abs(FACTORS[words] / factor - 1) > SAME_UNIT:
        raise DataError(
            f"the band's unit is {unit!r}, the vertical reference system's {vertical.group(1)!r}; "
            "correct one of the two"
        )
    return factor


def encoding(
    scale: float, offset: float, unit: float, nodata: tuple[float, ...]
) -> tuple[Encoding, list[str]]:
    """How heights are stored, and a sentence about each conversion.

    Args:
        scale: band units a stored unit.
        offset: in band units.
        unit: metres a band unit.
        nodata: stored values of missing cells.

    Raises:
        DataError: if the scale is 0 or a number is not finite.
    """
    if not (math.isfinite(scale) and math.isfinite(offset) and scale):
        raise DataError(f"the band's scale is {scale:g}, its offset {offset:g}; correct them")
    notes = []
    if (scale, offset) != (1.0, 0.0):
        notes.append(f"heights are the stored values times {scale:g} plus {offset:g}")
    if unit != 1.0:
        notes.append(f"heights are converted to metres, {unit:.10g} m a unit")
    return Encoding(scale * unit, offset * unit, nodata), notes


def missing_in(
    stored: Shaped[np.ndarray, "ny nx"], nodata: tuple[float, ...]
) -> Bool[np.ndarray, "ny nx"]:
    """Cells whose stored value is one of the nodata values."""
    missing = np.zeros(stored.shape, bool)
    for value in nodata:
        if math.isnan(value):
            missing |= np.isnan(stored)
        elif abs(value) > LARGEST:
            missing |= stored * math.copysign(1.0, value) > LARGEST
        else:
            missing |= stored == _as_stored(value, stored.dtype)
    return missing


def _as_stored(value: float, dtype: np.dtype) -> float:
    """A nodata value as this type holds it: -9999.9 in float32 is another number."""
    return float(np.array(value, dtype)) if dtype.kind == "f" else value


def decode(
    stored: Shaped[np.ndarray, "ny nx"],
    missing: Bool[np.ndarray, "ny nx"],
    how: Encoding,
    top: int,
) -> tuple[Float[np.ndarray, "ny nx"], Bool[np.ndarray, "ny nx"]]:
    """Values in float32, 0 where missing, and the missing cells.

    Args:
        stored: rows of a file.
        missing: cells that the file itself marks.
        how: they are stored.
        top: index of the first row, for messages.

    Raises:
        DataError: if a value is not finite or no plausible height, with the offer of ``nodata``.
    """
    missing = missing | missing_in(stored, how.nodata)
    known = np.where(missing, 0, stored)
    reason = (
        'is NaN or infinite; if NaN marks cells without a value, give `nodata` as "nan"'
        " (options.nodata of the upload, terrain.nodata of a job, --nodata nan) or declare it in"
        " the file"
    )
    _check_each(np.isfinite(known), known, top, reason)
    values = known.astype(np.float64) * how.scale + how.offset if _is_scaled(how) else known
    if how.are_heights:
        _check_heights(values, stored, missing, how, top)
    return np.where(missing, 0, values).astype(np.float32), missing


def _is_scaled(how: Encoding) -> bool:
    return (how.scale, how.offset) != (1.0, 0.0)


def _check_heights(
    values: np.ndarray, stored: np.ndarray, missing: np.ndarray, how: Encoding, top: int
) -> None:
    """Refuse what is no height, and what usually marks a void where no value is declared to."""
    plausible = missing | ((values >= RANGE_M[0]) & (values <= RANGE_M[1]))
    if not how.nodata:
        plausible &= ~np.isin(stored, SENTINELS)
    reason = (
        f"is no height from {RANGE_M[0]:g} to {RANGE_M[1]:g} m; if it marks cells without a height,"
        " give it as `nodata` (options.nodata of the upload, terrain.nodata of a job) or declare it"
        " in the file; if not, correct the unit or the scale"
    )
    _check_each(plausible, stored, top, reason)


def _check_each(good: np.ndarray, stored: np.ndarray, top: int, reason: str) -> None:
    if good.all():
        return
    row, column = (int(k) for k in np.argwhere(~good)[0])
    value = float(stored[row, column])
    raise DataError(f"the value {value:.9g} at row {top + row}, column {column} {reason}")
