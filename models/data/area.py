"""Area means: images brought to a smaller size, exact to the rounding of their division."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt8

HIGHEST = 255
SUMS = (np.uint16, np.uint32, np.uint64)


class _Windows(NamedTuple):
    """Neighbouring, maybe overlapping windows that cover an axis; entry by entry.

    Attributes:
        first: index of each window's first entry.
        further: by distance from the first: the windows that reach so far, and their entries there.
        lengths: of the windows, in pixels.
    """

    first: Int64[np.ndarray, " m"]
    further: list[tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]]
    lengths: Float32[np.ndarray, " windows"]


def area_means(
    images: UInt8[np.ndarray, "n h w c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n new_h new_w c"]:
    """Means of whole pixels: those of ``interpolate(mode="area")``, bit by bit, in less time.

    Window ``i`` of an axis from ``a`` to ``b`` pixels reaches from ``floor(i a / b)`` to
    ``ceil((i + 1) a / b)``. Its pixels are summed as integers along each axis in turn; the sum is
    divided by height and width of the window in float32 and rounded to even.

    Args:
        images: of one size.
        size: new height and width, at most the present ones.
    """
    count, height, width, channels = images.shape
    rows, columns = _windows(height, size[0], 1), _windows(width, size[1], channels)
    most = HIGHEST * int(rows.lengths.max()) * int(columns.lengths.max())
    kind = next(each for each in SUMS if most <= np.iinfo(each).max)
    sums = _sums(images.reshape(count, height, width * channels), rows, 1, kind)
    sums = _sums(sums, columns, 2, kind)
    means = sums.reshape(count, *size, channels).astype(np.float32)
    means /= rows.lengths[:, None, None]
    means /= columns.lengths[:, None]
    return np.rint(means, out=means).astype(np.uint8)


def _sums(
    values: Shaped[np.ndarray, "n h k"],
    windows: _Windows,
    axis: int,
    kind: type[np.unsignedinteger],
) -> Shaped[np.ndarray, "n new_h new_k"]:
    """Sums of the windows along an axis."""
    ahead = (slice(None),) * axis
    sums = values[*ahead, windows.first].astype(kind, copy=False)
    for reaching, entries in windows.further:
        if len(reaching) == len(windows.first):
            sums += values[*ahead, entries]
        else:
            sums[*ahead, reaching] += values[*ahead, entries]
    return sums


@lru_cache(maxsize=64)
def _windows(pixels: int, count: int, channels: int) -> _Windows:
    """So many windows over an axis of pixels that have so many entries each."""
    each = np.arange(count, dtype=np.int64)
    first = each * pixels // count
    lengths = -(-(each + 1) * pixels // count) - first
    channel = np.arange(channels)

    def entries(pixel: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " m"]:
        return (pixel[:, None] * channels + channel).ravel()

    further = []
    for distance in range(1, int(lengths.max())):
        reaching = np.flatnonzero(lengths > distance)
        further.append((entries(reaching), entries(first[reaching] + distance)))
    return _Windows(entries(first), further, lengths.astype(np.float32))
