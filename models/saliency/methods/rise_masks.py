"""Masks of RISE: random cells, upsampled bilinearly and shifted (Petsiuk et al. 2018).

A mask is a function of (seed, index). The published upsampling is a bilinear resize of the s x s
cells to s + 1 cells of ``ceil(H / s)`` pixels, with half-pixel centres and mirrored border,
followed by a random crop. It is separable: ``crop(U g U^T)`` with U the interpolation matrix.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.saliency import philox
from models.saliency.spec.masks import Rise

GOLDEN = (math.sqrt(5) - 1) / 2


class LowResMasks(NamedTuple):
    """Masks before upsampling: the kept cells, and the corner of the crop in pixels."""

    cells: Bool[Tensor, "n s s"]
    top: Int64[Tensor, "n"]
    left: Int64[Tensor, "n"]


def draw_masks(
    part: Rise, seed: int, index: Int64[Tensor, "n"], height: int, width: int
) -> LowResMasks:
    """The masks with these indices.

    ``antithetic`` and ``balanced`` draw pairs (2i, 2i + 1) from uniform numbers u and 1 - u with
    the same crop. At p = 0.5 the second is the complement of the first; at any other p each still
    keeps a cell with probability p. ``balanced`` keeps the cells of lowest rank in the first mask
    and those of highest rank in the second, ``round(2 p s^2)`` in both together, and cycles
    through all crops.

    Args:
        part: number of cells, probability and sampling.
        seed: of the case.
        index: of the masks.
        height: of the image.
        width: of the image.
    """
    s = part.grid
    cell = (math.ceil(height / s), math.ceil(width / s))
    pairs = part.sampling != "iid"
    source = index // 2 if pairs else index
    u = philox.uniform((seed, 0), philox.CELLS, source, s * s)
    second = (index % 2 == 1)[:, None] & pairs
    if part.sampling == "balanced":
        rank = u.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        kept = round(2 * part.p * s * s)
        cells = torch.where(second, rank >= s * s - (kept - kept // 2), rank < kept // 2)
        offset = source * _coprime(cell[0] * cell[1]) % (cell[0] * cell[1])
        top, left = offset // cell[1], offset % cell[1]
    else:
        cells = torch.where(second, 1 - u, u) < part.p
        shift = philox.uniform((seed, 0), philox.SHIFTS, source, 2)
        top, left = (shift[:, 0] * cell[0]).long(), (shift[:, 1] * cell[1]).long()
    return LowResMasks(cells.unflatten(1, (s, s)), top, left)


def density(part: Rise) -> float:
    """Expected fraction of kept cells: p, rounded to whole cells per pair for ``balanced``."""
    if part.sampling != "balanced":
        return part.p
    return round(2 * part.p * part.grid**2) / (2 * part.grid**2)


def _coprime(count: int) -> int:
    """A step near ``count`` times the golden ratio that is coprime to ``count``."""
    step = max(1, round(GOLDEN * count))
    while math.gcd(step, count) != 1:
        step += 1
    return step


def interpolation(s: int, cell: int, device: torch.device) -> Float[Tensor, "long {s}"]:
    """Rows of bilinear weights from s cells to (s + 1) * cell pixels, float64.

    Half-pixel centres. Beyond the border, cells are mirrored about the outermost centre (index -1
    reads 1); the usual bilinear resize repeats the outermost cell instead.
    """
    pixel = torch.arange((s + 1) * cell, device=device, dtype=torch.float64)
    where = (pixel + 0.5) * (s / ((s + 1) * cell)) - 0.5
    low = where.floor()
    share = (where - low)[:, None]
    low = low.long()

    def one_hot(position: Tensor) -> Tensor:
        mirrored = (s - 1) - ((s - 1) - position.abs()).abs()
        return torch.nn.functional.one_hot(mirrored, s).double()

    return (1 - share) * one_hot(low) + share * one_hot(low + 1)


def render(grids: LowResMasks, height: int, width: int) -> Float[Tensor, "n {height} {width}"]:
    """The masks at pixel resolution, float64 in [0, 1], by two small matrix products each."""
    s, device = grids.cells.shape[1], grids.cells.device
    down = torch.arange(height, device=device) + grids.top[:, None]  # [n, h]
    right = torch.arange(width, device=device) + grids.left[:, None]
    rows = interpolation(s, math.ceil(height / s), device)[down]  # [n, h, s]
    columns = interpolation(s, math.ceil(width / s), device)[right]
    return rows @ grids.cells.double() @ columns.mT
