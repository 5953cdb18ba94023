"""Ranks of the values of a map, and rank correlation of maps."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy import stats
from torch import Tensor

from models.saliency import philox


def ranks(
    values: Float[Tensor, "*shape"], lowest_first: bool, shuffle: int = 0, seed: int = 0
) -> Int64[Tensor, "*shape"]:
    """Rank of each value, from 0.

    Args:
        values: to rank.
        lowest_first: whether rank 0 is the lowest value or the highest.
        shuffle: 0 orders ties by index, any other number by a random order of its own.
        seed: of the random orders.
    """
    flat = values.flatten() if lowest_first else -values.flatten()
    start = torch.arange(flat.numel(), device=flat.device)
    if shuffle:
        index = torch.full((1,), shuffle, device=flat.device)
        start = philox.words((seed, 4), philox.SHIFTS, index, flat.numel())[0].argsort()
    order = start[flat[start].argsort(stable=True)]
    positions = torch.empty_like(order)
    positions[order] = torch.arange(len(order), device=order.device)
    return positions.view_as(values)


def spearman_matrix(maps: Float[np.ndarray, "m h w"]) -> Float[np.ndarray, "m m"]:
    """Spearman's correlation of every two maps, average ranks; NaN beside a constant map."""
    ranks = np.stack([stats.rankdata(values.ravel()) for values in maps])
    ranks -= ranks.mean(1, keepdims=True)
    norm = np.linalg.norm(ranks, axis=1)
    norm[norm == 0] = np.nan
    ranks /= norm[:, None]
    return np.clip(ranks @ ranks.T, -1, 1)
