"""Units of CF: of a rate of rain, of an amount, of time, of coordinates. Torch-free."""

import re
from collections import Counter
from datetime import datetime

from models.core.errors import DataError

TIMES_S = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
LENGTHS_M = {
    **dict.fromkeys(("mm", "millimetre", "millimeter"), 1e-3),
    **dict.fromkeys(("cm",), 1e-2),
    **dict.fromkeys(("m", "metre", "meter"), 1.0),
    **dict.fromkeys(("in", "inch", "inches"), 0.0254),
}
AREA = "m-2"  # a kilogram of water on it is a millimetre deep
WATER_M = 1e-3
FACTOR = re.compile(r"([a-z]+)(-?\d+)?$")
SINCE = re.compile(r"\s*(\w+)\s+since\s+(.+?)\s*$", re.IGNORECASE)


def depth_of(unit: str) -> tuple[float, bool] | None:
    """Metres of water, or metres a second, that one of a unit is; None: a unit of something else.

    Args:
        unit: such as ``mm h-1``, ``mm/hr``, ``kg m-2 s-1``, ``m s**-1``; ``mm`` is an amount.

    Returns:
        The factor, and whether the unit is a rate.
    """
    powers = _powers(unit)
    if powers is None:
        return None
    per = [word for word in powers if word in TIMES_S]
    if len(per) > 1 or any(powers[word] != -1 for word in per):
        return None
    over_s = TIMES_S[per[0]] if per else 1.0
    rest = {word: power for word, power in powers.items() if word not in per}
    if rest == {"kg": 1, "m": -2}:
        return WATER_M / over_s, bool(per)
    if len(rest) == 1 and (word := next(iter(rest))) in LENGTHS_M and rest[word] == 1:
        return LENGTHS_M[word] / over_s, bool(per)
    return None


def _powers(unit: str) -> dict[str, int] | None:
    """Base units and their powers; None if a word is none."""
    powers: Counter[str] = Counter()
    text = unit.lower().replace("**", "").replace("^", "").replace(" per ", "/")
    for k, part in enumerate(text.split("/")):
        for word in re.split(r"[\s.*]+", part.strip()):
            match = FACTOR.match(word)
            if match is None:
                return None
            powers[match.group(1)] += (-1 if k else 1) * int(match.group(2) or 1)
    return dict(powers)


def seconds_of(unit: str) -> tuple[float, datetime | None]:
    """Seconds of a unit of time, and the date that it counts from, if it names one.

    Raises:
        DataError: if it is no unit of time, or its date cannot be read.
    """
    match = SINCE.match(unit)
    word = (match.group(1) if match else unit).strip().lower()
    if word not in TIMES_S:
        raise DataError(
            f"the times are in {unit!r}; give s, min, h or d, of the flood or since a date, such as"
            " hours since 2024-05-01 00:00:00"
        )
    return TIMES_S[word], (_date(match.group(2)) if match else None)


def _date(text: str) -> datetime:
    """A date of CF, such as ``2024-5-1 6:00:00.0 UTC``."""
    plain = re.sub(r"\s*(UTC|GMT|Z|\+0{1,2}:?0{0,2})$", "", text.strip(), flags=re.IGNORECASE)
    match = re.match(r"(\d{1,4})-(\d{1,2})-(\d{1,2})(?:[T\s]+(\d{1,2})(?::(\d{1,2}))?)?", plain)
    parts = (0,) * 5 if match is None else tuple(int(part or 0) for part in match.groups())
    year, month, day, hour, minute = parts
    try:
        return datetime(year, month, day, hour, minute)  # noqa: DTZ001  # as the file says
    except ValueError as error:
        raise DataError(f"the times count from {text!r}, which is no date") from error
