"""Graders that compare a map with scores under random perturbations."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor

from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.net.space import Space
from models.saliency.ranks import ranks
from models.saliency.spec.graders import Correlation, Infidelity, Monotonicity


def infidelity(part: Infidelity, values: Float[Tensor, "h w"], case: Case, k: int) -> float:
    """``E[(<I, phi> - (f(x) - f(x - I)))^2]`` (Yeh et al. 2019, eq. 1).

    The same map applies to every channel. I is normal noise, or x inside a random square and 0
    elsewhere, so that x - I is 0 in the square.

    Args:
        part: the grader.
        values: the map phi.
        case: the image.
        k: position of the class among the targets of the case.
    """
    moves = torch.zeros(part.samples, dtype=torch.float64, device=values.device)

    def images(index: Int64[Tensor, "m"]) -> Float[Tensor, "m c h w"]:
        change = _change(part, index, case)
        moves[index] = (change.double() * values.double()).sum((1, 2, 3))
        return case.x - change

    fall = case.full[k] - case.scores(images, part.samples)[:, k]
    if part.optimal_scale:
        moves = moves * ((moves * fall).mean() / moves.square().mean().clamp(min=1e-300))
    return (moves - fall).square().mean().item()


def _change(part: Infidelity, index: Tensor, case: Case) -> Float[Tensor, "n c h w"]:
    c, h, w = case.x.shape
    if part.perturbation == "noise":
        drawn = philox.normal((case.seed, 7), philox.NOISE, index, c * h * w)
        return (part.sigma * drawn).view(-1, c, h, w).to(case.x)
    side = (min(part.side, h), min(part.side, w))
    u = philox.uniform((case.seed, 7), philox.SHIFTS, index, 2)
    top, left = (u[:, 0] * (h - side[0] + 1)).long(), (u[:, 1] * (w - side[1] + 1)).long()
    rows = torch.arange(h, device=index.device) - top[:, None]
    columns = torch.arange(w, device=index.device) - left[:, None]
    inside = ((rows >= 0) & (rows < side[0]))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < side[1]))[:, None, :]
    return case.x * inside[:, None]


def correlation(
    part: Correlation, values: Float[Tensor, "h w"], b: Float[Tensor, "c h w"], case: Case, k: int
) -> float | None:
    """Pearson's correlation of map sums and score drops over random subsets of pixels.

    None if either is constant.

    Args:
        part: the grader.
        values: the map.
        b: the baseline image.
        case: the image.
        k: position of the class among the targets of the case.
    """
    size, sums = min(part.subset, values.numel()), case.full.new_zeros(part.runs)

    def images(index: Int64[Tensor, "m"]) -> Float[Tensor, "m c h w"]:
        drawn = philox.words((case.seed, 8), philox.CELLS, index, values.numel())
        chosen = drawn.argsort(dim=1, stable=True)[:, :size]
        mask = torch.zeros(len(index), values.numel(), dtype=torch.bool, device=values.device)
        mask.scatter_(1, chosen, value=True)
        mask = mask.view(-1, *values.shape)
        sums[index] = (values.double() * mask).sum((1, 2))
        return torch.where(mask[:, None], b, case.x)

    falls = case.full[k] - case.scores(images, part.runs)[:, k]
    pair = torch.stack([sums, falls])
    if (pair.std(1) < 1e-12 * (1 + pair.abs().amax(1))).any():
        return None
    return torch.corrcoef(pair)[0, 1].item()


def monotonicity(
    part: Monotonicity, values: Float[Tensor, "h w"], space: Space, case: Case, k: int
) -> float | None:
    """Spearman's correlation of the sums of ``|phi|`` over groups with their mean squared effect.

    Groups are consecutive in the order of ``|phi|``. The effect of a group is the change of the
    score when uniform noise replaces its pixels. None if either is constant.

    Args:
        part: the grader.
        values: the map phi.
        space: how pixels were normalised.
        case: the image.
        k: position of the class among the targets of the case.
    """
    size = values.abs().double()
    count = min(part.groups, size.numel())
    group = ranks(size, lowest_first=True) * count // size.numel()
    sums = size.new_zeros(count).index_add(0, group.flatten(), size.flatten())

    def images(index: Int64[Tensor, "m"]) -> Float[Tensor, "m c h w"]:
        drawn = philox.uniform((case.seed, 10), philox.NOISE, index, case.x.numel())
        pixels = space.normalise(drawn.view(-1, *case.x.shape)).to(case.x)
        chosen = group == (index // part.draws)[:, None, None]
        return torch.where(chosen[:, None], pixels, case.x)

    moved = case.scores(images, count * part.draws)[:, k] - case.full[k]
    effect = moved.square().view(count, part.draws).mean(1)
    pair = [v.cpu().numpy() for v in (sums, effect)]
    if min(np.ptp(v) for v in pair) == 0:
        return None
    return float(stats.spearmanr(*pair).statistic)
