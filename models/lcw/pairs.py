"""Sums of the kernel over all pairs of rows, and their gradients, block by block.

A block of pairs fits the processor's second-level cache: a matrix product gives its q, one pass its
square roots, one its sum, one the slopes, and a second product adds the slopes to the gradient.
Nothing of size n x m is ever held, and of a sample's own pairs only half are visited.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.lcw.profile import Profile, evaluate

ROWS, COLUMNS = 256, 1024  # float32 block of 1 MiB
FOLD = 4  # rows added in the block's own format before sums go on in float64


class Sample(NamedTuple):
    """Points ready for products that give q at once.

    Both sides hold the same rounded numbers, so that the errors of x's pairs, y's pairs and the
    cross pairs are the same and leave their difference.

    Attributes:
        left: [n, D + 2], rows (-p, h, 1) with p = sqrt(2 c) x and h = (1 + |p|^2) / 2.
        right: [n, D + 2], rows (p, 1, h); left_i . right_j = 1 + c |x_i - y_j|^2.
        slopes: [n, D + 1], weighted sums of V (p, 1), from which the gradient is made; or None.
    """

    left: Tensor
    right: Tensor
    slopes: Tensor | None

    @property
    def p(self) -> Tensor:
        """[n, D], the points times sqrt(2 c)."""
        return self.right[:, :-2]


def sample(x: Float[Tensor, "n d"], c: float, *, gradient: bool) -> Sample:
    """Prepare points, given c = K / gamma."""
    n, d = x.shape
    left, right = x.new_ones(2, n, d + 2)
    p = torch.mul(x, math.sqrt(2 * c), out=right[:, :d])
    torch.neg(p, out=left[:, :d])
    h = torch.linalg.vecdot(p, p).add_(1).mul_(0.5)
    left[:, d], right[:, d + 1] = h, h
    return Sample(left, right, x.new_zeros(n, d + 1) if gradient else None)


def gradient(
    p: Float[Tensor, "n d"], slopes: Float[Tensor, "n wide"], c: float
) -> Float[Tensor, "n d"]:
    """Gradient of the weighted sums with respect to the points: sum_j -c V_ij (x_i - y_j)."""
    near, total = slopes[:, :-1], slopes[:, -1:]
    return torch.addcmul(near, p, total, value=-1).mul_(math.sqrt(c / 2))


def add_pairs(
    a: Sample, b: Sample, profile: Profile, weight: float, rows: int, columns: int
) -> Float[Tensor, ""]:
    """Sum of phi over all pairs (i, j) in float64; ``weight`` times its gradient joins both slopes.

    Args:
        a: points; the same object as ``b`` for a sample's own pairs, diagonal included.
        b: points.
        profile: the kernel.
        weight: factor of this sum in the loss.
        rows: of a block.
        columns: of a block.
    """
    own, slopes = a is b, a.slopes is not None or b.slopes is not None
    total = torch.zeros((), dtype=torch.float64, device=a.left.device)
    for i, j in _blocks(len(a.left), len(b.left), rows, columns, own=own):
        q = torch.mm(a.left[i], b.right[j].T).clamp_min_(1)
        diagonal = own and i == j
        if diagonal:
            q.fill_diagonal_(1)
        value, slope = evaluate(profile, q, slope=slopes)
        total.add_(_sum(value), alpha=2 if own and not diagonal else 1)
        factor = weight * (2 if own else 1)  # an own pair moves with either of its points
        _add(a.slopes, i, slope, b.right[j], factor)
        if not diagonal:
            _add(b.slopes, j, slope.T, a.right[i], factor)
    return total


def _add(slopes: Tensor | None, at: slice, slope: Tensor, right: Tensor, weight: float) -> None:
    if slopes is not None:
        slopes[at].addmm_(slope, right[:, :-1], alpha=weight)


def _sum(block: Tensor) -> Tensor:
    """Sum in float64; rows are first added in groups, which is exact enough and far cheaper."""
    whole = len(block) // FOLD * FOLD
    if whole == len(block):
        return block.view(-1, FOLD, block.shape[1]).sum(1).sum(dtype=torch.float64)
    head = block[:whole].view(-1, FOLD, block.shape[1]).sum(1).sum(dtype=torch.float64)
    return head + block[whole:].sum(dtype=torch.float64)


def _blocks(n: int, m: int, rows: int, columns: int, *, own: bool) -> Iterator[tuple[slice, slice]]:
    """Blocks of pairs; of own pairs the upper triangle and the square blocks on the diagonal."""
    for top in range(0, n, rows):
        i = slice(top, min(top + rows, n))
        if own:
            yield i, i
        for left in range(i.stop if own else 0, m, columns):
            yield i, slice(left, min(left + columns, m))
