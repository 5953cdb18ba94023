"""Random numbers that depend on (seed, stream, index) only, not on batch size or device.

Philox-4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), is a
counter-based generator: it encrypts a counter under a key, so any number is available without a
state.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

# Streams separate the uses of one seed.
CELLS, SHIFTS, NOISE = 0, 1, 2


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Four random 32-bit words for each counter of four words, as int64 tensors of one shape.

    Args:
        counter: four words.
        key: two words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The product may wrap to a negative int64; the masked and shifted bits are still correct.
        low, high = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = (high >> 32 & WORD) ^ c1 ^ k0, (low >> 32 & WORD) ^ c3 ^ k1
        c1, c3 = high & WORD, low & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return [c0, c1, c2, c3]


def words(
    seed: tuple[int, int], stream: int, index: Int64[Tensor, "n"], count: int
) -> Int64[Tensor, "n {count}"]:
    """``count`` random words in [0, 2**32) for each index.

    Args:
        seed: two words, the key of the generator.
        stream: separates uses of one seed.
        index: of the rows.
        count: words per row.
    """
    block = torch.arange(math.ceil(count / 4), device=index.device)
    c0, c1 = torch.broadcast_tensors(block[None, :], index[:, None])
    c2 = torch.full_like(c0, stream)
    drawn = philox([c0, c1, c2, torch.zeros_like(c0)], seed)
    return torch.stack(drawn, dim=-1).flatten(1)[:, :count]  # [n, blocks, 4] -> [n, count]


def uniform(
    seed: tuple[int, int], stream: int, index: Int64[Tensor, "n"], count: int
) -> Float[Tensor, "n {count}"]:
    """Uniform float64 numbers, strictly between 0 and 1.

    Args:
        seed: two words, the key of the generator.
        stream: separates uses of one seed.
        index: of the rows.
        count: numbers per row.
    """
    return (words(seed, stream, index, count).double() + 0.5) / (WORD + 1)


def normal(
    seed: tuple[int, int], stream: int, index: Int64[Tensor, "n"], count: int
) -> Float[Tensor, "n {count}"]:
    """Standard normal float64 numbers by the Box-Muller transform.

    Args:
        seed: two words, the key of the generator.
        stream: separates uses of one seed.
        index: of the rows.
        count: numbers per row.
    """
    u, v = uniform(seed, stream, index, 2 * count).chunk(2, dim=1)
    return torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)
