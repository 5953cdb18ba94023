"""ReLU(BN(z)) of the reference on a GPU: Triton programs called by two operators.

A plain unit reads its map for the statistics and again to write what the convolution reads; here
the same two passes read re-used slots through their sources, so that only their further
neighbours cost anything. Nothing waits for the device, sizes do not depend on the allocation, and
``torch.compile`` sees two operators: both work inside of CUDA graphs. Triton is imported on first
use; it comes with torch's CUDA builds.
"""

import importlib.util
from functools import cache
from math import gcd
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

AVAILABLE = importlib.util.find_spec("triton") is not None
LARGEST = 4096  # slots that one program tabulates


class NormTiles(NamedTuple):
    """Shapes of the programs, chosen by measurement.

    Attributes:
        pixels: of a tile.
        channels: of a tile.
        slots: re-used ones of a tile.
        warps: of a program.
        splits: parts of a sum over pixels, at most.
        lanes: programs an image, or a part, that share the re-used slots.
    """

    pixels: int = 64
    channels: int = 64
    slots: int = 8
    warps: int = 4
    splits: int = 1024
    lanes: int = 8


TILES = NormTiles()


def fits(x: Tensor) -> bool:
    """Whether the programs take ``x`` [n, c, h, w]."""
    return x.is_cuda and x.shape[1] <= LARGEST and x.dtype != torch.float64 and AVAILABLE


@cache
def programs() -> Any:
    from models.nets.selective import norm_kernels

    return norm_kernels


@cache
def _programs_backward() -> Any:
    from models.nets.selective import norm_backward_kernels

    return norm_backward_kernels


class MapShape(NamedTuple):
    """A map [n, c, h, w] as a matrix of pixels and channels, and how sums over it are split."""

    n: int
    c: int
    h: int
    w: int

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w

    @property
    def align(self) -> int:
        """Channels whose addresses are consecutive and aligned in every pixel."""
        return gcd(self.c, 8)

    @property
    def rows(self) -> int:
        """Pixels of a part of a sum."""
        parts = -(-self.pixels // TILES.splits)
        return -(-parts // TILES.pixels) * TILES.pixels

    @property
    def splits(self) -> int:
        return -(-self.pixels // self.rows)


def ceil_div(count: int, size: int) -> int:
    return -(-count // size)


def next_power_of_2(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _tile_of_sums(shape: MapShape) -> dict[str, int]:
    return {"BS": next_power_of_2(shape.splits), "BC": 8, "num_warps": 4}


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
    """The activation in the order NHWC; mean, unbiased variance; tables for the backward pass."""
    x = x.contiguous(memory_format=torch.channels_last)
    shape, k, t = MapShape(*x.shape), programs(), TILES
    a, batch, coefficients, table = _outputs(x)
    tabulate(source, table, shape.c)
    partial = batch.new_empty(2, shape.splits, shape.c)
    planes = planes_of(x, source, table, partial, shape, training=training)
    sizes = {"H": shape.h, "W": shape.w, "BP": t.pixels, "BM": t.slots, "num_warps": t.warps}
    if training:
        k.scan_moved[(shape.splits, t.lanes)](
            planes, table, shift, partial, shape.pixels, shape.c, shape.rows, shape.splits, **sizes
        )
    k.finish[(ceil_div(shape.c, 8),)](
        partial, weight, bias, mean, var, coefficients, batch, eps,
        shape.pixels, shape.c, shape.rows, shape.splits, STATS=training, **_tile_of_sums(shape),
    )  # fmt: skip
    apply(x, planes, table, shift, coefficients, a)
    return a, batch, coefficients, table


def table_size(channels: int) -> int:
    """Of the table of :func:`norm_kernels.tabulate`."""
    return 6 * channels + 2


def tabulate(source: Tensor, table: Tensor, channels: int) -> None:
    """Fill a table [6 c + 2] from ``source`` [c]: which slots are re-used, what they read."""
    k, size, tile = programs(), next_power_of_2(max(2, channels)), 16
    k.mark[(1,)](source, table, channels, BC=size)
    k.tabulate[(ceil_div(channels, tile),)](source, table, channels, BC=tile, BI=min(size, 128))


def apply(
    x: Tensor, planes: Tensor, table: Tensor, shift: Tensor, coefficients: Tensor, out: Tensor
) -> None:
    """Fill ``out`` with ReLU(scale z + offset) of all slots z.

    Args:
        x: input [n, c, h, w] in the order NHWC.
        planes: the channels that re-used slots read, [c, pixels].
        table: int32 [6 c + 2] of :func:`norm_gpu.tabulate`.
        shift: [c, 2] in pixels.
        coefficients: float32 [4, c]: mean, 1 / std, scale, offset.
        out: of the shape and order of ``x``.
    """
    shape, t = MapShape(*x.shape), TILES
    programs().apply[(ceil_div(shape.pixels, t.pixels),)](
        x, planes, table, shift, coefficients, out, shape.pixels, shape.c // shape.align,
        ALIGN=shape.align, H=shape.h, W=shape.w, BP=t.pixels, BC=t.channels, BM=t.slots,
        num_warps=t.warps,
    )  # fmt: skip


def _outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    c = x.shape[1]
    return (
        torch.empty_like(x, memory_format=torch.channels_last),
        x.new_empty(2, c, dtype=torch.float32),
        x.new_empty(4, c, dtype=torch.float32),
        x.new_empty(table_size(c), dtype=torch.int32),
    )


@_forward.register_fake
def _(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(x)


def planes_of(
    x: Tensor, source: Tensor, table: Tensor, partial: Tensor, shape: MapShape, *, training: bool
) -> Tensor:
    """The channels that re-used slots read, one after the other; with statistics in training.

    Args:
        x: input [n, c, h, w] in the order NHWC.
        source: int64 [c], -1 or the channel that a slot reads.
        table: int32 [6 c + 2] of :func:`norm_gpu.tabulate`.
        partial: float32 [2, splits, c], mean and squares by parts, filled in training.
        shape: of ``x``.
        training: whether statistics are wanted.

    Returns:
        [c, pixels]; only its first rows are filled.
    """
    t = TILES
    planes = x.new_empty(shape.c, shape.pixels)  # memory is touched for the channels read alone
    programs().scan[(shape.splits, ceil_div(shape.c, t.channels))](
        x, source, table, planes, partial, shape.pixels, shape.c // shape.align, shape.rows,
        shape.splits, ALIGN=shape.align, STATS=training, BP=t.pixels, BC=t.channels,
        num_warps=t.warps,
    )  # fmt: skip
    return planes


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
    shape, k, t = MapShape(*x.shape), _programs_backward(), TILES
    p, c, align = shape.pixels, shape.c, shape.align
    partial = coefficients.new_empty(2, shape.splits, c)
    planes = planes_of(x, source, table, partial, shape, training=False)
    moved, sums = torch.empty_like(planes), partial.new_empty(2, c)
    sizes = {"H": shape.h, "W": shape.w, "BP": t.pixels, "num_warps": t.warps}
    k.reduce[(shape.splits,)](
        x, planes, table, source, shift, coefficients, grad, moved, partial, p, c // align,
        shape.rows, shape.splits, ALIGN=align, BC=t.channels, BM=t.slots, **sizes,
    )  # fmt: skip
    k.finish_reduce[(ceil_div(c, 8),)](partial, sums, c, shape.splits, **_tile_of_sums(shape))
    plane_grad = planes.new_empty(planes.shape, dtype=torch.float32)
    scratch = plane_grad.new_empty(shape.n, t.lanes, shape.h * shape.w)
    parts = plane_grad.new_zeros(shape.n, c, 2)
    whole = min(1024, next_power_of_2(shape.h * shape.w))
    k.moved_backward[(shape.n, t.lanes)](
        planes, table, shift, coefficients, sums, moved, scratch, plane_grad, parts, p, c,
        TRAINING=training, **sizes | {"BP": whole},
    )  # fmt: skip
    out = torch.empty_like(x)
    k.own_backward[(ceil_div(p, t.pixels), ceil_div(c, t.channels))](
        x, grad, table, source, coefficients, sums, plane_grad, out, p, c // align, ALIGN=align,
        TRAINING=training, BP=t.pixels, BC=t.channels, num_warps=t.warps,
    )  # fmt: skip
    return out, parts.sum(0), sums


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


def track(norm: nn.BatchNorm2d, batch: Float[Tensor, "2 c"]) -> None:
    """Move the running statistics of a norm in training towards a batch's, as torch does.

    Args:
        norm: with a momentum.
        batch: mean and unbiased variance of each slot.
    """
    if not norm.training:
        return
    norm.num_batches_tracked.add_(1)  # ty: ignore[missing-union-attribute]  # a buffer
    running = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    for kept, value in zip(running, batch.unbind(), strict=True):
        kept.lerp_(value, norm.momentum)  # ty: ignore[no-matching-overload]  # never None


def shifted_norm(
    x: Float[Tensor, "n c h w"],
    norm: nn.BatchNorm2d,
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
    track(norm, batch)
    return a
