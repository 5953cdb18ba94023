"""The rows of all ranks as one sample, for a loss of the whole batch."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def gather(x: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """The rows of every rank in order of rank, m = ranks x n; the identity in a single process.

    Every rank then works out the same loss of all rows. A rank's gradient is that of its own rows
    times the number of ranks, so that the usual mean over ranks gives the gradient of the loss.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _Gather.apply(x)


def alone(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The rows as they are: for a loss that every process works out of the same rows."""
    return x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004  # autograd's signature
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004  # autograd's signature
        ranks = dist.get_world_size()
        return grads[0].chunk(ranks)[dist.get_rank()] * ranks
