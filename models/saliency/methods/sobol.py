"""Sobol attribution (Fel et al. 2021): total variance indices of the cells of random masks."""

import torch
from jaxtyping import Float, Int64
from scipy.stats import qmc
from torch import Tensor

from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.methods.rise import blend
from models.saliency.methods.segments import segment
from models.saliency.spec.masks import GridSegments
from models.saliency.spec.sobol import Sobol


def sobol(part: Sobol, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Total Sobol indices of the cells by Jansen's estimator (eq. 22), at each pixel, float64.

    0 where the score does not vary.
    """
    labels = segment(GridSegments(id="grid", rows=part.grid), case)
    cells = part.grid**2
    first, second = design(part, case)

    def masked(index: Int64[Tensor, "m"]) -> Float[Tensor, "m c h w"]:
        """Row i of block 0 is point i; of block 1 + j with cell j of the other point."""
        block, point = index // part.designs, index % part.designs
        values = first[point]
        swapped = torch.arange(cells, device=index.device) == block[:, None] - 1
        values = torch.where(swapped, second[point], values)
        return blend(values[:, labels], case.x, b)

    scores = case.scores(masked, part.designs * (cells + 1)).unflatten(0, (-1, part.designs))
    return total_indices(scores)[:, labels]


def total_indices(scores: Float[Tensor, "blocks n k"]) -> Float[Tensor, "k cells"]:
    """``mean (f(A) - f(A with column j of B))^2 / 2 / var f(A)`` (Jansen 1999).

    Args:
        scores: of the points A, then of A with each column of B in turn.
    """
    moved = (scores[1:] - scores[0]).square().mean(1) / 2
    variance = scores[0].var(0, correction=0)
    return torch.where(variance > 0, moved / variance.clamp(min=1e-300), 0.0).T


def design(part: Sobol, case: Case) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Two sets of points in [0, 1]^d: halves of a Sobol sequence, shifted at random modulo 1."""
    cells = part.grid**2
    points = torch.from_numpy(qmc.Sobol(2 * cells, scramble=False).random(part.designs))
    row = torch.zeros(1, dtype=torch.int64)
    shift = philox.uniform((case.seed, 12), philox.CELLS, row, 2 * cells)
    first, second = ((points + shift) % 1).to(case.x.device).chunk(2, dim=1)
    return first, second
