"""Curves: the score while pixels are swapped in the order of a map."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.methods.segments import segment
from models.saliency.ranks import ranks
from models.saliency.spec.graders import Curve, RegionCurve
from models.saliency.spec.masks import Slic

COARSE = 8  # states between those that are read first where a tolerance is given


class Traced(NamedTuple):
    """A curve.

    Attributes:
        share: of the pixels that are swapped, at each state.
        score: of the class there.
    """

    share: Float[Tensor, "states"]
    score: Float[Tensor, "states"]

    @property
    def auc(self) -> float:
        """Area by trapezoids over the true share, divided by the share reached."""
        return (torch.trapezoid(self.score, self.share) / self.share[-1]).item()

    @property
    def auc_rise(self) -> float:
        """The rule of RISE's code: ``(sum - first / 2 - last / 2) / K``."""
        y = self.score
        return ((y.sum() - y[0] / 2 - y[-1] / 2) / (len(y) - 1)).item()

    @property
    def aopc(self) -> float:
        """Mean fall from the first state (Samek et al. 2017, eq. 12)."""
        return (self.score[0] - self.score).mean().item()


def follow(
    rank: Int64[Tensor, "*cells"],
    counts: Int64[Tensor, "states"],
    start: Float[Tensor, "c h w"],
    end: Float[Tensor, "c h w"],
    case: Case,
    k: int,
    tolerance: float = 0.0,
) -> Traced:
    """Scores of class ``k``: state i has the pixels of rank below ``counts[i]`` from ``end``.

    ``rank`` is of pixels [h, w] or of channel values [c, h, w]. Every state comes from it alone, so
    they are built on the device a batch at a time, and those that ``tolerance`` spares never.
    """

    def read(some: Int64[Tensor, "m"]) -> Float[Tensor, "m"]:
        return case.scores(
            lambda index: torch.where(rank < some[index, None, None, None], end, start), len(some)
        )[:, k]

    if not tolerance:
        return Traced(counts.double() / rank.numel(), read(counts))
    known: dict[int, float] = {}
    wanted = sorted({*range(0, len(counts), COARSE), len(counts) - 1})
    while wanted:
        known |= zip(wanted, read(counts[wanted]).tolist(), strict=True)
        wanted = between(known, tolerance)
    order = sorted(known)
    scores = torch.tensor([known[place] for place in order], dtype=torch.float64)
    return Traced(counts[order].double() / rank.numel(), scores.to(counts.device))


def between(known: dict[int, float], tolerance: float) -> list[int]:
    """The middle of each interval whose trapezoid could be off by more than its share.

    Where the score stays between its values at the ends, the mean over the interval is within
    half of their difference; intervals all below that leave the whole area within ``tolerance``.
    """
    order = sorted(known)
    return [
        (low + high) // 2
        for low, high in pairwise(order)
        if high - low > 1 and abs(known[low] - known[high]) > 2 * tolerance
    ]


def pixel_curve(
    part: Curve, values: Float[Tensor, "h w"], b: Float[Tensor, "c h w"], case: Case, k: int
) -> list[Traced]:
    """The curve of a map, and one for each shuffle of its ties."""
    if part.order_unit == "channel_value":
        values = values.expand(len(case.x), -1, -1)
    total = values.numel()
    steps = torch.arange(part.points + 1, device=values.device)
    counts = (steps * total / part.points).round().long().unique()
    start, end = (b, case.x) if part.id == "insertion" else (case.x, b)

    def curve(shuffle: int) -> Traced:
        rank = ranks(values, part.id == "lerf", shuffle, case.seed)
        return follow(rank, counts, start, end, case, k, part.tolerance)

    return [curve(shuffle) for shuffle in range(part.shuffles + 1)]


def region_curve(
    part: RegionCurve, values: Float[Tensor, "h w"], b: Float[Tensor, "c h w"], case: Case, k: int
) -> Traced:
    """The curve over regions, ordered by the mean of the map in them, ties by index."""
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
    curve = follow(rank[labels], counts, case.x, b, case, k)
    swapped = torch.cat([sizes.new_zeros(1), sizes[rank.argsort()].cumsum(0)[:used]])
    return Traced(swapped / labels.numel(), curve.score)


def _regions(part: RegionCurve, case: Case) -> Int64[Tensor, "h w"]:
    height, width = case.x.shape[1:]
    if part.id == "irof":
        return segment(Slic(id="slic", count=max(2, min(part.regions, 2000))), case)
    across = -(-width // part.patch)
    rows, columns = (torch.arange(n, device=case.x.device) // part.patch for n in (height, width))
    return rows[:, None] * across + columns
