"""Curves of the score while pixels are replaced in the order of a map."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.saliency import philox
from models.saliency.graders.grade import Grade, GradedMap
from models.saliency.methods.case import Case
from models.saliency.methods.segments import segment
from models.saliency.ranks import ranks
from models.saliency.spec.graders import Curve, RegionCurve
from models.saliency.spec.masks import Slic

COARSE = 8  # step of the states that are scored first when a tolerance is given


class PerturbationCurve(NamedTuple):
    """Scores along a sequence of states, each with more pixels replaced than the one before.

    Attributes:
        share: fraction of the pixels replaced in each state, in [0, 1].
        score: score of the class in each state.
    """

    share: Float[Tensor, "states"]
    score: Float[Tensor, "states"]

    @property
    def auc(self) -> float:
        """Area under the curve by the trapezoidal rule, divided by the last share."""
        return (torch.trapezoid(self.score, self.share) / self.share[-1]).item()

    @property
    def auc_rise(self) -> float:
        """Area as in the published code of RISE: ``(sum - first / 2 - last / 2) / K``."""
        y = self.score
        return ((y.sum() - y[0] / 2 - y[-1] / 2) / (len(y) - 1)).item()

    @property
    def aopc(self) -> float:
        """Mean drop from the first state (Samek et al. 2017, eq. 12)."""
        return (self.score[0] - self.score).mean().item()

    @property
    def points(self) -> list[tuple[float, float]]:
        """Pairs of share and score."""
        return list(zip(self.share.tolist(), self.score.tolist(), strict=True))


def perturbation_curve(
    rank: Int64[Tensor, "*cells"],
    counts: Int64[Tensor, "states"],
    start: Float[Tensor, "c h w"],
    end: Float[Tensor, "c h w"],
    case: Case,
    k: int,
    tolerance: float = 0.0,
) -> PerturbationCurve:
    """Scores of a class, where state i takes the pixels of rank below ``counts[i]`` from ``end``.

    States are built on the device from the ranks, batch by batch.

    Args:
        rank: of pixels [h, w], or of channel values [c, h, w].
        counts: how many pixels, or channel values, each state replaces.
        start: the image of the state without replaced pixels.
        end: the image with every pixel replaced.
        case: the image to explain.
        k: position of the class among the targets of the case.
        tolerance: 0 scores every state; above 0 see :func:`intervals_to_refine`.
    """

    def score(some: Int64[Tensor, "m"]) -> Float[Tensor, "m"]:
        return case.scores(
            lambda index: torch.where(rank < some[index, None, None, None], end, start), len(some)
        )[:, k]

    if not tolerance:
        return PerturbationCurve(counts.double() / rank.numel(), score(counts))
    known: dict[int, float] = {}
    wanted = sorted({*range(0, len(counts), COARSE), len(counts) - 1})
    while wanted:
        known |= zip(wanted, score(counts[wanted]).tolist(), strict=True)
        wanted = intervals_to_refine(known, tolerance)
    order = sorted(known)
    scores = torch.tensor([known[state] for state in order], dtype=torch.float64)
    return PerturbationCurve(counts[order].double() / rank.numel(), scores.to(counts.device))


def intervals_to_refine(known: dict[int, float], tolerance: float) -> list[int]:
    """The middle state of each interval whose mean score may be off by more than ``tolerance``.

    On an interval where the curve is monotone, the mean score differs from the trapezoid's by at
    most half the difference of the scores at its ends. If that is at most ``tolerance`` on every
    interval, the normalised area is within ``tolerance`` too.

    Args:
        known: score by state.
        tolerance: of the area.
    """
    order = sorted(known)
    return [
        (low + high) // 2
        for low, high in pairwise(order)
        if high - low > 1 and abs(known[low] - known[high]) > 2 * tolerance
    ]


def grade_pixel_curve(part: Curve, graded: GradedMap) -> Grade:
    """Area of the curve, or for ``srg`` the area of LeRF minus that of MoRF; mean over shuffles."""
    if part.id != "srg":
        area, points = _mean_area(part, graded)
        return Grade(area, {"": points})
    areas, curves = {}, {}
    for name in ("morf", "lerf"):
        areas[name], curves[f" {name}"] = _mean_area(part.model_copy(update={"id": name}), graded)
    return Grade(areas["lerf"] - areas["morf"], curves)


def _mean_area(part: Curve, graded: GradedMap) -> tuple[float, list[tuple[float, float]]]:
    """Mean area over the shuffles, and the points of the curve without one."""
    b = graded.baseline_image(part.replaced_by)
    curves = pixel_curve(part, graded.values, b, graded.case, graded.k)
    return float(np.mean([curve.auc for curve in curves])), curves[0].points


def grade_region_curve(part: RegionCurve, graded: GradedMap) -> Grade:
    """IROF: area over the curve (eq. 3); selectivity: area; else the negative mean drop."""
    b = graded.baseline_image(part.replaced_by)
    curve = region_curve(part, graded.values, b, graded.case, graded.k)
    if part.id == "irof":
        start = curve.score[0].item()
        value = 1 - curve.auc / start if start else None
    else:
        value = curve.auc if part.id == "selectivity" else -curve.aopc
    return Grade(value, {"": curve.points})


def pixel_curve(
    part: Curve, values: Float[Tensor, "h w"], b: Float[Tensor, "c h w"], case: Case, k: int
) -> list[PerturbationCurve]:
    """The curve of a map, and one more for each random order of its ties.

    Args:
        part: the grader.
        values: the map.
        b: the baseline image.
        case: the image to explain.
        k: position of the class among the targets of the case.
    """
    if part.order_unit == "channel_value":
        values = values.expand(len(case.x), -1, -1)
    total = values.numel()
    steps = torch.arange(part.points + 1, device=values.device)
    counts = (steps * total / part.points).round().long().unique()
    start, end = (b, case.x) if part.id == "insertion" else (case.x, b)

    def curve(shuffle: int) -> PerturbationCurve:
        rank = ranks(values, part.id == "lerf", shuffle, case.seed)
        return perturbation_curve(rank, counts, start, end, case, k, part.tolerance)

    return [curve(shuffle) for shuffle in range(part.shuffles + 1)]


def region_curve(
    part: RegionCurve, values: Float[Tensor, "h w"], b: Float[Tensor, "c h w"], case: Case, k: int
) -> PerturbationCurve:
    """The curve over regions in the order of the map's mean in them, ties by index.

    Args:
        part: the grader.
        values: the map.
        b: the baseline image.
        case: the image to explain.
        k: position of the class among the targets of the case.
    """
    labels = _regions(part, case)
    number = int(labels.max()) + 1
    sums = torch.zeros(number, dtype=torch.float64, device=labels.device)
    sizes = sums.index_add(0, labels.flatten(), torch.ones_like(values.flatten()).double())
    mean = sums.index_add(0, labels.flatten(), values.double().flatten()) / sizes
    if part.order == "random":
        index = torch.zeros(1, dtype=torch.int64, device=labels.device)
        mean = philox.uniform((case.seed, 5), philox.CELLS, index, number)[0]
    rank = ranks(mean[None], part.order == "lerf")[0]
    used = min(part.regions, number)
    counts = torch.arange(used + 1, device=labels.device)
    curve = perturbation_curve(rank[labels], counts, case.x, b, case, k)
    replaced = torch.cat([sizes.new_zeros(1), sizes[rank.argsort()].cumsum(0)[:used]])
    return PerturbationCurve(replaced / labels.numel(), curve.score)


def _regions(part: RegionCurve, case: Case) -> Int64[Tensor, "h w"]:
    height, width = case.x.shape[1:]
    if part.id == "irof":
        return segment(Slic(id="slic", count=max(2, min(part.regions, 2000))), case)
    across = -(-width // part.patch)
    rows, columns = (torch.arange(n, device=case.x.device) // part.patch for n in (height, width))
    return rows[:, None] * across + columns
