"""Noisy linear imputation (ROAD, Rong et al. 2022): removed pixels follow from their neighbours.

Each removed pixel is the weighted mean of its 8 neighbours, 1/6 for direct and 1/12 for diagonal
ones, weights renormalised at the border. The sparse system is solved by conjugate gradients on the
device for all states and channels at once.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from models.saliency import counter
from models.saliency.case import Case
from models.saliency.curves import ranks
from models.saliency.metrics import Road

KERNEL = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
RESIDUAL, ITERATIONS = 1e-6, 2000


def impute(x: Float[Tensor, "c h w"], removed: Bool[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
    """The images with removed pixels solved for, float64.

    With D the sum of a pixel's weights inside the image, D - W on the removed pixels is symmetric
    and positive definite as long as one pixel is left; D is also the preconditioner.
    """
    image = x.double().expand(len(removed), *x.shape)
    gone = removed[:, None].double()
    weight = _sum(torch.ones_like(gone))
    kept = image * (1 - gone)
    right = gone * _sum(kept)

    def apply(v: Tensor) -> Tensor:
        return gone * (weight * v - _sum(v))

    found = torch.zeros_like(right)
    residual = right.clone()
    direction = residual / weight
    rho = _dot(residual, direction)
    goal = RESIDUAL**2 * _dot(right, right).clamp(min=1e-300)
    for _ in range(ITERATIONS):
        if (_dot(residual, residual) <= goal).all():
            break
        image_of = apply(direction)
        alpha = rho / _dot(direction, image_of).clamp(min=1e-300)
        found += alpha * direction
        residual -= alpha * image_of
        scaled = residual / weight
        new = _dot(residual, scaled)
        direction = scaled + new / rho.clamp(min=1e-300) * direction
        rho = new
    return kept + found


def _sum(v: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    kernel = v.new_tensor(KERNEL)[None, None]
    return F.conv2d(v.flatten(0, 1)[:, None], kernel, padding=1).view_as(v)


def _dot(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
    return (a * b).sum((2, 3), keepdim=True)


def road(part: Road, values: Float[Tensor, "h w"], case: Case, k: int) -> dict[str, list[float]]:
    """Scores with the given percentages imputed, most and least relevant first."""
    counts = torch.tensor(part.percent, device=values.device) * values.numel() // 100
    found = {}
    for name in ("morf", "lerf"):
        removed = ranks(values, name == "lerf") < counts[:, None, None]
        images = impute(case.x, removed)
        index = torch.arange(len(counts), device=values.device)
        noise = counter.normal((case.seed, 6), counter.NOISE, index, case.x.numel())
        spread = part.noise * (case.x.max() - case.x.min()).item()
        images += spread * noise.view_as(images) * removed[:, None]
        parts = images.to(case.x.dtype).split(case.chunk)
        found[name] = torch.cat([case.score(chunk)[:, k] for chunk in parts])
    return {name: scores.tolist() for name, scores in found.items()}
