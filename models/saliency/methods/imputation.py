"""Noisy linear imputation (ROAD, Rong et al. 2022): removed pixels as means of their neighbours.

Each removed pixel is the weighted mean of its 8 neighbours, with weights 1/6 for direct and 1/12
for diagonal ones, renormalised at the border (README, eq. 11). Let W be the weight matrix and D the
diagonal of its row sums; D - W restricted to the removed pixels is symmetric and positive definite
if at least one pixel is left. The system is solved on the device for all states and channels at
once, by conjugate gradients preconditioned with one multigrid V-cycle. The number of iterations
hardly grows with the size of the removed region; without the preconditioner it grows in proportion
to its width.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.saliency.engine.threads import each

RESIDUAL, ITERATIONS = 1e-10, 400  # pixels are then within 1e-8 of the exact solution (tests)
COARSEST, DAMPING, SWEEPS = 4, 0.8, 8  # side of the coarsest grid, Jacobi damping, sweeps on it


def impute(x: Float[Tensor, "c h w"], removed: Bool[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
    """The image with removed pixels imputed, for each mask; float64, relative residual 1e-10.

    On a CPU each core solves one state at a time, so that its values stay in cache.
    """
    if x.device.type != "cpu":
        return _imputed(x, removed)
    return torch.cat(list(each(lambda part: _imputed(x, part), removed.split(1), "cpu")))


def _imputed(x: Float[Tensor, "c h w"], removed: Bool[Tensor, "n h w"]) -> Tensor:
    image = x.double().expand(len(removed), *x.shape)
    gone = removed[:, None].double()
    kept = image * (1 - gone)
    weight = _sum(torch.ones_like(gone[:1]))
    cycle = Multigrid(removed[:, None].float())
    return kept + _solve(lambda v: gone * (weight * v - _sum(v)), gone * _sum(kept), cycle)


def _solve(
    apply: Callable[[Tensor], Tensor], right: Float[Tensor, "n c h w"], cycle: "Multigrid"
) -> Float[Tensor, "n c h w"]:
    """Preconditioned conjugate gradients, with separate step sizes for each state and channel."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction = cycle(residual)
    rho = _dot(residual, direction)
    goal = RESIDUAL**2 * _dot(right, right).clamp(min=1e-300)
    for _ in range(ITERATIONS):
        if (_dot(residual, residual) <= goal).all():
            break
        image = apply(direction)
        alpha = rho / _dot(direction, image).clamp(min=1e-300)
        solution += alpha * direction
        residual -= alpha * image
        scaled = cycle(residual)
        new = _dot(residual, scaled)
        direction = scaled + new / rho.clamp(min=1e-300) * direction
        rho = new
    return solution


class GridLevel(NamedTuple):
    """One level of the multigrid hierarchy.

    Attributes:
        gone: 1 for removed cells, 0 for others.
        weight: sum of the weights of each cell's neighbours.
        down: interpolation of rows from the next coarser level; empty on the coarsest.
        right: interpolation of columns, likewise.
    """

    gone: Float[Tensor, "n 1 h w"]
    weight: Float[Tensor, "1 1 h w"]
    down: Float[Tensor, "h half_h"]
    right: Float[Tensor, "w half_w"]

    def residual(
        self, r: Float[Tensor, "n c h w"], v: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """``r - A v`` on the removed pixels."""
        return r - self.gone * (self.weight * v - _sum(v))


class Multigrid:
    """One symmetric V-cycle in float32, an approximate inverse of D - W on the removed pixels.

    A coarse cell is removed if all its pixels are. All levels use the same stencil, because in two
    dimensions the Dirichlet energy does not depend on the cell width.

    Args:
        gone: 1 for removed pixels, 0 for others.
    """

    def __init__(self, gone: Float[Tensor, "n 1 h w"]) -> None:
        self.grids = []
        while min(gone.shape[2:]) > COARSEST:
            down, right = (enlarging(n, gone.device) for n in gone.shape[2:])
            self.grids.append(GridLevel(gone, _sum(torch.ones_like(gone[:1])), down, right))
            left = ((1 - gone).transpose(2, 3) @ (down > 0.5).float()).transpose(2, 3)
            gone = ((left @ (right > 0.5).float()) == 0).float()
        nothing = gone.new_zeros(0, 0)
        self.grids.append(GridLevel(gone, _sum(torch.ones_like(gone[:1])), nothing, nothing))

    def __call__(self, r: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply the cycle to a residual, normalised because its scale may not fit float32."""
        scale = r.abs().amax((2, 3), keepdim=True).clamp(min=1e-300)
        return self._cycle(0, (r / scale).float()).double() * scale

    def _cycle(self, level: int, r: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        grid = self.grids[level]
        damped = DAMPING * grid.gone / grid.weight
        v = damped * r
        if level + 1 == len(self.grids):
            for _ in range(SWEEPS):
                v += damped * grid.residual(r, v)
            return v
        coarse = grid.down.T @ grid.residual(r, v) @ grid.right
        coarse = self._cycle(level + 1, self.grids[level + 1].gone * coarse)
        v += grid.gone * (grid.down @ coarse @ grid.right.T)
        return v + damped * grid.residual(r, v)


@cache
def enlarging(length: int, device: torch.device) -> Float[Tensor, "length half"]:
    """Bilinear interpolation matrix from cells of two pixels; the border cell is repeated."""
    half = -(-length // 2)
    pixel = torch.arange(length, device=device)
    near = pixel // 2
    far = (near + 2 * (pixel % 2) - 1).clamp(0, half - 1)
    one_hot = torch.nn.functional.one_hot
    return 0.75 * one_hot(near, half).float() + 0.25 * one_hot(far, half).float()


def _sum(v: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """W v: the separable stencil [1 2 1] along both axes minus its centre, over 12."""
    columns = 2 * v
    columns[..., 1:] += v[..., :-1]
    columns[..., :-1] += v[..., 1:]
    rows = 2 * columns
    rows[..., 1:, :] += columns[..., :-1, :]
    rows[..., :-1, :] += columns[..., 1:, :]
    return rows.sub_(v, alpha=4).div_(12)


def _dot(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    return (a * b).sum((2, 3), keepdim=True)
