"""ROAD: the score with the most or least relevant pixels imputed (Rong et al. 2022)."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.methods.imputation import impute
from models.saliency.ranks import ranks
from models.saliency.spec.graders import Road


def road(part: Road, values: Float[Tensor, "h w"], case: Case, k: int) -> dict[str, list[float]]:
    """Scores with the given percentages imputed, most and least relevant first."""
    counts = torch.tensor(part.percent, device=values.device) * values.numel() // 100
    found = {}
    for name in ("morf", "lerf"):
        removed = ranks(values, name == "lerf") < counts[:, None, None]
        images = impute(case.x, removed)
        index = torch.arange(len(counts), device=values.device)
        noise = philox.normal((case.seed, 6), philox.NOISE, index, case.x.numel())
        spread = part.noise * (case.x.max() - case.x.min()).item()
        images += spread * noise.view_as(images) * removed[:, None]
        images = images.to(case.x.dtype)
        found[name] = case.scores(lambda chosen, made=images: made[chosen], len(images))[:, k]
    return {name: scores.tolist() for name, scores in found.items()}
