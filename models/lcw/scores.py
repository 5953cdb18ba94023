"""Distances between sets of features: Frechet, kernel, precision and recall. All in float64."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.core.device import generator

BLOCKS, BLOCK_SIZE = 100, 1000  # of the kernel distance
ROWS = 2048


def frechet(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2)), covariances with ddof 1.

    Never below 0.

    Raises:
        ValueError: if a set has no more rows than there are features.
    """
    if min(len(a), len(b)) <= a.shape[1]:
        raise ValueError(f"{min(len(a), len(b))} samples of {a.shape[1]} features; use more")
    a, b = a.double(), b.double()
    s1, s2 = torch.cov(a.T), torch.cov(b.T)
    root = _root(s1)
    middle = torch.linalg.eigvalsh(_symmetric(root @ s2 @ root)).clamp_min(0).sqrt().sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    distance = gap + s1.trace() + s2.trace() - 2 * middle
    return distance.clamp_min(0).item()  # equal sets cancel to rounding, of either sign


def _root(s: Float[Tensor, "f f"]) -> Float[Tensor, "f f"]:
    values, vectors = torch.linalg.eigh(s)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _symmetric(s: Float[Tensor, "f f"]) -> Float[Tensor, "f f"]:
    return (s + s.T) / 2


def kid(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], seed: int) -> tuple[float, float]:
    """Mean and spread over blocks of the unbiased MMD^2 of (x.y / f + 1)^3."""
    size = min(BLOCK_SIZE, len(a), len(b))
    estimates = []
    for block in range(BLOCKS):
        x, y = (
            points[_draw(len(points), size, seed, block, side)].double()
            for side, points in enumerate((a, b))
        )
        estimates.append(_mmd(x, y))
    values = torch.tensor(estimates, dtype=torch.float64)
    return values.mean().item(), values.std().item()


def _draw(count: int, size: int, seed: int, block: int, side: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed, f"kid {side}", block))[:size]


def _mmd(x: Float[Tensor, "n f"], y: Float[Tensor, "n f"]) -> float:
    n, f = x.shape
    xx, yy, xy = (_cube(a @ b.T / f + 1) for a, b in ((x, x), (y, y), (x, y)))
    own = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return (own / (n * (n - 1)) - 2 * xy.mean()).item()


def _cube(t: Tensor) -> Tensor:
    return t * t * t  # a power is many times slower


def prdc(real: Float[Tensor, "n f"], made: Float[Tensor, "m f"], k: int) -> dict[str, float]:
    """Precision, recall, density, coverage with the k-th neighbour within a set as radius."""
    k = min(k, len(real) - 1, len(made) - 1)
    real_radius, made_radius = (_radius(points, k) for points in (real, made))
    inside, covered, within = 0.0, 0, torch.zeros(len(real), dtype=torch.bool)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    for part, radius in zip(made.split(ROWS), made_radius.split(ROWS), strict=True):
        gaps = torch.cdist(part.double(), real.double())  # [rows, n]
        hits = gaps <= real_radius
        inside += hits.sum().item()
        covered += int(hits.any(1).sum())
        within |= hits.any(0).cpu()
        recalled |= (gaps <= radius[:, None]).any(0).cpu()
    return {
        "precision": covered / len(made),
        "recall": recalled.double().mean().item(),
        "density": inside / (k * len(made)),
        "coverage": within.double().mean().item(),
    }


def modes(
    predicted: Int64[Tensor, "n"], labels: Int64[Tensor, "m"], classes: int
) -> dict[str, float | int]:
    """Classes that a classifier sees among samples, beside those of the training images.

    On stacked MNIST these are the modes of 1,000 and the two divergences that papers report.

    Returns:
        ``modes``, how many are seen; ``kl_generated``, KL(samples || training) and ``kl_training``,
        KL(training || samples), both in nats with 1e-6 added to the second one's shares.
    """
    made, real = (
        torch.bincount(index, minlength=classes).double() / len(index)
        for index in (predicted, labels)
    )
    return {
        "modes": int((made > 0).sum()),
        "kl_generated": _divergence(made, real),
        "kl_training": _divergence(real, made),
    }


def _divergence(p: Float[Tensor, "k"], q: Float[Tensor, "k"]) -> float:
    return torch.special.xlogy(p, p / (q + 1e-6)).sum().item()


def _radius(points: Float[Tensor, "n f"], k: int) -> Float[Tensor, "n"]:
    points = points.double()
    gaps = [torch.cdist(part, points).kthvalue(k + 1, dim=1)[0] for part in points.split(ROWS)]
    return torch.cat(gaps)


def nearest(
    made: Float[Tensor, "n p"], real: Float[Tensor, "m p"]
) -> tuple[Tensor, Float[Tensor, "n"]]:
    """For each row the index [n] of its nearest real one, and the distance [n]."""
    gaps = torch.cdist(made, real)
    distance, index = gaps.min(1)
    return index, distance
