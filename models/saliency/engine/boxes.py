"""Which part of each map a change of the image can reach.

For an operation with kernel k, stride s and low padding l, a changed interval [lo, hi) of an axis
reaches [ceil((lo + l - k + 1) / s), floor((hi - 1 + l) / s) + 1), cut at the ends of the map. One
batch has one box size: the largest of its positions, moved inside the map.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from models.saliency.engine.conv import POINT, Window


class Reach(NamedTuple):
    """Intervals of one axis of a map, one for each position of a batch.

    Attributes:
        low: first changed index.
        high: one past the last.
        length: of the axis.
    """

    low: Int64[np.ndarray, "n"]
    high: Int64[np.ndarray, "n"]
    length: int

    @property
    def size(self) -> int:
        """Length of the box of all positions."""
        return int(min(self.length, max(1, (self.high - self.low).max())))

    @property
    def start(self) -> Int64[np.ndarray, "n"]:
        """Where each position's box begins."""
        return np.clip(self.low, 0, self.length - self.size)

    def through(self, kernel: int, stride: int, pad: int, length: int) -> "Reach":
        """The intervals behind an operation whose result has ``length``."""
        low = -((-(self.low + pad - kernel + 1)) // stride)
        high = (self.high - 1 + pad) // stride + 1
        low = np.clip(low, 0, length - 1)
        return Reach(low, np.clip(high, low + 1, length), length)


class Reaches(NamedTuple):
    """Boxes of rows and columns of one map."""

    rows: Reach
    columns: Reach

    def at(self, index: Int64[np.ndarray, "m"]) -> "Reaches":
        """Those of some positions."""
        return Reaches(*(Reach(axis.low[index], axis.high[index], axis.length) for axis in self))

    @property
    def share(self) -> float:
        """Of the map that a box covers."""
        return (self.rows.size * self.columns.size) / (self.rows.length * self.columns.length)

    def through(self, window: Window | None, height: int, width: int) -> "Reaches":
        """The boxes behind an operation."""
        over = window or POINT
        axes = zip(self, over.kernel, over.stride, over.pad, (height, width), strict=True)
        return Reaches(*(axis.through(k, s, p, n) for axis, k, s, p, n in axes))

    def join(self, other: "Reaches") -> "Reaches":
        """The smallest boxes that hold both."""
        pairs = zip(self, other, strict=True)
        return Reaches(
            *(
                Reach(np.minimum(a.low, b.low), np.maximum(a.high, b.high), a.length)
                for a, b in pairs
            )
        )


class Regions(NamedTuple):
    """Parts of an image that change, one after the other.

    Attributes:
        boxes: that hold them.
        masks: from indices to the pixels that change.
    """

    boxes: Reaches
    masks: Callable[[Int64[Tensor, "m"]], Bool[Tensor, "m h w"]]

    @property
    def number(self) -> int:
        """How many."""
        return len(self.boxes.rows.low)


def regions_of(masks: Bool[Tensor, "n h w"]) -> Regions:
    """Regions from their masks."""
    return Regions(reaches_of(masks), lambda index: masks[index])


def reaches_of(masks: Bool[Tensor, "n h w"]) -> Reaches:
    """Bounding boxes of masks; a mask of nothing gets a box of one pixel."""
    return Reaches(reach_of(masks.any(2)), reach_of(masks.any(1)))


def reach_of(touched: Bool[Tensor, "n length"]) -> Reach:
    """First and last touched index of each row; [0, 1) where nothing is touched."""
    found = touched.cpu().numpy()
    length = found.shape[1]
    low = np.where(found.any(1), found.argmax(1), 0)
    high = np.where(found.any(1), length - found[:, ::-1].argmax(1), 1)
    return Reach(low.astype(np.int64), high.astype(np.int64), length)


def groups(boxes: Reaches, size: int) -> list[Int64[np.ndarray, "_"]]:
    """Indices of at most ``size`` boxes that lie near each other, so that they are cut alike."""
    rows, columns = ((axis.low + axis.high) for axis in boxes)
    count = len(rows)
    strips = max(1, round((count / size) ** 0.5))
    found = []
    for strip in np.array_split(np.argsort(rows, kind="stable"), strips):
        ordered = strip[np.argsort(columns[strip], kind="stable")]
        found += np.array_split(ordered, -(-len(strip) // size))
    return found
