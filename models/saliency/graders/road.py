"""ROAD: the score with the most or least relevant pixels imputed (Rong et al. 2022)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency import philox
from models.saliency.graders.grade import Grade, GradedMap
from models.saliency.methods.case import Case
from models.saliency.methods.imputation import impute
from models.saliency.ranks import ranks
from models.saliency.spec.graders import Road


def grade_road(part: Road, graded: GradedMap) -> Grade:
    """Mean of (LeRF - MoRF) / 2 over the percentages, with both curves."""
    scores = road(part, graded.values, graded.case, graded.k)
    shares = [percent / 100 for percent in part.percent]
    curves = {f" {name}": list(zip(shares, y, strict=True)) for name, y in scores.items()}
    gaps = zip(scores["lerf"], scores["morf"], strict=True)
    return Grade(float(np.mean([(lerf - morf) / 2 for lerf, morf in gaps])), curves)


def road(part: Road, values: Float[Tensor, "h w"], case: Case, k: int) -> dict[str, list[float]]:
    """Scores with the given percentages of the pixels imputed.

    Args:
        part: the grader.
        values: the map.
        case: the image.
        k: position of the class among the targets of the case.

    Returns:
        ``morf`` with the most relevant pixels imputed first, ``lerf`` with the least relevant.
    """
    return {name: _scores(part, values, case, k, name == "lerf") for name in ("morf", "lerf")}


def _scores(
    part: Road, values: Float[Tensor, "h w"], case: Case, k: int, lowest_first: bool
) -> list[float]:
    counts = torch.tensor(part.percent, device=values.device) * values.numel() // 100
    removed = ranks(values, lowest_first) < counts[:, None, None]
    images = impute(case.x, removed)
    index = torch.arange(len(counts), device=values.device)
    noise = philox.normal((case.seed, 6), philox.NOISE, index, case.x.numel())
    sigma = part.noise * (case.x.max() - case.x.min()).item()
    images += sigma * noise.view_as(images) * removed[:, None]
    images = images.to(case.x.dtype)
    return case.scores(lambda chosen: images[chosen], len(images))[:, k].tolist()
