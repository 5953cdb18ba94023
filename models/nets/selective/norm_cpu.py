"""ReLU(BN(z)) of :mod:`models.nets.selective.reference` on a CPU, where traffic to memory decides.

A slot is taken through statistics, batch norm and ReLU while it is in a cache: the input is read
once and the activation written once, which is less than a plain unit's three operations take, and
pays for the reading of shifted channels. The backward pass keeps the input alone. Threads share
slots, or images, and none adds to what another one adds to: results do not depend on their number.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

TYPES = (torch.float32, torch.float64)


@cache
def _loops() -> Any:
    from models.nets.selective import norm_cpu_loops  # numba takes a second to import

    return norm_cpu_loops


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="shifted-norm")


def _share(run: Callable[..., None], count: int, *arrays: object) -> None:
    """Call ``run(*arrays, first, end)`` on parts of a range, one for each thread of torch."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        run(*arrays, 0, count)
        return
    cuts = [count * k // threads for k in range(threads + 1)]
    list(_pool().map(lambda k: run(*arrays, cuts[k], cuts[k + 1]), range(threads)))


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _maps(*tensors: Tensor) -> list[Any]:
    """Each as [n, c, h w], then the width."""
    return [*_arrays(*(x.flatten(2) for x in tensors)), tensors[0].shape[3]]


def gather(
    x: Float[Tensor, "n c h w"],
    root: Int64[Tensor, "s"],
    shift: Float[Tensor, "s 2"],
    scale: Float[Tensor, "s"],
    offset: Float[Tensor, "s"],
) -> Float[Tensor, "n s h w"]:
    """ReLU(scale z + offset) of slots z that read channel ``root`` at ``shift``; no gradients.

    Args:
        x: input of a unit, float32 or float64 on a CPU.
        root: channel that each slot reads.
        shift: of each slot in pixels: along the width, along the height.
        scale: of each slot.
        offset: of each slot.
    """
    x = x.contiguous()
    out = x.new_empty(len(x), len(root), *x.shape[2:])
    rest = _arrays(root, shift, scale, offset)
    _share(_loops().gather, len(root), *_maps(x, out), *rest)
    return out


class ShiftedNorm(torch.autograd.Function):
    """a = ReLU(BN(sample(x, source, shift))), with hand-written derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor,
        source: Tensor,
        mean: Tensor,
        var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Like ``functional.batch_norm``, whose running statistics it updates, with a ReLU.

        Args:
            ctx: keeps what the backward pass needs.
            x: [n, c, h, w] on a CPU, float32 or float64.
            weight: [c].
            bias: [c].
            shift: [c, 2] in pixels.
            source: int64 [c], -1 or a channel.
            mean: running mean of each slot [c].
            var: running variance of each slot [c].
            training: whether statistics are those of the batch.
            momentum: of the running statistics.
            eps: added to the variance.
        """
        x = x.contiguous()
        a, middle, spread = torch.empty_like(x), mean.clone(), var.clone()
        rest = _arrays(source, shift, weight, bias, middle, spread)
        _share(_loops().forward, x.shape[1], *_maps(x, a), *rest, eps, training)
        if training:
            count = x[:, 0].numel()
            mean.lerp_(middle, momentum)
            var.lerp_(spread * (count / max(1, count - 1)), momentum)
        rstd = (spread + eps).rsqrt()
        table = torch.stack([middle, rstd, weight * rstd, bias - middle * weight * rstd])
        ctx.training = training
        ctx.save_for_backward(x, shift, source, table)
        return a

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, source, table = ctx.saved_tensors
        grad, loops = grads[0].contiguous(), _loops()
        out, sums = torch.empty_like(x), torch.empty_like(table[:2])
        slopes, maps = torch.empty_like(sums), _maps(x, grad, out)
        rest = _arrays(source, shift, table, sums, slopes)
        _share(loops.backward, x.shape[1], *maps, *rest, ctx.training)
        parts = shift.new_zeros(len(x), *shift.shape)
        slots = (source >= 0).nonzero().flatten()
        _share(
            loops.backward_moved,
            len(x),
            *maps,
            *_arrays(slots, source, shift, table, slopes, parts),
        )
        return out, sums[1], sums[0], parts.sum(0), *(None,) * 6
