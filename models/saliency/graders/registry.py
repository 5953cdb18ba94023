"""One function from a grader's part of a spec and a map to its grade."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from models.core.errors import SpecError
from models.saliency import philox
from models.saliency.graders.curves import Traced, pixel_curve, region_curve
from models.saliency.graders.faithfulness import correlation, infidelity, localisation, monotonicity
from models.saliency.graders.road import road
from models.saliency.methods.baselines import images_of
from models.saliency.methods.case import Case
from models.saliency.net.scores import Scorer
from models.saliency.net.space import Space
from models.saliency.spec import graders

HISTOGRAM_BINS = 100  # as Hedstroem et al. 2024

Remake = Callable[[Case], Tensor]


class Grade(NamedTuple):
    """A number, None where it means nothing, and the curves behind it by a suffix."""

    value: float | None
    curves: dict[str, list[tuple[float, float]]]


def label_of(part: graders.Metric) -> str:
    """Id of a grader and of its baseline."""
    replaced_by = getattr(part, "replaced_by", None)
    return part.id if replaced_by is None else f"{part.id}@{replaced_by.id}"


def grade(
    part: graders.Metric,
    maps: Float[Tensor, "k h w"],
    case: Case,
    k: int,
    space: Space,
    remake: Remake,
) -> Grade:
    """Grade the map of the ``k``-th class.

    Args:
        part: the grader.
        maps: of all classes.
        case: the image.
        k: the class.
        space: how pixels were normalised.
        remake: makes the maps of another case in the same way.
    """
    values = maps[k]
    if isinstance(part, graders.Curve | graders.RegionCurve | graders.Correlation):
        b = images_of(part.replaced_by, case.x, space, case.seed)[0]
        if isinstance(part, graders.Correlation):
            return Grade(correlation(part, values, b, case, k), {})
        return _curve(part, values, b, case, k)
    if isinstance(part, graders.Road):
        scores = road(part, values, case, k)
        shares = [percent / 100 for percent in part.percent]
        curves = {f" {name}": list(zip(shares, y, strict=True)) for name, y in scores.items()}
        gaps = zip(scores["lerf"], scores["morf"], strict=True)
        return Grade(float(np.mean([(lerf - morf) / 2 for lerf, morf in gaps])), curves)
    if isinstance(part, graders.Infidelity):
        return Grade(infidelity(part, values, case, k), {})
    if isinstance(part, graders.Monotonicity):
        return Grade(monotonicity(part, values, space, case, k), {})
    if isinstance(part, graders.Localisation):
        return Grade(localisation(part, values), {})
    if isinstance(part, graders.Robustness):
        return Grade(_robustness(part, values, case, k, remake), {})
    return _randomisation(part, values, case, k, remake)


def _curve(
    part: graders.Curve | graders.RegionCurve, values: Tensor, b: Tensor, case: Case, k: int
) -> Grade:
    if isinstance(part, graders.RegionCurve):
        curve = region_curve(part, values, b, case, k)
        start = curve.score[0].item()
        over = 1 - curve.auc / start if start else None  # IROF, eq. 3: area over the curve
        value = {"irof": over, "selectivity": curve.auc}.get(part.id, -curve.aopc)
        return Grade(value, {"": _points(curve)})
    if part.id != "srg":
        curves = pixel_curve(part, values, b, case, k)
        return Grade(float(np.mean([c.auc for c in curves])), {"": _points(curves[0])})
    both = {
        name: pixel_curve(part.model_copy(update={"id": name}), values, b, case, k)
        for name in ("morf", "lerf")
    }
    means = {name: np.mean([curve.auc for curve in found]) for name, found in both.items()}
    points = {f" {name}": _points(found[0]) for name, found in both.items()}
    return Grade(float(means["lerf"] - means["morf"]), points)


def _points(curve: Traced) -> list[tuple[float, float]]:
    return list(zip(curve.share.tolist(), curve.score.tolist(), strict=True))


def _robustness(
    part: graders.Robustness, values: Tensor, case: Case, k: int, remake: Remake
) -> float | None:
    """``||phi(x + delta) - phi(x)|| / ||phi(x)||`` over uniform noise in a box of the radius."""
    norm = values.norm()
    if norm == 0:
        return None
    found = []
    for place in range(part.samples):
        index = torch.tensor([place], device=values.device)
        u = philox.uniform((case.seed, 9), philox.NOISE, index, case.x.numel())
        x = case.x + (part.radius * (2 * u - 1)).view_as(case.x).to(case.x)
        other = Case(x, case.scorer, case.targets, case.full, case.seed, case.chunk, case.pixels)
        other.full = other.score(x[None])[0]
        found.append(((remake(other)[k] - values).norm() / norm).item())
    return float(max(found) if part.id == "sensitivity_max" else np.mean(found))


def _randomisation(
    part: graders.Randomisation, values: Tensor, case: Case, k: int, remake: Remake
) -> Grade:
    """Mean Spearman correlation with the maps of changed nets; None where a map is constant."""
    if part.id == "random_logit":
        classes = case.scorer.outputs(case.x[None]).shape[1]
        other = _retargeted(case, (case.targets + 1 + case.seed % (classes - 1)) % classes)
        found = [_likeness(values, remake(other)[k])]
    elif part.id == "efficient_mprt":
        (net,) = _new_nets(part.model_copy(update={"layers": 1, "order": "cascading"}), case)
        return Grade(_entropy_rise(values, remake(_renewed(case, net))[k]), {})
    else:
        found = [_likeness(values, remake(_renewed(case, net))[k]) for net in _new_nets(part, case)]
    known = [value for value in found if value is not None]
    return Grade(float(np.mean(known)) if known else None, {})


def _entropy_rise(before: Tensor, after: Tensor) -> float | None:
    """``(H(after) - H(before)) / H(before)`` of histograms of 100 bins; None where H is 0."""
    entropies = []
    for values in (before, after):
        counts = np.histogram(values.cpu().numpy(), bins=HISTOGRAM_BINS)[0]
        entropies.append(float(stats.entropy(counts)))
    return (entropies[1] - entropies[0]) / entropies[0] if entropies[0] > 0 else None


def _likeness(a: Tensor, b: Tensor) -> float | None:
    x, y = (v.flatten().cpu().numpy() for v in (a, b))
    if min(np.ptp(x), np.ptp(y)) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def _retargeted(case: Case, targets: Tensor) -> Case:
    full = case.scorer.read(case.scorer.outputs(case.x[None]))[0, targets]
    return Case(case.x, case.scorer, targets, full, case.seed, case.chunk, case.pixels)


def _renewed(case: Case, net: nn.Module) -> Case:
    scorer = Scorer(net, case.scorer.kind, case.scorer.tick)
    full = scorer.read(scorer.outputs(case.x[None]))[0, case.targets]
    return Case(case.x, scorer, case.targets, full, case.seed, case.chunk, case.pixels)


def _new_nets(part: graders.Randomisation, case: Case) -> list[nn.Module]:
    """Nets with new initial weights, from the top layer down or one layer at a time.

    Raises:
        SpecError: if the net has no layers to renew; its maps would be compared with themselves.
    """
    net = case.scorer.net
    layers = [name for name, module in net.named_modules() if hasattr(module, "reset_parameters")]
    if not layers:
        raise SpecError(
            f"metrics: {part.id} renews a net's layers, and an exported program has none",
            hint="leave it out, or upload safetensors with their architecture",
        )
    layers.reverse()
    cuts = sorted({max(1, len(layers) * i // part.layers) for i in range(1, part.layers + 1)})
    found = []
    for cut in cuts:
        new = copy.deepcopy(net)
        modules = dict(new.named_modules())
        chosen = layers[:cut] if part.order == "cascading" else layers[cut - 1 : cut]
        with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False):
            torch.manual_seed(case.seed)
            for name in chosen:
                modules[name].reset_parameters()
        found.append(new.eval())
    return found
