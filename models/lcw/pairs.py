"""Sums of the kernel over all pairs of rows, and their gradients, block by block.

A block of pairs fits the processor's second-level cache: a matrix product, one pass for roots, sum
and slopes, and a second product that adds the slopes to the gradient. Nothing of size n x m is ever
held. Rows that move meet both samples in one block; of a still sample's own pairs only half are
visited.
"""

import math
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.lcw.loops import finish_gradient, fold, prepare
from models.lcw.profile import Profile, evaluate

ROWS, COLUMNS = 256, 1024  # float32 block of 1 MiB
FOLD = 4  # rows added in the block's own format before sums go on in float64


class Weights(NamedTuple):
    """Of the three sums of phi: x's own pairs, x with y, y's own pairs; 0 leaves a sum out."""

    x: float
    cross: float
    y: float


class Points(NamedTuple):
    """Rows ready for products.

    Attributes:
        p: [n, D], sqrt(2 c) x.
        half: [n], (1 + |p|^2) / 2; half_i + half_j - p_i . p_j = 1 + c |x_i - x_j|^2. An array of
            numpy's for the compiled loops: they are called often, and a conversion takes a while.
    """

    p: Tensor
    half: Any

    def part(self, at: slice) -> "Points":
        """Some rows."""
        return Points(self.p[at], self.half[at])


class ColumnSegment(NamedTuple):
    """Columns ``at`` of a band of rows, and what their sums of phi and of slopes weigh."""

    at: slice
    value: float
    slope: float = 0.0


class Band(NamedTuple):
    """Rows, the segments of columns they meet, side by side, and the gradient they collect.

    Attributes:
        rows: of the points.
        segments: adjacent.
        near: [rows, D], sums of weighted V p, and
        total: [rows], of weighted V, from which the gradient is made, in the format of ``half``;
            None for rows that are still.
    """

    rows: slice
    segments: list[ColumnSegment]
    near: Tensor | None
    total: Any


def sums(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    centre: Float[Tensor, "d"],
    c: float,
    profile: Profile,
    weights: Weights,
    moves: tuple[bool, bool],
    rows: int,
    columns: int,
) -> tuple[Any, list[Float[Tensor, "_ d"]]]:
    """Weighted sum of phi over all pairs in float64, diagonals included; gradients of what moves.

    Args:
        x: points.
        y: points.
        centre: subtracted from both first.
        c: K / gamma.
        profile: the kernel.
        weights: of the three sums.
        moves: whether the gradients for x and for y are wanted.
        rows: of a block.
        columns: of a block.
    """
    compiled = not (profile.closed or x.is_cuda)
    points = (_prepare_compiled if compiled else _prepare)(x, y, centre, math.sqrt(2 * c))
    p, fold_part = points.p, _fold_compiled if compiled else _fold
    scratch = _scratch(p, min(rows, len(p)) * min(columns, len(p)))
    value, gradients = 0.0, []
    for band in _bands(points, len(x), weights, moves, rows):
        value = value + _meet(points, band, profile, columns, scratch, fold_part)
        if band.near is not None:
            gradients.append(
                (_gradient_compiled if compiled else gradient)(
                    p[band.rows], band.near, band.total, c
                )
            )
    counts = [len(side) for side, moving in zip((x, y), moves, strict=True) if moving]
    if len(gradients) > len(counts):
        gradients = list(torch.cat(gradients).split(counts))
    return value, gradients


def _prepare(x: Tensor, y: Tensor, centre: Tensor, scale: float) -> Points:
    p = torch.cat([x, y]).sub_(centre).mul_(scale)
    return Points(p, torch.linalg.vecdot(p, p).add_(1).mul_(0.5))


def _prepare_compiled(x: Tensor, y: Tensor, centre: Tensor, scale: float) -> Points:
    """As :func:`_prepare`, in one pass of a CPU: in small calls operations count more than sums."""
    n = len(x)
    p = x.new_empty(n + len(y), x.shape[1])
    rows = p.numpy()
    half = np.empty(len(rows), rows.dtype)
    middle, factor = centre.detach().numpy(), rows.dtype.type(scale)
    for points, at in ((x, slice(0, n)), (y, slice(n, None))):
        prepare(points.detach().contiguous().numpy(), middle, factor, rows[at], half[at])
    return Points(p, half)


def _gradient_compiled(p: Tensor, near: Tensor, total: Any, c: float) -> Tensor:
    """As :func:`gradient`, in place."""
    finish_gradient(p.numpy(), near.numpy(), total, total.dtype.type(math.sqrt(c / 2)))
    return near


class _Kept(threading.local):
    """A block of each thread and number format."""

    def __init__(self) -> None:
        self.blocks: dict[torch.dtype, Tensor] = {}


_kept = _Kept()


def _scratch(p: Tensor, size: int) -> Tensor:
    """Room for a block of products; on a CPU kept for the next call, so that its pages stay there.

    Between calls a training gives memory back, and the faults of a fresh block are a part of a
    small call that one sees. Larger blocks than the usual are not kept.
    """
    if p.is_cuda or size > ROWS * COLUMNS:
        return p.new_empty(size)
    if p.dtype not in _kept.blocks:
        with torch.inference_mode(mode=False):  # else it could not be written to outside of it
            _kept.blocks[p.dtype] = p.new_empty(ROWS * COLUMNS)
    return _kept.blocks[p.dtype][:size]


def _bands(
    points: Points, n: int, weights: Weights, moves: tuple[bool, bool], rows: int
) -> Iterator[Band]:
    """The bands of x, then those of y; every pair counts once, an own pair moves with both."""
    x, y = slice(0, n), slice(n, len(points.p))
    if moves[0]:
        own, other = (
            ColumnSegment(x, weights.x, 2 * weights.x),
            ColumnSegment(y, weights.cross, weights.cross),
        )
        yield from _moving(points, x, [own, other], rows)
    else:
        yield from _still(x, weights.x, rows)
    if not any(moves):
        cross = [ColumnSegment(y, weights.cross)]
        yield from (Band(at, cross, None, None) for at in _parts(x, rows))
    if moves[1]:
        counted = 0.0 if moves[0] else weights.cross
        other, own = (
            ColumnSegment(x, counted, weights.cross),
            ColumnSegment(y, weights.y, 2 * weights.y),
        )
        yield from _moving(points, y, [other, own], rows)
    else:
        yield from _still(y, weights.y, rows)


def _parts(whole: slice, size: int) -> Iterator[slice]:
    for start in range(whole.start, whole.stop, size):
        yield slice(start, min(start + size, whole.stop))


def _moving(
    points: Points, side: slice, segments: list[ColumnSegment], rows: int
) -> Iterator[Band]:
    """Rows of a sample against both samples."""
    for at in _parts(side, rows):
        p, half = points.part(at)
        yield Band(at, segments, torch.zeros_like(p), 0 * half)


def _still(side: slice, weight: float, rows: int) -> Iterator[Band]:
    """Own pairs of a sample, the upper triangle of blocks."""
    for at in _parts(side, rows) if weight else ():
        after = ColumnSegment(slice(at.stop, side.stop), 2 * weight)
        yield Band(at, [ColumnSegment(at, weight), after], None, None)


def _meet(
    points: Points,
    band: Band,
    profile: Profile,
    columns: int,
    scratch: Tensor,
    fold_part: Callable[..., Any],
) -> Any:
    """Weighted sum of phi of a band; collects its gradient."""
    value, mine = 0.0, points.part(band.rows)
    whole = slice(band.segments[0].at.start, band.segments[-1].at.stop)
    for at in _parts(whole, columns):
        other = points.part(at)
        n, m = len(mine.half), len(other.half)
        block = torch.mm(mine.p, other.p.T, out=scratch[: n * m].view(n, m))
        for segment in band.segments:
            first, last = max(segment.at.start, at.start), min(segment.at.stop, at.stop)
            if first < last:
                within = slice(first - at.start, last - at.start)
                cut = Cut(within, band.rows.start - at.start, segment.slope)
                value = value + segment.value * fold_part(block, mine, other, profile, cut, band)
        if band.near is not None:
            band.near.addmm_(block, other.p)
    return value


class Cut(NamedTuple):
    """Columns of a block, how far right of a row's number its own point is, weight of slopes."""

    at: slice
    shift: int
    factor: float


def _fold(
    block: Tensor, a: Points, b: Points, profile: Profile, cut: Cut, band: Band
) -> Float[Tensor, ""]:
    """Sum of phi over columns of a block of products; where rows move it becomes weighted V."""
    part, itself = block[:, cut.at], cut.shift - cut.at.start
    q = (a.half[:, None] + b.half[cut.at]).sub_(part).clamp_min_(1)
    q.diagonal(itself).fill_(1)
    value, slope = evaluate(profile, q, slope=band.total is not None)
    value_sum = _sum(value)
    if band.total is not None:
        slope.diagonal(itself).fill_(0)  # exactly: leave no rounding of it
        band.total.add_(part.copy_(slope.mul_(cut.factor)).sum(1))
    return value_sum


def _fold_compiled(
    block: Tensor, a: Points, b: Points, profile: Profile, cut: Cut, band: Band
) -> float:
    """As :func:`_fold`, in one pass of a CPU."""
    value, slope = _typed(profile, block.dtype)
    return fold(
        block.numpy(),
        a.half,
        b.half,
        value,
        slope,
        a.half if band.total is None else band.total,
        a.half.dtype.type(cut.factor),
        cut.at.start,
        cut.at.stop,
        cut.shift,
        band.total is not None,
    )


@lru_cache(maxsize=64)
def _typed(profile: Profile, dtype: torch.dtype) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Coefficients in the format of the block, as the loops take them."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return tuple(map(kind, profile.value)), tuple(map(kind, profile.slope))


def _sum(block: Tensor) -> Tensor:
    """Sum in float64; rows are first added in groups, which is exact enough and far cheaper."""
    whole = len(block) // FOLD * FOLD
    if whole == len(block):
        return block.view(-1, FOLD, block.shape[1]).sum(1).sum(dtype=torch.float64)
    head = block[:whole].view(-1, FOLD, block.shape[1]).sum(1).sum(dtype=torch.float64)
    return head + block[whole:].sum(dtype=torch.float64)


def gradient(
    p: Float[Tensor, "n d"], near: Float[Tensor, "n d"], total: Float[Tensor, "n"], c: float
) -> Float[Tensor, "n d"]:
    """Gradient of the weighted sums with respect to the points: sum_j -c V_ij (x_i - y_j).

    Args:
        p: points, sqrt(2 c) (x - centre).
        near: weighted sums of V p_j; overwritten.
        total: weighted sums of V.
        c: K / gamma.
    """
    return torch.addcmul(near, p, total[:, None], value=-1).mul_(math.sqrt(c / 2))
