"""Graders of how much a map changes with a small change of the image (Yeh et al. 2019)."""

import numpy as np
import torch

from models.saliency import philox
from models.saliency.graders.grade import GradedMap
from models.saliency.spec.graders import Robustness


def robustness(part: Robustness, graded: GradedMap) -> float | None:
    """``||phi(x + delta) - phi(x)|| / ||phi(x)||`` over uniform delta in a cube of the radius.

    ``sensitivity_max`` takes the maximum over the samples, ``sensitivity_avg`` the mean. None for
    a map of zeros.
    """
    values, case = graded.values, graded.case
    norm = values.norm()
    if norm == 0:
        return None
    changes = []
    for sample in range(part.samples):
        index = torch.tensor([sample], device=values.device)
        u = philox.uniform((case.seed, 9), philox.NOISE, index, case.x.numel())
        x = case.x + (part.radius * (2 * u - 1)).view_as(case.x).to(case.x)
        other = graded.recompute(case.rescored(x=x))[graded.k]
        changes.append(((other - values).norm() / norm).item())
    return float(max(changes) if part.id == "sensitivity_max" else np.mean(changes))
