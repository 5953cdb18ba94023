"""Noisy linear imputation (ROAD, Rong et al. 2022): removed pixels follow from their neighbours.

Each removed pixel is the weighted mean of its 8 neighbours, 1/6 for direct and 1/12 for diagonal
ones, weights renormalised at the border. With D the sum of a pixel's weights inside the image and W
the weighing, D - W on the removed pixels is symmetric and positive definite as long as one pixel is
left. It is solved on the device for all states and channels at once, by conjugate gradients
with one cycle of multigrid as preconditioner: the number of iterations hardly grows with the size
of what was removed, where plain conjugate gradients need as many as it is wide.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.saliency.engine.threads import each

RESIDUAL, ITERATIONS = 1e-6, 400
COARSEST, DAMPING, SWEEPS = 4, 0.8, 8  # side of the smallest grid; Jacobi's factor; sweeps on it


def impute(x: Float[Tensor, "c h w"], removed: Bool[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
    """The images with removed pixels solved for, float64; relative residual 1e-6.

    On a CPU one at a time, so that all its values stay in the caches; each core takes some.
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
    """Preconditioned conjugate gradients, each state and channel with steps of its own."""
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
    """One level: what is removed, the sums of weights, and the way from the next coarser one."""

    gone: Float[Tensor, "n 1 h w"]
    weight: Float[Tensor, "1 1 h w"]
    down: Float[Tensor, "h half_h"]
    right: Float[Tensor, "w half_w"]

    def residual(self, r: Tensor, v: Tensor) -> Tensor:
        """``r - A v`` on the removed pixels."""
        return r - self.gone * (self.weight * v - _sum(v))


class Multigrid:
    """One symmetric V-cycle in float32: an approximate inverse of D - W on the removed pixels.

    A coarse cell is removed where all pixels in it are. Coarse grids use the stencil of the fine
    one: the energy of a plane's Laplacian does not depend on the width of the cells.
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
        """Of a residual; the scale is taken out, float32 may not hold it."""
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
    """Bilinear interpolation from cells of two pixels each; the border cell is repeated."""
    half = -(-length // 2)
    pixel = torch.arange(length, device=device)
    near = pixel // 2
    far = (near + 2 * (pixel % 2) - 1).clamp(0, half - 1)
    one_hot = torch.nn.functional.one_hot
    return 0.75 * one_hot(near, half).float() + 0.25 * one_hot(far, half).float()


def _sum(v: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Weighted sum over the 8 neighbours: that of [1 2 1] along both axes less the middle."""
    columns = 2 * v
    columns[..., 1:] += v[..., :-1]
    columns[..., :-1] += v[..., 1:]
    rows = 2 * columns
    rows[..., 1:, :] += columns[..., :-1, :]
    rows[..., :-1, :] += columns[..., 1:, :]
    return rows.sub_(v, alpha=4).div_(12)


def _dot(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    return (a * b).sum((2, 3), keepdim=True)
