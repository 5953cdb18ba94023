"""conv1x1(ReLU(BN(z))) of the reference on a GPU, the activation never written.

A plain unit writes its activation and reads it for the convolution, and its gradient again twice in
the backward pass. Here the product with the weights applies scale, offset and ReLU as it reads the
input, and the backward pass recomputes gradient and activation from input and output's gradient:
half of the traffic goes, which pays for the re-used slots. Those are rows along pixels, read by
products of their own. Nothing waits for the device, sizes do not depend on the allocation.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.nets.selective import norm_gpu
from models.nets.selective.norm_gpu import (
    MapShape,
    ceil_div,
    next_power_of_2,
    programs,
    table_size,
    tabulate,
    track,
)

TYPES = (torch.bfloat16, torch.float16)  # in float32 the products would not be the fast ones
MOST_OUTPUTS = 256  # one tile holds them all


class ConvTiles(NamedTuple):
    """Shapes of the programs, chosen by measurement and by the registers that they take.

    Attributes:
        pixels: of a tile of the products.
        sums: pixels of a tile of the sums and of the input's gradient.
        channels: of a tile.
        narrow: channels of a tile of the input's gradient.
        slots: re-used ones of a tile.
        moved: pixels of a tile of their values and sums.
        group: re-used slots of a tile of the planes' gradient.
        image: pixels of a tile of one image.
        scans: programs of four warps, about as many as work at the statistics.
        programs: the same of the products over pixels.
        lanes: programs a part that share the re-used slots, or planes.
    """

    pixels: int = 64
    sums: int = 64
    channels: int = 64
    narrow: int = 32
    slots: int = 16
    moved: int = 32
    group: int = 4
    image: int = 256
    scans: int = 1024
    programs: int = 528
    lanes: int = 8


TILES = ConvTiles()


def fits(x: Tensor, outputs: int) -> bool:
    """Whether the programs take ``x`` [n, c, h, w], and in the precision that they are made for."""
    return x.dtype in TYPES and outputs <= MOST_OUTPUTS and norm_gpu.fits(x)


@cache
def _products() -> Any:
    from models.nets.selective import conv_kernels

    return conv_kernels


@cache
def _products_backward() -> Any:
    from models.nets.selective import conv_backward_kernels

    return conv_backward_kernels


class Parts(NamedTuple):
    """How a sum over pixels is split."""

    rows: int
    splits: int


def parts_of(shape: MapShape, programs: int) -> Parts:
    """Parts of a sum over pixels for about ``programs`` programs."""
    t = TILES
    wanted = max(1, programs // ceil_div(shape.c, t.channels))
    rows = ceil_div(ceil_div(shape.pixels, wanted), t.sums) * t.sums
    return Parts(rows, ceil_div(shape.pixels, rows))


def _outputs(outputs: int) -> dict[str, int]:
    return {"OUT": outputs, "BO": max(16, next_power_of_2(outputs))}


@torch.library.custom_op("sextant::shifted_conv", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor,
    shift: Tensor,
    source: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output in the order NHWC; mean and unbiased variance; then what the backward pass needs.

    That is: coefficients, table, weights [c, o] in the input's precision, values of the slots.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    shape, k = MapShape(*x.shape), programs()
    out, batch, coefficients, table, flat, z = made = outputs_of(x, weight)
    flat.copy_(weight.t())
    tabulate(source, table, shape.c)
    parts = parts_of(shape, TILES.scans)
    partial = batch.new_empty(2, parts.splits, shape.c)
    fill_slots(x, source, table, shift, z, partial, parts, training=training)
    k.finish[(ceil_div(shape.c, 8),)](
        partial, gain, bias, mean, var, coefficients, batch, eps, shape.pixels, shape.c, *parts,
        STATS=training, BS=next_power_of_2(parts.splits), BC=8,
    )  # fmt: skip
    mix(x, source, z, table, coefficients, flat, out)
    return made


def fill_slots(
    x: Tensor, source: Tensor, table: Tensor, shift: Tensor, z: Tensor, partial: Tensor,
    parts: Parts, *, training: bool,
) -> None:  # fmt: skip
    """Fill ``z`` with the re-used slots, row by row; in training, sums of all slots too.

    Args:
        x: input [n, c, h, w] in the order NHWC.
        source: int64 [c], -1 or the channel that a slot reads.
        table: int32 [6 c + 2] of :func:`norm_gpu.tabulate`.
        shift: [c, 2] in pixels.
        z: [c, pixels]; its first rows are filled.
        partial: float32 [2, splits, c], mean and squares by parts, filled in training.
        parts: of the pixels.
        training: whether statistics are wanted.
    """
    shape, t, k = MapShape(*x.shape), TILES, _products()
    planes = _lifted(x, table)
    if training:
        k.measure[(parts.splits, ceil_div(shape.c, t.channels))](
            x, source, partial, shape.pixels, shape.c // shape.align, *parts, ALIGN=shape.align,
            BP=t.sums, BC=t.channels,
        )  # fmt: skip
    k.fill_slots[(parts.splits, t.lanes)](
        planes, table, shift, z, partial, shape.pixels, shape.c, *parts, H=shape.h, W=shape.w,
        STATS=training, BM=t.slots, BP=t.moved,
    )  # fmt: skip


def _lifted(x: Tensor, table: Tensor) -> Tensor:
    """The channels that re-used slots read, one after the other."""
    shape, t = MapShape(*x.shape), TILES
    planes = x.new_empty(shape.c, shape.pixels)  # memory is touched for the channels read alone
    _products().lift[(ceil_div(shape.pixels, t.pixels),)](
        x, table, planes, shape.pixels, shape.c, BP=t.pixels, BM=t.slots
    )
    return planes


def mix(
    x: Tensor, source: Tensor, z: Tensor, table: Tensor, coefficients: Tensor, flat: Tensor,
    out: Tensor,
) -> None:  # fmt: skip
    """Fill ``out`` with the product of activation and weights [c, o].

    Args:
        x: input [n, c, h, w] in the order NHWC.
        source: int64 [c], -1 or the channel that a slot reads.
        z: values [c, pixels] of the re-used slots, row by row.
        table: int32 [6 c + 2] of :func:`norm_gpu.tabulate`.
        coefficients: float32 [4, c]: mean, 1 / std, scale, offset.
        flat: weights [c, o].
        out: [n, o, h, w] in the order NHWC, filled.
    """
    shape, t = MapShape(*x.shape), TILES
    _products().mix[(ceil_div(shape.pixels, t.pixels),)](
        x, source, z, table, coefficients, flat, out, shape.pixels, shape.c // shape.align,
        ALIGN=shape.align, **_outputs(flat.shape[1]), BP=t.pixels, BC=t.channels, BM=t.slots,
    )  # fmt: skip


def outputs_of(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for what :func:`shifted_conv` computes, for ``x`` [n, c, h, w] and ``weight`` [o, c].

    Returns:
        Output [n, o, h, w], statistics [2, c], coefficients [4, c], table [6 c + 2], weights
        [c, o] and values of the re-used slots [c, n h w].
    """
    n, c, h, w = x.shape
    return (
        x.new_empty(n, h, w, len(weight)).permute(0, 3, 1, 2),
        x.new_empty(2, c, dtype=torch.float32),
        x.new_empty(4, c, dtype=torch.float32),
        x.new_empty(table_size(c), dtype=torch.int32),
        x.new_empty(c, len(weight)),
        x.new_empty(c, n * h * w),  # memory is touched for re-used slots alone
    )


@_forward.register_fake
def _(x: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, ...]:
    return outputs_of(x, weight)


@torch.library.custom_op("sextant::shifted_conv_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    shift: Tensor,
    source: Tensor,
    coefficients: Tensor,
    table: Tensor,
    flat: Tensor,
    z: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input, the weights and the shift; sums [2, c]: those of bias and gain."""
    x = x.contiguous(memory_format=torch.channels_last)
    grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
    shape, k, t = MapShape(*x.shape), _products_backward(), TILES
    p, c, align = shape.pixels, shape.c, shape.align
    outputs, warps = _outputs(flat.shape[1]), 4 if flat.shape[1] <= 64 else 8
    parts = parts_of(shape, 4 * t.programs // warps)
    out_c = (flat.shape[1], c)
    partial = coefficients.new_empty(parts.splits, 2, *out_c)
    k.reduce_own[(parts.splits, ceil_div(c, t.channels))](
        x, grad, source, coefficients, partial, p, c // align, parts.rows, ALIGN=align, **outputs,
        BP=t.sums, BC=t.channels, num_warps=warps,
    )  # fmt: skip
    planes, moved = _lifted(x, table), torch.empty_like(z)
    k.reduce_moved[(parts.splits, t.lanes)](
        z, grad, flat, table, coefficients, moved, partial, p, c, parts.rows, **outputs,
        BP=t.moved if outputs["BO"] <= 128 else 16, BM=t.slots,
    )  # fmt: skip
    sums, weights = partial.new_empty(2, c), partial.new_empty(out_c)
    k.finish_products[(ceil_div(c, 8),)](
        partial.sum(0), flat, coefficients, sums, weights, c, **outputs, BC=8
    )
    tiles = ceil_div(shape.h * shape.w, t.image)
    plane_grad, shifts = (
        x.new_empty(z.shape, dtype=torch.float32),
        sums.new_zeros(c, 2, shape.n * tiles),
    )
    k.planes_backward[(shape.n, tiles, t.lanes)](
        planes, z, table, shift, coefficients, sums, moved, plane_grad, shifts, p, c,
        TRAINING=training, H=shape.h, W=shape.w, BM=t.group, BP=t.image,
    )  # fmt: skip
    out = torch.empty_like(x)
    k.own_backward[(ceil_div(p, t.sums),)](
        x, grad, flat, table, source, coefficients, sums, plane_grad, out, p, c // align,
        ALIGN=align, TRAINING=training, **outputs, BP=t.sums, BC=t.narrow,
    )  # fmt: skip
    return out, weights, shifts.sum(2), sums


@_backward.register_fake
def _(grad: Tensor, x: Tensor, *_: object) -> tuple[Tensor, ...]:
    c, sums = x.shape[1], x.new_empty(2, x.shape[1], dtype=torch.float32)
    g_x = torch.empty_like(x, memory_format=torch.channels_last)
    return g_x, sums.new_empty(grad.shape[1], c), sums.new_empty(c, 2), sums


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, _, _, shift, source, *_, ctx.training, _ = inputs
    _, batch, *kept = output
    ctx.save_for_backward(x, shift, source, *kept)
    ctx.mark_non_differentiable(batch, *kept)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    g_x, g_weight, g_shift, sums = _backward(grad, *ctx.saved_tensors, ctx.training)
    return g_x, g_weight, sums[1], sums[0], g_shift, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def shifted_conv(
    x: Float[Tensor, "n c h w"],
    norm: torch.nn.BatchNorm2d,
    weight: Float[Tensor, "o c 1 1"],
    shift: Float[Tensor, "c 2"],
    source: Int64[Tensor, "c"],
) -> Float[Tensor, "n o h w"]:
    """conv(ReLU(BN(sample(x, source, shift))), weight), in the order NHWC; updates statistics.

    Args:
        x: input of a unit, on a GPU.
        norm: batch norm of the slots.
        weight: of the convolution.
        shift: of each slot in pixels.
        source: -1 or the channel that a slot reads.
    """
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    out, batch, *_ = _forward(
        x, weight.flatten(1), norm.weight, norm.bias, shift, source, mean, var, norm.training,
        norm.eps,
    )  # fmt: skip
    track(norm, batch)
    return out
