"""The order of the training images in an epoch: a pure function of (seed, epoch, position).

A list of up to ``LISTED`` images is drawn as a whole, as it always was. Beyond that a keyed
permutation is computed position by position, so that memory does not grow with the set: a Feistel
network over the next power of 4, walked until it falls into the set (Black and Rogaway, CT-RSA
2002, method 2).
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64, UInt64
from torch import Tensor

from models.core.device import generator

LISTED = 2**20  # images; their order takes 8 MiB
ROUNDS = 6


def chosen(
    count: int, seed: int, epoch: int, start: int, stop: int, listed: int = LISTED
) -> Int64[Tensor, "b"]:
    """Indices of the images at positions [start, stop) of an epoch, on the CPU.

    Args:
        count: of the training images.
        seed: of the job.
        epoch: from 0.
        start: first position, from 0.
        stop: end of the positions; those from ``count`` on are left out.
        listed: the largest set whose order is drawn as a whole.
    """
    if count <= listed:
        return _listed(count, seed, epoch)[start:stop]
    positions = np.arange(start, min(stop, count), dtype=np.uint64)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    return torch.from_numpy(_permuted(positions, count, keys).astype(np.int64))


@lru_cache(maxsize=2)
def _listed(count: int, seed: int, epoch: int) -> Int64[Tensor, "n"]:
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def _permuted(
    positions: UInt64[np.ndarray, "b"], count: int, keys: UInt64[np.ndarray, "rounds"]
) -> UInt64[np.ndarray, "b"]:
    """Where a permutation of [0, count) takes positions: at most 4 turns each on average."""
    half = max(1, -(-(count - 1).bit_length() // 2))  # bits of each half
    taken = _network(positions, half, keys)
    while (outside := taken >= count).any():
        taken[outside] = _network(taken[outside], half, keys)
    return taken


def _network(
    x: UInt64[np.ndarray, "b"], half: int, keys: UInt64[np.ndarray, "rounds"]
) -> UInt64[np.ndarray, "b"]:
    """A balanced Feistel network: a permutation of the numbers of 2 * half bits."""
    mask, shift = np.uint64(2**half - 1), np.uint64(half)
    left, right = x >> shift, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right, key) & mask)
    return left << shift | right


def _mixed(x: UInt64[np.ndarray, "b"], key: np.uint64) -> UInt64[np.ndarray, "b"]:
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); wraps around."""
    x = x + key
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
