"""Graders of how much a map depends on the net's weights and on the class (Adebayo et al. 2018)."""

import copy

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from models.core.errors import SpecError
from models.saliency.graders.grade import GradedMap
from models.saliency.methods.case import Case
from models.saliency.net.scores import Scorer
from models.saliency.spec.graders import Randomisation

HISTOGRAM_BINS = 100  # as Hedstroem et al. 2024


def randomisation(part: Randomisation, graded: GradedMap) -> float | None:
    """Mean Spearman correlation of the map with the maps of randomised nets or of another class.

    ``efficient_mprt`` gives the relative rise of the map's entropy with all layers randomised
    instead. None where a map is constant or has no entropy.

    Raises:
        SpecError: if the net has no layers to randomise.
    """
    case = graded.case
    if part.id == "random_logit":
        others = [_of_another_class(case)]
    elif part.id == "efficient_mprt":
        (net,) = _randomised_nets(part.model_copy(update={"layers": 1, "order": "cascading"}), case)
        return _entropy_rise(graded.values, _recomputed(graded, _with_net(case, net)))
    else:
        others = [_with_net(case, net) for net in _randomised_nets(part, case)]
    correlations = [_spearman(graded.values, _recomputed(graded, other)) for other in others]
    known = [value for value in correlations if value is not None]
    return float(np.mean(known)) if known else None


def _recomputed(graded: GradedMap, other: Case) -> Float[Tensor, "h w"]:
    return graded.recompute(other)[graded.k]


def _entropy_rise(before: Float[Tensor, "h w"], after: Float[Tensor, "h w"]) -> float | None:
    """``(H(after) - H(before)) / H(before)`` of histograms of 100 bins; None where H is 0."""
    entropies = []
    for values in (before, after):
        counts = np.histogram(values.cpu().numpy(), bins=HISTOGRAM_BINS)[0]
        entropies.append(float(stats.entropy(counts)))
    return (entropies[1] - entropies[0]) / entropies[0] if entropies[0] > 0 else None


def _spearman(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float | None:
    x, y = (v.flatten().cpu().numpy() for v in (a, b))
    if min(np.ptp(x), np.ptp(y)) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def _of_another_class(case: Case) -> Case:
    """Every target replaced by another class, chosen by the seed."""
    classes = case.scorer.outputs(case.x[None]).shape[1]
    return case.rescored(targets=(case.targets + 1 + case.seed % (classes - 1)) % classes)


def _with_net(case: Case, net: nn.Module) -> Case:
    scorer = case.scorer
    return case.rescored(scorer=Scorer(net, scorer.kind, scorer.tick, meaning=scorer.meaning))


def _randomised_nets(part: Randomisation, case: Case) -> list[nn.Module]:
    """Copies of the net with new initial weights, from the top layer down or layer by layer.

    Raises:
        SpecError: if the net has no layers to randomise; each map would be compared with itself.
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
    nets = []
    for cut in cuts:
        randomised = copy.deepcopy(net)
        modules = dict(randomised.named_modules())
        chosen = layers[:cut] if part.order == "cascading" else layers[cut - 1 : cut]
        with torch.random.fork_rng(devices=[]), torch.inference_mode(mode=False):
            torch.manual_seed(case.seed)
            for name in chosen:
                modules[name].reset_parameters()
        nets.append(randomised.eval())
    return nets
