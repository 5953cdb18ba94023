"""Randomised input sampling (Petsiuk, Das, Saenko 2018): its sums and its estimators."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency import masks
from models.saliency.case import Case
from models.saliency.methods import Rise


class Sums(NamedTuple):
    """What RISE keeps of its masks m and their scores f, all float64."""

    count: int
    scores: Float[Tensor, "k"]  # sum f
    products: Float[Tensor, "k h w"]  # sum f m
    coverage: Float[Tensor, "h w"]  # sum m, where the estimator needs it
    squares: Float[Tensor, "h w"]  # sum m^2, likewise


def rise(part: Rise, case: Case, b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """Scores under random masks, put back on the masks (Petsiuk et al. 2018, eq. 6).

    Masks are made a chunk at a time from (seed, index): memory does not grow with their number.
    """
    k, (_, h, w) = len(case.full), case.x.shape
    zeros = torch.zeros(k + 2, h, w, dtype=torch.float64, device=case.x.device)
    products, coverage, squares = zeros[:k], zeros[k], zeros[k + 1]
    scores = torch.zeros(k, dtype=torch.float64, device=case.x.device)
    for index in torch.arange(part.masks, device=case.x.device).split(case.chunk):
        m = masks.render(masks.draw(part, case.seed, index, h, w), h, w)
        f = case.score(torch.lerp(b, case.x, m[:, None].to(case.x.dtype)))
        scores += f.sum(0)
        products += (f.T @ m.flatten(1)).unflatten(1, (h, w))
        if part.estimator != "raw":
            coverage += m.sum(0)
        if part.estimator == "slope":
            squares += m.square().sum(0)
    sums = Sums(part.masks, scores, products, coverage, squares)
    return estimate(sums, part.estimator, masks.density(part))


def estimate(sums: Sums, estimator: str, p: float) -> Float[Tensor, "k h w"]:
    """The map from the sums over N masks.

    ``raw`` is eq. 6 of the paper, ``sum f m / (N p)``; ``coverage`` is ``sum f m / sum m``;
    ``centred`` is ``mean[(f - mean f)(m - mean m)] / p``; ``slope`` is that covariance over the
    variance of m, the coefficient of a regression of f on m. A pixel that no mask covered
    (``coverage``) or that all covered alike (``slope``) gets 0.
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
