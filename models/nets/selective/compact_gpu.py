"""Compact units of :mod:`models.nets.selective.unit` on a GPU: two operators without derivatives.

Open slots get positions among all channels of the input, once, as a unit is moved to a GPU: a slot
that does not move has that of its channel, the others fill those of closed ones. The programs
of training then read whole rows of channels; a list of the channels that slots read would make them
read one number at a time, which costs more than the rows of closed slots, whose weights here are 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from models.nets.selective.conv_gpu import TILES, fill_slots, mix, outputs_of, parts_of
from models.nets.selective.norm_gpu import MapShape, apply, planes_of, table_size


class CompactLayout(NamedTuple):
    """Open slots among the c channels of the input.

    Attributes:
        source: -1 or the channel that a slot reads, as in a selective unit.
        shift: of each slot in pixels.
        coefficients: mean, 1 / std, scale, offset of each slot; scale and offset 0 where none is.
        weight: of the convolution, 0 where no slot is.
        table: what :func:`norm_kernels.tabulate` finds in ``source``.
        moves: whether any slot moves.
    """

    source: Int64[Tensor, "c"]
    shift: Float[Tensor, "c 2"]
    coefficients: Float[Tensor, "4 c"]
    weight: Float[Tensor, "o c k k"]
    table: Int32[Tensor, "6*c+2"]
    moves: bool


@torch.no_grad()
def build_layout(
    root: Int64[Tensor, "s"],
    shift: Float[Tensor, "s 2"],
    scale: Float[Tensor, "s"],
    offset: Float[Tensor, "s"],
    weight: Float[Tensor, "o s k k"],
    channels: int,
) -> CompactLayout:
    """The slots of a compact unit at their positions among all channels.

    Args:
        root: channel that each slot reads.
        shift: of each slot in pixels: along the width, along the height.
        scale: of each slot.
        offset: of each slot.
        weight: of the convolution.
        channels: of the input.
    """
    positions = positions_of(root, shift, channels)
    number = torch.arange(channels, device=root.device)
    source = torch.full_like(number, -1).index_copy(0, positions, root)
    still = shift.new_ones(channels).index_copy(0, positions, (shift == 0).all(1).to(shift)) > 0
    source = torch.where(still & (source == number), -1, source)
    rows = torch.stack([torch.zeros_like(scale), torch.ones_like(scale), scale, offset])
    return CompactLayout(
        source,
        shift.new_zeros(channels, 2).index_copy(0, positions, shift),
        rows.new_zeros(4, channels).index_copy(1, positions, rows),
        weight.new_zeros(len(weight), channels, *weight.shape[2:]).index_copy(1, positions, weight),
        tabulated(source),
        bool((source >= 0).any()),
    )


def positions_of(root: Int64[Tensor, "s"], shift: Float[Tensor, "s 2"], channels: int) -> Tensor:
    """Position int64 [s] of each slot: its channel for the first unmoved one, or a free one."""
    owners: dict[int, int] = {}
    for slot, (channel, moves) in enumerate(zip(root.tolist(), shift.any(1).tolist(), strict=True)):
        if not moves:
            owners.setdefault(channel, slot)
    kept = {slot: channel for channel, slot in owners.items()}
    free = (position for position in range(channels) if position not in owners)
    positions = [kept[slot] if slot in kept else next(free) for slot in range(len(root))]
    return root.new_tensor(positions)


def tabulated(source: Int64[Tensor, "c"]) -> Int32[Tensor, "6*c+2"]:
    """What the program of that name finds, without a GPU."""
    moved = (source >= 0).nonzero().flatten()
    moved = moved[source[moved].argsort(stable=True)]
    read, plane = source[moved].unique(return_inverse=True)
    counted = torch.arange(len(read), device=source.device)
    table = source.new_zeros(table_size(len(source)), dtype=torch.int32)
    slots, planes, plane_of, channels, first, flags = table[:-2].view(6, -1)
    slots[: len(moved)], planes[: len(moved)] = moved.int(), plane.int()
    plane_of.fill_(-1)[read], flags[read] = counted.int(), 1
    channels[: len(read)], first[: len(read)] = read.int(), torch.searchsorted(plane, counted).int()
    table[-2], table[-1] = len(moved), len(read)
    return table


@torch.library.custom_op("sextant::compact_norm", mutates_args=())
def _norm(
    x: Tensor, source: Tensor, shift: Tensor, coefficients: Tensor, table: Tensor, moves: bool
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    shape, planes, out = MapShape(*x.shape), x, torch.empty_like(x)
    if moves:
        planes = planes_of(x, source, table, coefficients, shape, training=False)
    apply(x, planes, table, shift, coefficients, out)
    return out


@_norm.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def compact_norm(x: Float[Tensor, "n c h w"], layout: CompactLayout) -> Float[Tensor, "n c h w"]:
    """ReLU(scale z + offset) of the slots z of a compact unit at their positions; no gradients.

    Args:
        x: input of a unit, on a GPU.
        layout: its slots.
    """
    return _norm(x, layout.source, layout.shift, layout.coefficients, layout.table, layout.moves)


@torch.library.custom_op("sextant::compact_conv", mutates_args=())
def _conv(
    x: Tensor,
    weight: Tensor,
    source: Tensor,
    shift: Tensor,
    coefficients: Tensor,
    table: Tensor,
    moves: bool,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out, *_, flat, z = outputs_of(x, weight)
    if moves:
        parts = parts_of(MapShape(*x.shape), TILES.scans)
        fill_slots(x, source, table, shift, z, coefficients, parts, training=False)
    mix(x, source, z, table, coefficients, flat.copy_(weight.t()), out)
    return out


@_conv.register_fake
def _(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return outputs_of(x, weight)[0]


def compact_conv(x: Float[Tensor, "n c h w"], layout: CompactLayout) -> Float[Tensor, "n o h w"]:
    """The weights' product with what :func:`compact_norm` gives; no gradients."""
    weight = layout.weight.flatten(1)
    return _conv(
        x, weight, layout.source, layout.shift, layout.coefficients, layout.table, layout.moves
    )
