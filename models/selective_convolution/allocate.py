"""Closing slots that hardly matter and using them again (README, section 3).

Everything stays on the device: nothing waits for a GPU but the report of what was done.
"""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from models.nets.selective.unit import GatedUnit, SelectiveUnit
from models.selective_convolution.score import shares


@torch.no_grad()
def deallocate(unit: GatedUnit, threshold: float, score: str = "mean") -> Bool[Tensor, "c"]:
    """Close the slots of least damage as long as no output loses more than ``threshold`` in all.

    Slots are taken in the order of their greatest share of any output; the longest prefix whose
    shares sum to at most ``threshold`` in every output is closed. Sums are in float64 and the sort
    is stable. A unit whose shares are all 0 is left as it is.

    Returns:
        The slots that were open and are closed now.
    """
    share = shares(unit, score)
    greatest = share.amax(0)
    order = greatest.argsort(stable=True)
    lost = share.index_select(1, order).cumsum_(1).amax(0)
    fits = lost <= threshold  # monotone: shares are not negative
    prefix = torch.zeros_like(fits).scatter(0, order, fits) & greatest.any()
    closed = prefix & (unit.gate > 0)
    unit.gate.masked_fill_(prefix, 0)
    if isinstance(unit, SelectiveUnit):
        unit.source.masked_fill_(prefix, -1)
    return closed


def importance(unit: SelectiveUnit, score: str, max_copies: int | None) -> Float64[Tensor, "c"]:
    """I_c: norm of a slot's shares over the outputs; 0 for channels with too many copies."""
    norms = shares(unit, score).square_().sum(0).sqrt()
    if max_copies is None:
        return norms
    crowded = copies(unit) > max_copies
    reads_crowded = (unit.source >= 0) & crowded[unit.source.clamp(min=0)]
    return norms.masked_fill(crowded | reads_crowded, 0)


@torch.no_grad()
def reallocate(
    unit: SelectiveUnit,
    top_k: int,
    shift_init: float,
    numbers: torch.Generator,
    *,
    score: str = "mean",
    max_copies: int | None = None,
) -> Bool[Tensor, "c"]:
    """Open every closed slot as a shifted copy of an important channel; the output stays as it is.

    Each slot draws one of the ``top_k`` open slots of greatest importance (fewer, where fewer have
    any), reads its root channel at a random shift and takes over its batch norm; the weights of the
    slot become 0. Where no slot has any importance, nothing is opened.

    Args:
        unit: changed in place.
        top_k: sources to choose from, at least 1.
        shift_init: greatest first shift in pixels.
        numbers: a CPU generator, the same on all ranks.
        score: ``mean`` or ``rms``.
        max_copies: copies of a channel from which on it is no source any more.

    Returns:
        The slots that were opened.
    """
    value = importance(unit, score, max_copies)
    slots = len(value)
    best, sources = value.topk(min(top_k, slots))
    useful = (best > 0).sum()
    drawn, first = torch.rand(slots, generator=numbers), torch.rand(slots, 2, generator=numbers)
    device = value.device
    pick = (drawn.to(device) * useful).long().clamp(max=slots - 1)
    slot = sources[pick.clamp(max=len(sources) - 1)]
    opened = (unit.gate == 0) & (useful > 0)
    root = torch.where(unit.source[slot] < 0, slot, unit.source[slot])
    _copy_where(opened, slot, unit)
    shift = (2 * first - 1).to(device) * shift_init
    unit.shift.copy_(torch.where(opened[:, None], shift, unit.shift))
    unit.source.copy_(torch.where(opened, root, unit.source))
    unit.conv.weight.masked_fill_(opened[:, None, None], 0)
    unit.gate.masked_fill_(opened, 1)
    return opened


def _copy_where(opened: Tensor, slot: Tensor, unit: SelectiveUnit) -> None:
    """Batch norm of the opened slots becomes that of their source slots."""
    norm = unit.norm
    for values in (norm.weight, norm.bias, *norm.buffers()):
        if values.ndim:  # not the number of batches
            values.copy_(torch.where(opened, values[slot], values))


def copies(unit: SelectiveUnit) -> Float[Tensor, "c"]:
    """How many slots read each channel as a copy."""
    reads = unit.source >= 0
    counts = torch.zeros_like(unit.gate)
    return counts.index_add_(0, unit.source.clamp(min=0), reads.to(counts.dtype))
