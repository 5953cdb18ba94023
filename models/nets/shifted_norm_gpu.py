"""ReLU(BN(z)) of :mod:`models.nets.shifted_norm` on a GPU: Triton programs behind two operators.

A plain unit walks over its map for the statistics and again to write what the convolution reads;
here the same two walks read re-used slots through their sources, so that only their further
neighbours cost anything. Nothing waits for the device, sizes do not depend on the allocation, and
``torch.compile`` sees two operators: both work inside of CUDA graphs. Triton is imported on first
use; it comes with torch's CUDA builds.
"""

import importlib.util
from functools import cache
from math import gcd
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.nets.shifted_norm_tiles import Map, over, power

AVAILABLE = importlib.util.find_spec("triton") is not None
LARGEST = 4096  # slots that one program tabulates


def fits(x: Tensor) -> bool:
    """Whether the programs can do it."""
    return x.is_cuda and x.shape[1] <= LARGEST and x.dtype != torch.float64 and AVAILABLE


@cache
def _programs() -> Any:
    from models.nets import shifted_norm_kernels

    return shifted_norm_kernels


@cache
def _programs_back() -> Any:
    from models.nets import shifted_norm_back

    return shifted_norm_back


@torch.library.custom_op("sextant::shifted_norm", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor,
    source: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The activation in the order NHWC; mean and unbiased variance; two tables for the way back."""
    x = x.contiguous(memory_format=torch.channels_last)
    a, batch, coefficients, table = _outputs(x)
    shape, most = Map(*x.shape), max(Map(*x.shape).parts)
    partial = batch.new_empty((2, shape.c, most) if training else (0,))
    beside = _read(x, source, shift, table, partial, shape.c, training=training)
    _programs().finish[(over(shape.c, shape.sums["BC"]),)](
        x, source, partial, weight, bias, mean, var, coefficients, batch, eps, shape.pixels,
        shape.c, *shape.parts, most, STATS=training, **shape.sums,
    )  # fmt: skip
    _apply(x, None, beside, table, coefficients, a)
    return a, batch, coefficients, table


def _read(
    x: Tensor,
    source: Tensor,
    shift: Tensor,
    table: Tensor,
    partial: Tensor,
    slots: int,
    *,
    training: bool,
) -> Tensor:
    """Values of the re-used ones of the slots, side by side; sums for statistics in training."""
    shape, k = Map(*x.shape), _programs()
    p, most = shape.pixels, max(shape.parts)
    k.tabulate[(1,)](source, table, len(source), shape.c, BC=power(max(2, shape.c)))
    planes = x.new_empty(shape.c, p)
    k.scan[shape.split](
        x, source, table, planes, partial, p, shape.c // shape.align, shape.part, most,
        ALIGN=shape.align, STATS=training, **shape.tile,
    )  # fmt: skip
    beside, own = x.new_empty(p, slots), gcd(slots, 8)
    k.scan_moved[shape.walk](
        planes, table, shift, beside, partial, p, shape.c // shape.align, slots // own, most,
        shape.rows, ALIGN=shape.align, SALIGN=own, STATS=training, **shape.strip,
    )  # fmt: skip
    return beside


def _apply(
    x: Tensor,
    root: Tensor | None,
    beside: Tensor,
    table: Tensor,
    coefficients: Tensor,
    out: Tensor,
) -> None:
    shape, slots = Map(*x.shape), out.shape[1]
    own = gcd(slots, 8)
    grid = shape.tiles[0], over(slots, shape.tile["BC"])
    _programs().apply[grid](
        x, table if root is None else root, beside, table, coefficients, out, shape.pixels,
        shape.c // shape.align, slots // own, ALIGN=shape.align, SALIGN=own,
        GATHER=root is not None, **shape.tile,
    )  # fmt: skip


def _outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    c = x.shape[1]
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        x.new_empty(2, c, dtype=torch.float32),
        x.new_empty(4, c, dtype=torch.float32),
        x.new_empty(6 * c + 2, dtype=torch.int32),
    )


@_forward.register_fake
def _(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(x)


@torch.library.custom_op("sextant::shifted_norm_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    shift: Tensor,
    source: Tensor,
    coefficients: Tensor,
    table: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input and of the shift; sums [2, c]: those of bias and weight."""
    x = x.contiguous(memory_format=torch.channels_last)
    grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
    shape, k = Map(*x.shape), _programs_back()
    p, c, align = shape.pixels, shape.c, shape.align
    parts = (*shape.parts, max(shape.parts))
    partial = coefficients.new_empty(8, c, parts[2])
    planes, beside, out = x.new_empty(c, p), x.new_empty(p, c), torch.empty_like(x)
    k.reduce[shape.split](
        x, grad, table, source, coefficients, planes, beside, partial, p, c // align, shape.part,
        parts[2], ALIGN=align, **shape.tile,
    )  # fmt: skip
    kept = out  # of the same size, and not written until the gradients kept there are read
    k.reduce_moved[shape.walk](
        planes, table, shift, coefficients, beside, kept, partial, p, c // align, parts[2],
        shape.rows, ALIGN=align, **shape.strip,
    )  # fmt: skip
    sums, shift_grad = partial.new_empty(2, c), torch.empty_like(shift)
    k.finish_reduce[(over(c, shape.sums["BC"]),)](
        partial, source, coefficients, sums, shift_grad, p, c, *parts, TRAINING=training,
        **shape.sums,
    )  # fmt: skip
    k.settle[shape.walk](
        planes, table, shift, coefficients, sums, kept, p, c // align, shape.rows, ALIGN=align,
        TRAINING=training, **shape.strip,
    )  # fmt: skip
    back = beside  # of the same size as well, and its gradients were read
    k.back_moved[shape.behind](table, shift, kept, back, p, c, **shape.gather)
    k.back_own[shape.tiles](
        x, grad, table, source, coefficients, sums, back, out, p, c // align, ALIGN=align,
        TRAINING=training, **shape.tile,
    )  # fmt: skip
    return out, shift_grad, sums


@_backward.register_fake
def _(grad: Tensor, x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    c = grad.shape[1]
    sums = x.new_empty(2, c, dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), sums.new_empty(c, 2), sums


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, _, shift, source, *_, ctx.training, _ = inputs
    _, batch, coefficients, table = output
    ctx.save_for_backward(x, shift, source, coefficients, table)
    ctx.mark_non_differentiable(batch, coefficients, table)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    g_x, g_shift, sums = _backward(grad, *ctx.saved_tensors, ctx.training)
    return g_x, sums[1], sums[0], g_shift, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


@torch.library.custom_op("sextant::compact_norm", mutates_args=())
def _compact(x: Tensor, root: Tensor, shift: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    source = torch.where((shift == 0).all(1), -1, root)
    *_, table = _outputs(x)
    beside = _read(x, source, shift, table, scale, len(root), training=False)
    out = _compact_output(x, root)
    _apply(x, root, beside, table, torch.stack([scale, scale, scale, offset]), out)
    return out


@_compact.register_fake
def _compact_output(x: Tensor, root: Tensor, *_: object) -> Tensor:
    n, h, w = x.shape[0], x.shape[2], x.shape[3]
    return x.new_empty(n, h, w, len(root)).permute(0, 3, 1, 2)


def compact_norm(
    x: Float[Tensor, "n c h w"],
    root: Int64[Tensor, "s"],
    shift: Float[Tensor, "s 2"],
    scale: Float[Tensor, "s"],
    offset: Float[Tensor, "s"],
) -> Float[Tensor, "n s h w"]:
    """ReLU(scale z + offset) of slots z that read channel ``root`` at ``shift``; no gradients.

    Args:
        x: input of a unit, on a GPU.
        root: channel that a slot reads; there are no more slots than channels.
        shift: of each slot in pixels.
        scale: of each slot.
        offset: of each slot.
    """
    return _compact(x, root, shift, scale, offset)


def shifted_norm(
    x: Float[Tensor, "n c h w"],
    norm: torch.nn.BatchNorm2d,
    shift: Float[Tensor, "c 2"],
    source: Int64[Tensor, "c"],
) -> Float[Tensor, "n c h w"]:
    """ReLU(BN(sample(x, source, shift))), in the order NHWC; updates the running statistics.

    Args:
        x: input of a unit, on a GPU.
        norm: batch norm of the slots.
        shift: of each slot in pixels.
        source: -1 or the channel that a slot reads.
    """
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    a, batch, *_ = _forward(
        x, norm.weight, norm.bias, shift, source, mean, var, norm.training, norm.eps
    )
    if norm.training:
        norm.num_batches_tracked.add_(1)  # ty: ignore[missing-union-attribute]  # a buffer
        for running, found in zip((mean, var), batch.unbind(), strict=True):
            running.lerp_(found, norm.momentum)  # ty: ignore[no-matching-overload]  # never None
    return a
