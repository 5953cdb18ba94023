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

from models.saliency.engine.conv import POINT, KernelWindow


class Intervals(NamedTuple):
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

    def propagate(self, kernel: int, stride: int, pad: int, length: int) -> "Intervals":
        """The intervals behind an operation whose result has ``length``."""
        low = -((-(self.low + pad - kernel + 1)) // stride)
        high = (self.high - 1 + pad) // stride + 1
        low = np.clip(low, 0, length - 1)
        return Intervals(low, np.clip(high, low + 1, length), length)


class Boxes(NamedTuple):
    """Boxes of rows and columns of one map."""

    rows: Intervals
    columns: Intervals

    def at(self, index: Int64[np.ndarray, "m"]) -> "Boxes":
        """Those of some positions."""
        return Boxes(*(Intervals(axis.low[index], axis.high[index], axis.length) for axis in self))

    @property
    def share(self) -> float:
        """Of the map that a box covers."""
        return (self.rows.size * self.columns.size) / (self.rows.length * self.columns.length)

    def propagate(self, window: KernelWindow | None, height: int, width: int) -> "Boxes":
        """The boxes behind an operation."""
        over = window or POINT
        axes = zip(self, over.kernel, over.stride, over.pad, (height, width), strict=True)
        return Boxes(*(axis.propagate(k, s, p, n) for axis, k, s, p, n in axes))

    def join(self, other: "Boxes") -> "Boxes":
        """The smallest boxes that hold both."""
        pairs = zip(self, other, strict=True)
        return Boxes(
            *(
                Intervals(np.minimum(a.low, b.low), np.maximum(a.high, b.high), a.length)
                for a, b in pairs
            )
        )


class Regions(NamedTuple):
    """Parts of an image that change, one after the other.

    Attributes:
        boxes: that hold them.
        masks: from indices to the pixels that change.
    """

    boxes: Boxes
    masks: Callable[[Int64[Tensor, "m"]], Bool[Tensor, "m h w"]]

    @property
    def number(self) -> int:
        """How many."""
        return len(self.boxes.rows.low)


def regions_of(masks: Bool[Tensor, "n h w"]) -> Regions:
    """Regions from their masks."""
    return Regions(boxes_of(masks), lambda index: masks[index])


def boxes_of(masks: Bool[Tensor, "n h w"]) -> Boxes:
    """Bounding boxes of masks; a mask of nothing gets a box of one pixel."""
    return Boxes(intervals_of(masks.any(2)), intervals_of(masks.any(1)))


def intervals_of(touched: Bool[Tensor, "n length"]) -> Intervals:
    """First and last touched index of each row; [0, 1) where nothing is touched."""
    changed = touched.cpu().numpy()
    length = changed.shape[1]
    low = np.where(changed.any(1), changed.argmax(1), 0)
    high = np.where(changed.any(1), length - changed[:, ::-1].argmax(1), 1)
    return Intervals(low.astype(np.int64), high.astype(np.int64), length)


def groups(boxes: Boxes, size: int) -> list[Int64[np.ndarray, "_"]]:
    """Indices of at most ``size`` boxes that lie near each other, so that they are cut alike."""
    rows, columns = ((axis.low + axis.high) for axis in boxes)
    count = len(rows)
    strips = max(1, round((count / size) ** 0.5))
    batches = []
    for strip in np.array_split(np.argsort(rows, kind="stable"), strips):
        ordered = strip[np.argsort(columns[strip], kind="stable")]
        batches += np.array_split(ordered, -(-len(strip) // size))
    return batches
