"""Propagation of changed boxes through the operations of a net.

For an operation with kernel k, stride s and low padding l, a changed input interval [lo, hi) of an
axis affects the outputs [ceil((lo + l - k + 1) / s), floor((hi - 1 + l) / s) + 1), clipped to the
map. All positions of a batch use one box size, that of the largest box; boxes are shifted to lie
inside the map.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from models.saliency.engine.conv import POINT_WINDOW, KernelWindow


class Intervals(NamedTuple):
    """Changed intervals along one axis of a map, one for each position of a batch.

    Attributes:
        low: first changed index.
        high: one past the last.
        length: size of the axis.
    """

    low: Int64[np.ndarray, "n"]
    high: Int64[np.ndarray, "n"]
    length: int

    @property
    def size(self) -> int:
        """Box size that all positions share."""
        return int(min(self.length, max(1, (self.high - self.low).max())))

    @property
    def start(self) -> Int64[np.ndarray, "n"]:
        """First index of each position's box."""
        return np.clip(self.low, 0, self.length - self.size)

    def propagate(self, kernel: int, stride: int, pad: int, length: int) -> "Intervals":
        """The affected intervals of an operation's output.

        Args:
            kernel: size along this axis, dilation included.
            stride: along this axis.
            pad: padding before the axis.
            length: size of the output along this axis.
        """
        low = -((-(self.low + pad - kernel + 1)) // stride)
        high = (self.high - 1 + pad) // stride + 1
        low = np.clip(low, 0, length - 1)
        return Intervals(low, np.clip(high, low + 1, length), length)


class Boxes(NamedTuple):
    """Changed boxes of one map: intervals of rows and of columns."""

    rows: Intervals
    columns: Intervals

    def at(self, index: Int64[np.ndarray, "m"]) -> "Boxes":
        """The boxes of some positions."""
        return Boxes(*(Intervals(axis.low[index], axis.high[index], axis.length) for axis in self))

    @property
    def share(self) -> float:
        """Fraction of the map that a box covers."""
        return (self.rows.size * self.columns.size) / (self.rows.length * self.columns.length)

    def propagate(self, window: KernelWindow | None, height: int, width: int) -> "Boxes":
        """The affected boxes of an operation's output of ``height`` x ``width``."""
        geometry = window or POINT_WINDOW
        axes = zip(
            self, geometry.kernel, geometry.stride, geometry.pad, (height, width), strict=True
        )
        return Boxes(*(axis.propagate(k, s, p, n) for axis, k, s, p, n in axes))

    def join(self, other: "Boxes") -> "Boxes":
        """The smallest boxes that contain both."""
        pairs = zip(self, other, strict=True)
        return Boxes(
            *(
                Intervals(np.minimum(a.low, b.low), np.maximum(a.high, b.high), a.length)
                for a, b in pairs
            )
        )


class Regions(NamedTuple):
    """Regions of an image, each replaced on its own.

    Attributes:
        boxes: bounding boxes.
        masks: maps region indices to masks of the pixels to replace.
    """

    boxes: Boxes
    masks: Callable[[Int64[Tensor, "m"]], Bool[Tensor, "m h w"]]

    @property
    def number(self) -> int:
        """Number of regions."""
        return len(self.boxes.rows.low)


def regions_of(masks: Bool[Tensor, "n h w"]) -> Regions:
    """Regions from their masks."""
    return Regions(boxes_of(masks), lambda index: masks[index])


def boxes_of(masks: Bool[Tensor, "n h w"]) -> Boxes:
    """Bounding boxes of masks; an empty mask gets a box of one pixel."""
    return Boxes(intervals_of(masks.any(2)), intervals_of(masks.any(1)))


def intervals_of(touched: Bool[Tensor, "n length"]) -> Intervals:
    """Interval from the first to the last True of each row; [0, 1) where there is none."""
    changed = touched.cpu().numpy()
    length = changed.shape[1]
    low = np.where(changed.any(1), changed.argmax(1), 0)
    high = np.where(changed.any(1), length - changed[:, ::-1].argmax(1), 1)
    return Intervals(low.astype(np.int64), high.astype(np.int64), length)


def groups(boxes: Boxes, size: int) -> list[Int64[np.ndarray, "_"]]:
    """Batches of at most ``size`` boxes near each other, so that border boxes share batches."""
    rows, columns = ((axis.low + axis.high) for axis in boxes)
    count = len(rows)
    strips = max(1, round((count / size) ** 0.5))
    batches = []
    for strip in np.array_split(np.argsort(rows, kind="stable"), strips):
        ordered = strip[np.argsort(columns[strip], kind="stable")]
        batches += np.array_split(ordered, -(-len(strip) // size))
    return batches
