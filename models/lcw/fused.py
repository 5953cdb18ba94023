"""The sums of :mod:`models.lcw.pairs` on a GPU, as one kernel; Triton is imported on first use.

A program keeps the points and the gradient of some rows and walks over all columns: product, root,
slopes and second product without a pass through memory. No atomics, so results repeat bit for bit.
"""

import importlib.util
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.lcw.pairs import Sample
from models.lcw.profile import Profile

NEAR = 2**-6  # of |p|^2: below this, 2^10 times the rounding of a product, differences are taken
MAX_DIM = 256  # the gradient of a program's rows must fit its registers


class Tile(NamedTuple):
    """Shape of a program and how it multiplies.

    Attributes:
        rows: held by a program.
        columns: visited at a time.
        warps: of a program.
        stages: of the software pipeline.
        precision: of tensor-core products: parts a number is split in, and products taken of them.
    """

    rows: int = 64
    columns: int = 64
    warps: int = 4
    stages: int = 2
    precision: str = "bf16x3"


def tile_of(dim: int) -> Tile:
    """The tile of a dimension."""
    return Tile() if dim <= MAX_DIM // 2 else Tile(32, 32, 4, 2)


@cache
def _available() -> bool:
    return importlib.util.find_spec("triton") is not None


def fits(points: Tensor, profile: Profile) -> bool:
    """Whether the kernel can do it; the blocks of :mod:`models.lcw.pairs` do the rest."""
    if not points.is_cuda or points.dtype != torch.float32 or profile.closed > 0:
        return False
    return points.shape[1] - 2 <= MAX_DIM and _available()


def add_pairs(a: Sample, b: Sample, profile: Profile, weight: float) -> Float[Tensor, ""]:
    """As :func:`models.lcw.pairs.add_pairs`, which chooses its own blocks."""
    tile = tile_of(a.left.shape[1] - 2)
    factor = weight * (2 if a is b else 1)
    total = _launch(a, b, profile, factor, tile, own=a is b)
    if b.slopes is not None and a is not b:
        _launch(b, a, profile, factor, tile, own=False)
    return total


def _launch(
    a: Sample, b: Sample, profile: Profile, factor: float, tile: Tile, *, own: bool
) -> Float[Tensor, ""]:
    """Sum of phi over (i, j); adds ``factor`` times the slopes of ``a``'s rows."""
    (n, width), m = a.left.shape, len(b.right)
    dim, slopes = width - 2, a.slopes
    sums = a.left.new_empty(n, dtype=torch.float64)
    coefficients = _coefficients(profile, a.left.device)
    program = _compiled()
    program[(-(-n // tile.rows),)](
        a.left,
        b.right,
        coefficients,
        sums,
        a.left if slopes is None else slopes,
        factor,
        n,
        m,
        D=dim,
        BD=max(16, 1 << (dim - 1).bit_length()),
        BM=tile.rows,
        BN=tile.columns,
        TERMS=len(profile.value),
        OWN=own,
        SLOPES=slopes is not None,
        PRECISION=tile.precision,
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
