"""ReLU(BN(z)) where some slots z read another channel, shifted by fractions of a pixel.

Coordinates are clamped to the border. :func:`sample` says what is computed, for any device and for
``torch.compile``; :class:`ShiftedNorm` does it on a CPU: batch norm of the input goes into a new
buffer anyway, so only re-used slots are computed beside it, in groups of one whole-pixel shift
that stay in the cache, and nothing but the input and the result is kept for the backward pass.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
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


class _Group(NamedTuple):
    """Slots of one whole-pixel shift; padding (left, right, top, bottom) that the shift needs."""

    slots: Tensor  # int64 [g]
    roots: Tensor  # int64 [g]
    padding: tuple[int, int, int, int]
    x0: int  # first column of the padded map that is read
    y0: int
    fx: Tensor  # [g, 1, 1], in [0, 1)
    fy: Tensor


def _groups(x: Tensor, source: Tensor, shift: Tensor) -> Iterator[_Group]:
    n, _, h, w = x.shape
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    sources, shifts = source.tolist(), shift.tolist()
    for slot, (root, (sx, sy)) in enumerate(zip(sources, shifts, strict=True)):
        if root >= 0:  # beyond the map all is border
            place = (max(-w, min(w, math.floor(sx))), max(-h, min(h, math.floor(sy))))
            members[place].append(slot)
    limit = max(1, GROUP_BYTES // max(1, n * h * w * x.element_size()))
    for (ix, iy), slots in sorted(members.items()):
        padding = (max(0, -ix), max(0, ix + 1), max(0, -iy), max(0, iy + 1))
        for begin in range(0, len(slots), limit):
            chosen = torch.tensor(slots[begin : begin + limit])
            fraction = (shift[chosen] - shift.new_tensor([ix, iy])).clamp(0, 1).to(x.dtype)
            fx, fy = fraction[:, 0, None, None], fraction[:, 1, None, None]
            yield _Group(chosen, source[chosen], padding, max(0, ix), max(0, iy), fx, fy)


@torch.autocast("cpu", enabled=False)  # or padding would be in float32
def _read(x: Tensor, group: _Group) -> tuple[Tensor, Tensor, Tensor]:
    """Padded roots, their mean along the width [n, g, h + 1, w], and the slots [n, g, h, w]."""
    h, w = x.shape[2:]
    padded = functional.pad(x.index_select(1, group.roots), group.padding, mode="replicate")
    rows = padded[:, :, group.y0 : group.y0 + h + 1]
    first, second = (rows[..., group.x0 + k : group.x0 + k + w] for k in (0, 1))
    across = torch.lerp(first, second, group.fx)
    return padded, across, torch.lerp(across[:, :, :-1], across[:, :, 1:], group.fy)


def move(
    z: Float[Tensor, "n s h w"],
    x: Float[Tensor, "n c h w"],
    source: Int64[Tensor, "s"],
    shift: Float[Tensor, "s 2"],
) -> None:
    """Overwrite the slots of ``z`` whose source is not -1 with what they read, on a CPU."""
    for group in _groups(x, source, shift):
        z.index_copy_(1, group.slots, _read(x, group)[2])


def _spread(
    grad: Tensor, padded: Tensor, across: Tensor, group: _Group
) -> tuple[Tensor, Float[Tensor, "g 2"]]:
    """Gradients of the roots [n, g, h, w] and of the shifts, from that of the slots."""
    _, _, h, w = grad.shape
    d_y = (grad * (across[:, :, 1:] - across[:, :, :-1])).sum((0, 2, 3))
    lower = grad * group.fy
    g_across = functional.pad(grad - lower, (0, 0, 0, 1))
    g_across[:, :, 1:] += lower
    rows = padded[:, :, group.y0 : group.y0 + h + 1]
    first, second = (rows[..., group.x0 + k : group.x0 + k + w] for k in (0, 1))
    d_x = (g_across * (second - first)).sum((0, 2, 3))
    right = g_across * group.fx
    g_padded = torch.zeros_like(padded)
    g_rows = g_padded[:, :, group.y0 : group.y0 + h + 1]
    g_rows[..., group.x0 : group.x0 + w] = g_across - right
    g_rows[..., group.x0 + 1 : group.x0 + 1 + w] += right
    g_roots = torch.ops.aten.replication_pad2d_backward(g_padded, grad, group.padding)
    return g_roots, torch.stack([d_x, d_y], 1)


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
        x = x.contiguous()
        groups = list(_groups(x, source, shift))
        slots = torch.cat([group.slots for group in groups])
        kept = mean[slots], var[slots]
        norm = torch.native_batch_norm
        a, *saved = norm(x, weight, bias, mean, var, training, momentum, eps)
        mean[slots], var[slots] = kept
        for group in groups:
            at = group.slots
            m, v = mean[at], var[at]
            z = _read(x, group)[2]
            y, *stats = norm(z, weight[at], bias[at], m, v, training, momentum, eps)
            a.index_copy_(1, at, y)
            mean[at], var[at] = m, v
            for whole, part in zip(saved, stats, strict=True):
                if training:
                    whole[at] = part
        a.relu_()
        ctx.groups, ctx.slots, ctx.training, ctx.eps = groups, slots, training, eps
        ctx.save_for_backward(x, a, weight, shift, mean.clone(), var.clone(), *saved)
        return a

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, a, weight, shift, mean, var, batch_mean, batch_invstd = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], a, 0)
        parts = [grad.index_select(1, group.slots) for group in ctx.groups]
        grad.index_fill_(1, ctx.slots, 0)

        def norm_backward(g: Tensor, z: Tensor, at: Tensor | slice) -> tuple[Tensor, ...]:
            stats = [t[at] if t.numel() else t for t in (mean, var, batch_mean, batch_invstd)]
            return torch.ops.aten.native_batch_norm_backward(
                g, z, weight[at], *stats, ctx.training, ctx.eps, [True] * 3
            )

        g_x, g_weight, g_bias = norm_backward(grad, x, slice(None))
        g_shift = torch.zeros_like(shift)
        for group, part in zip(ctx.groups, parts, strict=True):
            at = group.slots
            padded, across, z = _read(x, group)
            g_z, g_weight[at], g_bias[at] = norm_backward(part, z, at)
            g_roots, d_shift = _spread(g_z, padded, across, group)
            g_x.index_add_(1, group.roots, g_roots)
            g_shift[at] = d_shift.to(shift.dtype)
        return g_x, g_weight, g_bias, g_shift, *(None,) * 6
