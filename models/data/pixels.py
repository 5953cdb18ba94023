"""Arrays of pixels from strangers: which axis is which, and which value is white."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from models.core.errors import DataError
from models.data.contents import Contents
from models.data.decode import BANDS, DEEP_TO_BYTE, check_size

WHITE = 255
CHUNK = 1024  # images converted at once
USUAL_CHANNELS = (1, 3, 4)
LAYOUT_HINT = "images are [n, h, w] or [n, h, w, c]; numpy.transpose brings the axes in order"


def as_pictures(
    arrays: Mapping[str, np.ndarray], contents: Contents
) -> dict[str, UInt8[np.ndarray, "_n _h _w _c"]]:
    """Images of all arrays as uint8 [n, h, w, c]; layout and scale are decided over all of them.

    Channels first are recognised by their number. Floats in [0, 1] are multiplied by 255, other
    numbers in [0, 255] rounded, integers up to 65535 divided by 257.

    Args:
        arrays: by name.
        contents: takes note of what was recognised.

    Raises:
        DataError: if there are no images, the layout is ambiguous, or the values fit no scale.
    """
    for name, values in arrays.items():
        if values.size == 0:
            raise DataError(f"{name}: shape {values.shape}, so no images")
    ordered = {name: _channels_last(values, name, contents) for name, values in arrays.items()}
    scale = _scale(ordered, contents)
    return {name: _bytes(values, scale) for name, values in ordered.items()}


def _channels_last(values: np.ndarray, name: str, contents: Contents) -> np.ndarray:
    if values.ndim == 3:
        values = values[..., None]
    elif values.ndim != 4:
        raise DataError(f"{name}: shape {values.shape}; give [n, h, w] or [n, h, w, c]")
    elif _channels_first(values.shape, name):
        contents.notes.append(f"{name}: shape {values.shape} read as [n, c, h, w]")
        values = np.moveaxis(values, 1, 3)
    check_size(*values.shape[1:], name)
    return values


def _channels_first(shape: tuple[int, ...], name: str) -> bool:
    """Whether [n, a, b, c] has its channels in ``a``.

    The axis of the likelier number of channels has them; of equally likely ones the axis that
    leaves square images.

    Raises:
        DataError: if both are equally likely.
    """
    _, a, b, c = shape
    first, last = _unlikely(a), _unlikely(c)
    if first != last:
        return first < last
    if first == _unlikely(BANDS + 1):
        raise DataError(
            f"{name}: shape {shape}; {c} bands, from 1 to {BANDS} are allowed", LAYOUT_HINT
        )
    if (a == b) != (b == c):
        return b == c
    raise DataError(
        f"{name}: shape {shape} may be [n, h, w, c] or [n, c, h, w]; which cannot be known",
        LAYOUT_HINT,
    )


def _unlikely(channels: int) -> int:
    """0 for usual numbers of channels, 1 for possible ones, 2 for others."""
    return 0 if channels in USUAL_CHANNELS else 1 if channels <= BANDS else 2


def _scale(arrays: Mapping[str, np.ndarray], contents: Contents) -> float:
    """The factor that makes white 255."""
    kinds = {values.dtype.kind for values in arrays.values()}
    names = ", ".join(arrays)
    if kinds - set("buif"):
        raise DataError(f"{names}: values of {', '.join(str(v.dtype) for v in arrays.values())}")
    highest = {name: float(values.max()) for name, values in arrays.items()}
    low, high = float(min(values.min() for values in arrays.values())), max(highest.values())
    if not 0 <= low <= high <= np.iinfo(np.uint16).max:  # NaN too
        raise DataError(
            f"{names}: values from {low:g} to {high:g}; give uint8 from 0 to 255, or floats from 0 "
            "to 1 (undo a normalisation by mean and deviation)"
        )
    _check_alike(arrays, highest)
    if kinds == {"b"} or (kinds == {"f"} and high <= 1):
        contents.notes.append(f"{names}: values from 0 to 1 multiplied by {WHITE}")
        return float(WHITE)
    if high > WHITE:
        if "f" in kinds:
            raise DataError(
                f"{names}: floats to {high:g}; give uint8 from 0 to 255, or floats from 0 to 1"
            )
        contents.notes.append(f"{names}: 16-bit values to {high:g} divided by {DEEP_TO_BYTE}")
        return 1 / DEEP_TO_BYTE
    if any(values.dtype != np.uint8 for values in arrays.values()):
        contents.notes.append(f"{names}: values from {low:g} to {high:g} rounded to whole numbers")
    elif high <= WHITE // 8:
        contents.notes.append(f"{names}: dark, the highest value is {high:g} of {WHITE}")
    return 1.0


def _check_alike(arrays: Mapping[str, np.ndarray], highest: Mapping[str, float]) -> None:
    """Refuse parts of different scales: those of the lesser one would come out black.

    Raises:
        DataError: naming an array of either scale.
    """
    most = max(highest, key=highest.__getitem__)
    for name, values in arrays.items():
        is_share = highest[name] <= 1 < highest[most] and _has_shares(values)
        if is_share or (values.dtype.itemsize == 1 and highest[most] > WHITE):
            raise DataError(
                f"{name}: {values.dtype} up to {highest[name]:g}, but {most} goes up to "
                f"{highest[most]:g}; bring all parts to one scale"
            )


def _has_shares(values: np.ndarray) -> bool:
    """Whether values from 0 to 1 are shares of white; whole floats may be a dark picture."""
    return values.dtype.kind == "b" or bool((values != np.rint(values)).any())


def _bytes(values: np.ndarray, scale: float) -> UInt8[np.ndarray, "n h w c"]:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    result = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), CHUNK):
        result[start : start + CHUNK] = np.rint(values[start : start + CHUNK] * np.float64(scale))
    return result
