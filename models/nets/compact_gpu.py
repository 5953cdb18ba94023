"""Compact units of :mod:`models.nets.selective` on a GPU: two operators without derivatives."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.nets.shifted_conv_gpu import TILES, mix, outputs_of, parts_of, place
from models.nets.shifted_norm_gpu import Shape, apply, planes_of, table_size, tabulate


@torch.library.custom_op("sextant::compact_norm", mutates_args=())
def _norm(
    x: Tensor,
    root: Tensor,
    source: Tensor,
    shift: Tensor,
    coefficients: Tensor,
    moves: bool,
    gathers: bool,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    shape, planes = Shape(*x.shape), x
    table = x.new_zeros(table_size(shape.c), dtype=torch.int32)
    if moves:
        tabulate(source, table, shape.c)
        planes = planes_of(x, source, table, coefficients, shape, training=False)
    out = _slots(x, root)
    apply(x, root if gathers else None, planes, table, shift, coefficients, out)
    return out


@_norm.register_fake
def _slots(x: Tensor, root: Tensor, *_: object) -> Tensor:
    n, h, w = x.shape[0], x.shape[2], x.shape[3]
    return x.new_empty(n, h, w, len(root)).permute(0, 3, 1, 2)


def compact_norm(
    x: Float[Tensor, "n c h w"],
    root: Int64[Tensor, "s"],
    source: Int64[Tensor, "s"],
    shift: Float[Tensor, "s 2"],
    coefficients: Float[Tensor, "4 s"],
    moves: bool,
    gathers: bool,
) -> Float[Tensor, "n s h w"]:
    """ReLU(scale z + offset) of the slots z of a compact unit; no gradients.

    Args:
        x: input of a unit, on a GPU.
        root: channel that a slot reads; there are no more slots than channels.
        source: the same, but -1 where it does not move.
        shift: of each slot in pixels.
        coefficients: mean, 1 / std, scale, offset of each slot.
        moves: whether any slot moves.
        gathers: whether any slot reads another channel than that of its number.
    """
    return _norm(x, root, source, shift, coefficients, moves, gathers)


@torch.library.custom_op("sextant::compact_conv", mutates_args=())
def _conv(
    x: Tensor,
    weight: Tensor,
    root: Tensor,
    source: Tensor,
    shift: Tensor,
    coefficients: Tensor,
    moves: bool,
    gathers: bool,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out, _, _, table, _, z = outputs_of(x, weight)
    table.zero_()
    if moves:
        tabulate(source, table, x.shape[1])
        parts = parts_of(Shape(*x.shape), TILES.scans)
        place(x, source, table, shift, z, coefficients, parts, training=False)
    flat = x.new_empty(weight.shape[1], len(weight)).copy_(weight.t())
    mix(x, root if gathers else None, source, z, table, coefficients, flat, out)
    return out


@_conv.register_fake
def _(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return outputs_of(x, weight)[0]


def compact_conv(
    x: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "o s 1 1"],
    root: Int64[Tensor, "s"],
    source: Int64[Tensor, "s"],
    shift: Float[Tensor, "s 2"],
    coefficients: Float[Tensor, "4 s"],
    moves: bool,
    gathers: bool,
) -> Float[Tensor, "n o h w"]:
    """The weights' product with what :func:`compact_norm` gives; no gradients."""
    return _conv(x, weight.flatten(1), root, source, shift, coefficients, moves, gathers)
