"""The sums of :mod:`models.lcw.pairs` on a GPU, as one kernel; Triton is imported on first use.

A program keeps the points and the gradient of some rows and loops over all columns: product, root,
slopes and second product without a pass through memory. No atomics, so results repeat bit for bit.
Points are split in two bfloat16 parts once, so that the tensor cores read them as they lie.
"""

import importlib.util
import math
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.lcw import pairs
from models.lcw.profile import Profile

NEAR = 2**-6  # of |p|^2: below this, 2^10 times the rounding of a product, differences are taken
MAX_DIM = 256  # the gradient of a program's rows must fit its registers
PADDED = 128  # rows of the parts are a multiple, so that no tile ends within
AFAR = 1e30  # half squared norm of the rows that pad: their kernel vanishes
OLDEST = (8, 0)  # capability of the first chips whose tensor cores take bfloat16


class Tile(NamedTuple):
    """Shape of a program.

    Attributes:
        rows: held by a program; divides the padding.
        columns: visited at a time; divides the padding.
        warps: of a program.
        stages: of the software pipeline.
    """

    rows: int = 64
    columns: int = 64
    warps: int = 4
    stages: int = 2


class SplitPoints(NamedTuple):
    """Points as the kernel reads them, p = sqrt(2 c) x.

    All uses are of the same rounded numbers, so that errors of own and of cross pairs agree.

    Attributes:
        p: [n, D], high + low.
        half: [padded], (1 + |p|^2) / 2; half_i + half_j - p_i . p_j = 1 + c |x_i - x_j|^2.
        high: [padded, wide] bfloat16, the points rounded.
        low: [padded, wide] bfloat16, what that leaves, rounded.
        near: [n, D], weighted sums of V p, and
        total: [n], of V, from which the gradient is made; or None.
    """

    p: Tensor
    half: Tensor
    high: Tensor
    low: Tensor
    near: Tensor | None
    total: Tensor | None


def tile_of(dim: int) -> Tile:
    """The tile of a dimension."""
    return Tile() if dim <= MAX_DIM // 2 else Tile(64, 32)


@cache
def _available() -> bool:
    installed = importlib.util.find_spec("triton") is not None
    return installed and torch.cuda.get_device_capability() >= OLDEST


def fits(x: Tensor, profile: Profile) -> bool:
    """Whether the kernel takes ``x`` [n, D]; the blocks of :mod:`models.lcw.pairs` do the rest."""
    if not x.is_cuda or x.dtype != torch.float32 or profile.closed > 0:
        return False
    return x.shape[1] <= MAX_DIM and _available()


def _points(x: Float[Tensor, "n d"], c: float, *, moves: bool) -> SplitPoints:
    """Prepare points, given c = K / gamma."""
    n, d = x.shape
    rows, columns = -n % PADDED, _wide(d) - d
    scaled = x * math.sqrt(2 * c)
    high = scaled.bfloat16()
    low = (scaled - high).bfloat16()
    p = high.float() + low
    half = torch.linalg.vecdot(p, p).add_(1).mul_(0.5)
    high, low = (functional.pad(part, (0, columns, 0, rows)) for part in (high, low))
    near, total = (torch.zeros_like(p), torch.zeros_like(half)) if moves else (None, None)
    return SplitPoints(p, functional.pad(half, (0, rows), value=AFAR), high, low, near, total)


def _wide(dim: int) -> int:
    """Width of the parts: a power of two that the tensor cores take."""
    return max(16, 1 << (dim - 1).bit_length())


def sums(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    centre: Float[Tensor, "d"],
    c: float,
    profile: Profile,
    weights: pairs.Weights,
    moves: tuple[bool, bool],
) -> tuple[Float[Tensor, ""], list[Float[Tensor, "_ d"]]]:
    """As :func:`models.lcw.pairs.sums`, which chooses its own blocks.

    Args:
        x: points.
        y: points.
        centre: subtracted from both first.
        c: K / gamma.
        profile: the kernel.
        weights: of the three sums.
        moves: whether the gradients for x and for y are wanted.
    """
    a, b = (
        _points(side - centre, c, moves=moving) for side, moving in zip((x, y), moves, strict=True)
    )
    value = weights.x * _launch(a, a, profile, 2 * weights.x)  # an own pair moves with both points
    if len(y):
        value = value + weights.cross * _launch(a, b, profile, weights.cross)
    if len(y) and moves[1]:
        _launch(b, a, profile, weights.cross)
    if weights.y:
        value = value + weights.y * _launch(b, b, profile, 2 * weights.y)
    gradients = [
        pairs.gradient(s.p, s.near, s.total, c)
        for s in (a, b)
        if s.near is not None and s.total is not None
    ]
    return value, gradients


def _launch(a: SplitPoints, b: SplitPoints, profile: Profile, factor: float) -> Float[Tensor, ""]:
    """Sum of phi over (i, j); adds ``factor`` times the slopes of ``a``'s rows."""
    (n, dim), m, moves = a.p.shape, len(b.p), a.near is not None
    tile, half = tile_of(dim), a is b and not moves
    columns = tile.rows if half else tile.columns
    sums = a.p.new_empty(n, dtype=torch.float64)
    _compiled()[(-(-n // tile.rows),)](
        a.p,
        a.half,
        a.high,
        a.low,
        b.p,
        b.half,
        b.high,
        b.low,
        _coefficients(profile, a.p.device),
        sums,
        a.near if moves else a.p,
        a.total if moves else a.half,
        factor,
        n,
        m,
        D=dim,
        BD=_wide(dim),
        BM=tile.rows,
        BN=columns,
        TERMS=len(profile.value),
        OWN=a is b,
        SLOPES=moves,
        NEAR=NEAR,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return sums.sum()


@cache
def _coefficients(profile: Profile, device: torch.device) -> Float[Tensor, "k"]:
    """Copied once: a copy from the host cannot be part of a CUDA graph."""
    flat = (*profile.value, *profile.slope)
    return torch.tensor(flat, dtype=torch.float32, device=device)


@cache
def _compiled() -> Any:
    from models.lcw import fused_kernel

    return fused_kernel.pair_sums
