"""Drop and grow: which weights of one layer are active after an update. Functions of tensors.

Ties are broken by the flat index, lower first, so a mask does not depend on the device's sort.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GROUP, KEPT = 4, 2  # at most 2 active of 4 neighbouring inputs: what sparse tensor cores run


class Change(NamedTuple):
    """A mask after an update, and what became of the old one, as counts.

    Attributes:
        mask: the new one; as many active as before.
        kept: active before and not dropped.
        dropped: weights taken away.
        regrown: of these, given back at once by growth.
    """

    mask: Tensor
    kept: Tensor
    dropped: int
    regrown: Tensor


def smallest(scores: Float[Tensor, "n"], k: int) -> Bool[Tensor, "n"]:
    """The ``k`` smallest scores; among equal ones the lower index first."""
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = scores.topk(k, largest=False, sorted=False).values.max()
    below, ties = scores < limit, scores == limit
    missing = k - below.sum()
    return below | (ties & (ties.cumsum(0) <= missing))


def random_mask(n: int, k: int, numbers: torch.Generator) -> Bool[Tensor, "n"]:
    """``k`` of ``n`` positions, uniform without replacement, on the CPU."""
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=numbers)[:k]] = True
    return mask


def change(
    weight: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    wish: Float[Tensor, "*shape"],
    rate: float,
    *,
    regrow_dropped: bool,
    capped: bool = False,
    active: int | None = None,
) -> Change:
    """Drop the weakest active weights and grow as many elsewhere.

    Args:
        weight: of the layer; inactive ones are 0.
        mask: active positions.
        wish: non-negative; growth takes the largest among free positions.
        rate: share p of the active weights to drop: k = ceil(p K).
        regrow_dropped: whether a position just dropped is free. If not and too few are free, the
            strongest of those to be dropped stay.
        capped: keep at most 2 active in each aligned group of 4 inputs.
        active: positions of ``mask``, where known: counting them makes the host wait for a GPU.

    Returns:
        The new mask with exactly as many active positions.
    """
    flat = mask.reshape(-1)
    active = int(flat.sum()) if active is None else active
    k = math.ceil(rate * active - 1e-9)
    if not regrow_dropped and not capped:  # K <= half of a capped layer: there is always room
        k = min(k, flat.numel() - active)
    weak = weight.detach().abs().reshape(-1).masked_fill(~flat, math.inf)
    dropped = smallest(weak, k)
    kept = flat & ~dropped
    free = ~kept if regrow_dropped else ~flat
    if capped:
        free &= _allowed(kept.view_as(mask), free.view_as(mask), wish).reshape(-1)
    grown = smallest((-wish.detach().reshape(-1)).masked_fill(~free, math.inf), k)
    new = (kept | grown).view_as(mask)
    return Change(new, kept.view_as(mask), k, (grown & dropped).sum())


def groups(x: Tensor) -> Tensor:
    """The weight [out, in, ...] as [out, ..., in / 4, 4]: neighbouring inputs last."""
    return x.movedim(1, -1).unflatten(-1, (-1, GROUP))


def _allowed(
    kept: Bool[Tensor, "*shape"], free: Bool[Tensor, "*shape"], wish: Float[Tensor, "*shape"]
) -> Bool[Tensor, "*shape"]:
    """The free positions of highest wish that a group may still take: exact, as in a matroid."""
    score = groups(wish.detach()).masked_fill(~groups(free), -math.inf)
    rank = score.sort(dim=-1, descending=True, stable=True).indices.argsort(dim=-1)
    fits = (rank < KEPT - groups(kept).sum(-1, keepdim=True)) & groups(free)
    return fits.flatten(-2).movedim(-1, 1)


def capped_mask(shape: torch.Size, k: int, numbers: torch.Generator) -> Bool[Tensor, "*shape"]:
    """``k`` random positions, at most 2 in each aligned group of 4 inputs, on the CPU.

    Uniform over the best two of each group by a random score; needs k <= half of the elements.
    """
    score = torch.rand(shape, generator=numbers)
    nothing = torch.zeros(shape, dtype=torch.bool)
    allowed = _allowed(nothing, ~nothing, score).reshape(-1)
    # A second draw decides: the first would favour the winners of their groups.
    order = torch.rand(score.numel(), generator=numbers).masked_fill(~allowed, math.inf)
    return smallest(order, k).view(shape)


def overlap(a: Bool[Tensor, "*shape"], b: Bool[Tensor, "*shape"]) -> float:
    """Intersection over union of two masks."""
    union = (a | b).sum()
    return ((a & b).sum() / union).item() if union else 1.0
