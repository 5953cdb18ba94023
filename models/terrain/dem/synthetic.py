"""Generated terrains with narrow walls and channels, which control the flow."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from models.core.device import generator
from models.terrain.spec.terrains import Synthetic

LEVEE_CELLS, ROAD_CELLS, GAP_CELLS = 2, 2, 4


def generate(made: Synthetic, seed: int) -> Float[Tensor, "ny nx"]:
    """Heights in m of variant ``made.variant``; mean 0.

    Spectral noise (amplitude falls as the square of the wave number) on a valley that falls to the
    right, with a winding channel, levees along it, roads across it with a gap each, buildings.
    """
    g = generator(seed, "terrain", made.variant)
    ny, nx = made.rows, made.columns
    row = torch.arange(ny).float()[:, None]
    column = torch.arange(nx).float()[None]
    z = noise(ny, nx, g) * made.relief_m / 2
    middle = _winding(nx, ny, g)
    away = (row - middle).abs()
    z = z * (0.3 + 0.7 * (away / (0.25 * ny)).clamp(max=1))  # flatter near the river
    z = z - made.slope * made.cell_size_m * column + 2 * (away / ny) ** 2 * made.relief_m
    z = _levees(z, row, middle, made, g)
    z = _roads(z, row, column, made, g)
    dug = (1 - (away / (made.channel_width_cells / 2)) ** 2).clamp(min=0)
    z = z - made.channel_depth_m * dug.sqrt()
    z = _buildings(z, made, g)
    return z - z.mean()


def noise(ny: int, nx: int, g: torch.Generator) -> Float[Tensor, "{ny} {nx}"]:
    """Random hills of standard deviation 1 with power -2 in the amplitude's wave number."""
    white = torch.fft.rfft2(torch.randn(ny, nx, generator=g))
    k = torch.hypot(torch.fft.fftfreq(ny)[:, None] * ny, torch.fft.rfftfreq(nx)[None] * nx)
    rough = torch.fft.irfft2(white / k.clamp(min=1) ** 2, s=(ny, nx))
    rough = rough - rough.mean()
    return rough / rough.std()


def _uniform(g: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def _winding(nx: int, ny: int, g: torch.Generator) -> Float[Tensor, "1 {nx}"]:
    """Row of the river at each column: two sines."""
    x = torch.arange(nx) / nx * 2 * math.pi
    wide = _uniform(g, 0.05, 0.12) * torch.sin(_uniform(g, 1.0, 2.0) * x + _uniform(g, 0.0, 6.3))
    small = _uniform(g, 0.01, 0.04) * torch.sin(_uniform(g, 3.0, 6.0) * x + _uniform(g, 0.0, 6.3))
    return (ny * (_uniform(g, 0.4, 0.6) + wide + small))[None]


def _levees(z: Tensor, row: Tensor, middle: Tensor, made: Synthetic, g: torch.Generator) -> Tensor:
    """Walls along the river at some distance, on alternating sides, each with one breach."""
    nx = z.shape[1]
    for k in range(made.levees):
        side = 1 if k % 2 else -1
        distance = made.channel_width_cells + _uniform(g, 0.03, 0.10) * len(z) * (1 + k // 2)
        height = made.levee_height_m * _uniform(g, 0.5, 1.2)
        wall = ((row - middle) * side - distance).abs() < LEVEE_CELLS / 2
        breach = int(_uniform(g, 0.3, 0.9) * nx)
        wall[:, breach : breach + GAP_CELLS] = False
        z = torch.where(wall, z + height, z)
    return z


def _roads(z: Tensor, row: Tensor, column: Tensor, made: Synthetic, g: torch.Generator) -> Tensor:
    """Dams across the valley with one culvert each, at a random height of the valley."""
    ny, nx = z.shape
    for k in range(made.roads):
        at = nx * (k + _uniform(g, 0.7, 1.3)) / (made.roads + 1)
        lean = _uniform(g, -0.2, 0.2)
        dam = (column - at - lean * (row - ny / 2)).abs() < ROAD_CELLS / 2
        gap = int(_uniform(g, 0.15, 0.85) * ny)
        dam[gap : gap + GAP_CELLS] = False
        z = torch.where(dam, z + made.levee_height_m * _uniform(g, 0.3, 0.9), z)
    return z


def _buildings(z: Tensor, made: Synthetic, g: torch.Generator) -> Tensor:
    """Blocks of 5 m height and 8 to 20 m side."""
    ny, nx = z.shape
    for _ in range(made.buildings):
        side = max(1, round(_uniform(g, 8.0, 20.0) / made.cell_size_m))
        i, j = int(_uniform(g, 0.0, float(ny - side))), int(_uniform(g, 0.0, float(nx - side)))
        z[i : i + side, j : j + side] += 5.0
    return z
