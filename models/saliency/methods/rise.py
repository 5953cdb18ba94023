"""RISE, randomised input sampling (Petsiuk, Das, Saenko 2018): sums and estimators."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.saliency.engine.threads import each
from models.saliency.methods import rise_masks
from models.saliency.methods.case import Case
from models.saliency.spec.masks import Rise

GROUP = 16  # masks that a core processes at once
CHECK = 8  # groups between two convergence checks


class Sums(NamedTuple):
    """Running sums over masks m and their scores f, all float64."""

    count: int
    scores: Float[Tensor, "k"]  # sum f
    products: Float[Tensor, "k h w"]  # sum f m
    coverage: Float[Tensor, "h w"]  # sum m, where the estimator needs it
    squares: Float[Tensor, "h w"]  # sum m^2, likewise

    def merge(self, other: "Sums") -> "Sums":
        """The sums over two disjoint sets of masks."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


def rise(part: Rise, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Mean of random masks weighted by their scores (Petsiuk et al. 2018, eq. 6), float64.

    Masks are generated in batches from (seed, index), so memory does not grow with their number.
    """
    totals = sums(part, case, b)
    if part.early_stop is not None:
        case.reported["masks_used"] = totals.count
    return estimate(totals, part.estimator, rise_masks.density(part))


def sums(part: Rise, case: Case, b: Float[Tensor, "c h w"]) -> Sums:
    """The sums over all masks, or over the first ones with which the map has converged."""
    device = case.x.device
    per = max(GROUP, case.chunk // 2 * 2) if device.type == "cuda" else GROUP
    halves = [_zero_sums(case), _zero_sums(case)]
    parts = torch.arange(part.masks, device=device).split(per)
    for index, group in enumerate(each(lambda i: _group(part, case, b, i), parts, device.type)):
        halves[index % 2] = halves[index % 2].merge(group)
        if index % CHECK == CHECK - 1 and _converged(part, halves):
            break
    return halves[0].merge(halves[1])


def _converged(part: Rise, halves: list[Sums]) -> bool:
    """Whether the maps of both halves of the masks agree as requested, for the first class."""
    stop = part.early_stop
    if stop is None or sum(half.count for half in halves) < stop.min_masks:
        return False
    from models.saliency.ranks import spearman_matrix

    p = rise_masks.density(part)
    maps = [estimate(half, part.estimator, p)[0].cpu().numpy() for half in halves]
    return bool(spearman_matrix(np.stack(maps))[0, 1] > stop.spearman)


def _zero_sums(case: Case) -> Sums:
    """Sums over no masks."""
    k, (_, h, w) = len(case.full), case.x.shape
    zeros = case.full.new_zeros(k + 2, h, w)
    return Sums(0, case.full.new_zeros(k), zeros[:k], zeros[k], zeros[k + 1])


def _group(part: Rise, case: Case, b: Float[Tensor, "c h w"], index: Int64[Tensor, "n"]) -> Sums:
    """The sums over some masks; on a CPU computed by one core, with each batch in its cache."""
    none = _zero_sums(case)
    _, h, w = case.x.shape
    m = rise_masks.render(rise_masks.draw_masks(part, case.seed, index, h, w), h, w)
    f = torch.cat([case.score(blend(some, case.x, b)) for some in m.split(case.chunk)])
    return Sums(
        len(index),
        f.sum(0),
        (f.T @ m.flatten(1)).unflatten(1, (h, w)),
        none.coverage if part.estimator == "raw" else m.sum(0),
        m.square().sum(0) if part.estimator == "slope" else none.squares,
    )


def blend(
    m: Float[Tensor, "n h w"], x: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"]
) -> Float[Tensor, "n c h w"]:
    """``m x + (1 - m) b`` in channels-last memory order."""
    last = torch.lerp(b.permute(1, 2, 0), x.permute(1, 2, 0), m[..., None].to(x.dtype))
    return last.permute(0, 3, 1, 2)


def estimate(sums: Sums, estimator: str, p: float) -> Float[Tensor, "k h w"]:
    """The map from the sums over N masks (README, eq. 6).

    ``raw`` is eq. 6 of the paper, ``sum f m / (N p)``; ``coverage`` is ``sum f m / sum m``;
    ``centred`` is ``mean[(f - mean f)(m - mean m)] / p``; ``slope`` is that covariance over the
    variance of m, the coefficient of a regression of f on m. A pixel is 0 if no mask covers it
    (``coverage``), or if every mask has the same value there (``slope``).
    """
    n = sums.count
    if estimator == "raw":
        return sums.products / (n * p)
    if estimator == "coverage":
        return _ratio(sums.products, sums.coverage)
    mean = sums.coverage / n
    covariance = sums.products / n - (sums.scores / n)[:, None, None] * mean
    if estimator == "centred":
        return covariance / p
    return _ratio(covariance, sums.squares / n - mean.square())


def _ratio(above: Float[Tensor, "k h w"], below: Float[Tensor, "h w"]) -> Float[Tensor, "k h w"]:
    tiny = 1e-12  # far above rounding in float64, far below one mask in a million
    return torch.where(below > tiny, above / below.clamp(min=tiny), 0.0)
