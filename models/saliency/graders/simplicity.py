"""Graders of a map by itself: how few pixels it is about."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency.spec.simplicity import Simplicity


def simplicity(part: Simplicity, values: Float[Tensor, "h w"]) -> float | None:
    """Entropy of the shares of |map| in nats, or the Gini index of |map|; None for zeros.

    The Gini index of n sorted values is ``sum_i (2 i - n - 1) a_i / (n sum a)``, 0 if all are equal
    and (n - 1) / n if one alone is not 0.
    """
    size = values.abs().double().flatten().sort().values
    total = size.sum()
    if total == 0:
        return None
    if part.id == "complexity":
        return torch.special.entr(size / total).sum().item()
    count = len(size)
    rank = torch.arange(1, count + 1, device=size.device)
    return (((2 * rank - count - 1) * size).sum() / (count * total)).item()
