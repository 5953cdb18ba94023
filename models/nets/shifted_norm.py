"""ReLU(BN(z)) where some slots z read another channel, shifted by fractions of a pixel.

Coordinates are clamped to the border. :func:`sample` says what is computed, for any device and for
``torch.compile``; :class:`ShiftedNorm` does it on a CPU, where traffic to memory decides: slots are
read in groups of one whole-pixel shift that fit a cache, each pass over them does much at once,
and the backward pass keeps slots, result and the channels that copies read, not the input.
"""

from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

GROUP_BYTES = 2**20  # of input a group reads at once, so that its temporaries fit a cache


def sample(
    x: Float[Tensor, "n c h w"], source: Int64[Tensor, "s"], shift: Float[Tensor, "s 2"]
) -> Float[Tensor, "n s h w"]:
    """Slots z: z_c = x_c where source_c is -1, else x of channel source_c at (h + s_1, w + s_0).

    Args:
        x: input of a unit.
        source: -1 or the channel that a slot reads.
        shift: of each slot in pixels: along the width, along the height.
    """
    n, _, h, w = x.shape
    shift = torch.where((source < 0)[:, None], 0.0, shift)
    top, bottom, fy = _taps(shift[:, 1], h)  # [s, h]
    left, right, fx = _taps(shift[:, 0], w)  # [s, w]
    own = torch.arange(len(source), device=x.device)
    root = torch.where(source < 0, own, source)
    flat = x.index_select(1, root).flatten(2)  # [n, s, h w]

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows[:, :, None] * w + columns[:, None, :]).flatten(1)  # [s, h w]
        return flat.gather(2, index.expand(n, -1, -1)).unflatten(2, (h, w))

    fx, fy = fx[:, None, :].to(x.dtype), fy[:, :, None].to(x.dtype)
    upper = torch.lerp(at(top, left), at(top, right), fx.expand(n, -1, h, -1))
    lower = torch.lerp(at(bottom, left), at(bottom, right), fx.expand(n, -1, h, -1))
    return torch.lerp(upper, lower, fy.expand(n, -1, -1, w))


def _taps(shift: Float[Tensor, "c"], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both neighbours of each clamped coordinate along an axis, and the weight of the second."""
    place = torch.arange(size, device=shift.device) + shift[:, None]
    place = place.clamp(0, size - 1)
    low = place.detach().floor()
    return low.long(), (low.long() + 1).clamp(max=size - 1), place - low


class Group(NamedTuple):
    """Slots of one whole-pixel shift, the window of the map that they read and its padding."""

    slots: Tensor  # int64 [g]
    roots: Tensor  # int64 [g]
    rows: slice
    columns: slice
    padding: tuple[int, int, int, int]  # left, right, top, bottom, up to w + 1 columns, h + 1 rows
    fx: Tensor  # [g, 1, 1], in [0, 1]
    fy: Tensor


def groups_of(
    source: Int64[Tensor, "s"], shift: Float[Tensor, "s 2"], size: tuple[int, int], largest: int
) -> list[Group]:
    """The slots whose source is not -1, in groups of one whole-pixel shift.

    Args:
        source: -1 or the channel that a slot reads.
        shift: of each slot in pixels.
        size: height and width of the map in pixels.
        largest: slots in a group, at most.
    """
    h, w = size
    limits = shift.new_tensor([w, h])  # beyond the map all is border
    whole = shift.floor().clamp(-limits, limits - 1)
    places = whole.int().tolist()
    moved = [slot for slot, root in enumerate(source.tolist()) if root >= 0]
    moved.sort(key=lambda slot: places[slot])
    slots = torch.tensor(moved, dtype=torch.int64)
    roots, fractions = source[slots], (shift - whole).clamp(0, 1)[slots, :, None, None]
    groups, begin = [], 0
    for (ix, iy), same in groupby(places[slot] for slot in moved):
        columns, rows = (slice(max(0, i), min(e, i + e + 1)) for i, e in ((ix, w), (iy, h)))
        padding = (max(0, -ix), max(0, ix + 1), max(0, -iy), max(0, iy + 1))
        end = begin + len(list(same))
        for first in range(begin, end, largest):
            part = slice(first, min(first + largest, end))
            fx, fy = fractions[part, 0], fractions[part, 1]
            groups.append(Group(slots[part], roots[part], rows, columns, padding, fx, fy))
        begin = end
    return groups


def largest_group(x: Tensor) -> int:
    """Slots of a map that fit into a group."""
    return max(1, GROUP_BYTES // max(1, x[:, 0].numel() * x.element_size()))


@torch.autocast("cpu", enabled=False)  # or padding would be in float32
def _read(x: Tensor, roots: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Window of the roots [n, g, h + 1, w + 1] and its mean along the width [n, g, h + 1, w]."""
    window = x.index_select(1, roots)[:, :, group.rows, group.columns]
    padded = functional.pad(window, group.padding, mode="replicate")
    return padded, torch.lerp(padded[..., :-1], padded[..., 1:], group.fx.to(x.dtype))


def _down(across: Tensor, group: Group) -> Tensor:
    """Mean along the height: the slots [n, g, h, w]."""
    fy = group.fy.to(across.dtype)
    return torch.lerp(across[:, :, :-1], across[:, :, 1:], fy)


def move(z: Float[Tensor, "n s h w"], x: Float[Tensor, "n c h w"], groups: list[Group]) -> None:
    """Overwrite the slots of ``z`` in the groups with what they read, on a CPU."""
    for group in groups:
        z.index_copy_(1, group.slots, _down(_read(x, group.roots, group)[1], group))


def _spread(
    grad: Tensor, padded: Tensor, across: Tensor, group: Group
) -> tuple[Tensor, Float[Tensor, "g 2"]]:
    """Gradients of the window of the roots and of the shifts, from that of the slots.

    The adjoint of an interpolation is the opposite interpolation of the zero-padded gradient.
    """
    d_y = (grad * (across[:, :, 1:] - across[:, :, :-1])).sum((0, 2, 3))
    wide = functional.pad(grad, (1, 1, 1, 1))
    wide = torch.lerp(
        wide[:, :, 1:], wide[:, :, :-1], group.fy.to(grad.dtype)
    )  # [n, g, h + 1, w + 2]
    d_x = (wide[..., 1:-1] * (padded[..., 1:] - padded[..., :-1])).sum((0, 2, 3))
    wide = torch.lerp(
        wide[..., 1:], wide[..., :-1], group.fx.to(grad.dtype)
    )  # [n, g, h + 1, w + 1]
    size = (*grad.shape[:2], *(_length(part) for part in (group.rows, group.columns)))
    inside = wide.new_empty(()).expand(size)  # only its shape is read
    back = torch.ops.aten.replication_pad2d_backward(wide, inside, group.padding)
    return back, torch.stack([d_x, d_y], 1)


def _length(part: slice) -> int:
    return part.stop - part.start


class ShiftedNorm(torch.autograd.Function):
    """a = ReLU(BN(sample(x, source, shift))), with hand-written derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor,
        source: Tensor,
        mean: Tensor,
        var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Like ``functional.batch_norm``, whose running statistics it updates, with a ReLU.

        Args:
            ctx: keeps what the backward pass needs.
            x: [n, c, h, w] on a CPU.
            weight: [c].
            bias: [c].
            shift: [c, 2] in pixels.
            source: int64 [c], -1 or a channel.
            mean: running mean of each slot [c].
            var: running variance of each slot [c].
            training: whether statistics are those of the batch.
            momentum: of the running statistics.
            eps: added to the variance.
        """
        z = x.clone(memory_format=torch.contiguous_format)
        ctx.groups = groups_of(source, shift.detach(), (x.shape[2], x.shape[3]), largest_group(x))
        move(z, x, ctx.groups)
        norm = torch.native_batch_norm
        a, *saved = norm(z, weight, bias, mean, var, training, momentum, eps)
        a.relu_()
        ctx.roots, ctx.training, ctx.eps = source[source >= 0].unique(), training, eps
        read = x.index_select(1, ctx.roots)
        ctx.save_for_backward(z, read, a, weight, shift, mean.clone(), var.clone(), *saved)
        return a

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, read, a, weight, shift, *stats = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], a, 0)
        g_x, g_weight, g_bias = torch.ops.aten.native_batch_norm_backward(
            grad, z, weight, *stats, ctx.training, ctx.eps, [True] * 3
        )
        parts = [g_x.index_select(1, group.slots) for group in ctx.groups]
        g_x.index_fill_(1, torch.cat([group.slots for group in ctx.groups]), 0)
        g_shift = torch.zeros_like(shift)
        for group, part in zip(ctx.groups, parts, strict=True):
            place = torch.searchsorted(ctx.roots, group.roots)
            g_roots, d_shift = _spread(part, *_read(read, place, group), group)
            g_x[:, :, group.rows, group.columns].index_add_(1, group.roots, g_roots)
            g_shift[group.slots] = d_shift.to(shift.dtype)
        return g_x, g_weight, g_bias, g_shift, *(None,) * 6
