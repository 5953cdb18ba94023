"""Layers of a ticket that skip zeros, kept where a timing shows that they are faster.

CSR for linear layers and 1x1 convolutions on a CPU; 2:4 for sparse tensor cores where a mask is
capped. Everything else stays dense, and the report says why.
"""

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.freetickets.masks import GROUP, KEPT


class CsrLinear(nn.Module):
    """x W^T + b with W in compressed rows: work in proportion to the active weights."""

    def __init__(self, weight: Float[Tensor, "out in"], bias: Tensor | None) -> None:
        super().__init__()
        # A plain attribute: torch cannot copy, move or save parameters in CSR everywhere.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self.rows = weight.detach().to_sparse_csr()
        self.bias = bias

    def forward(self, x: Float[Tensor, "b in"]) -> Float[Tensor, "b out"]:
        y = (self.rows @ x.T).T
        return y if self.bias is None else y + self.bias


class Timing(NamedTuple):
    """Milliseconds of a layer both ways, and which one stays."""

    dense_ms: float
    sparse_ms: float | None
    kept: str
    reason: str


def is_24(mask: Bool[Tensor, "out in"]) -> bool:
    """Whether at most 2 of each 4 neighbouring inputs are active."""
    return mask.shape[1] % GROUP == 0 and int(mask.unflatten(1, (-1, GROUP)).sum(-1).max()) <= KEPT


def time_csr(weight: Float[Tensor, "out in"], x: Float[Tensor, "b in"], rounds: int = 15) -> Timing:
    """CSR against dense for one layer on the CPU, interleaved, medians."""
    layer = CsrLinear(weight, None)
    return _timed(lambda: functional.linear(x, weight), lambda: layer(x), rounds, "csr")


def time_24(weight: Float[Tensor, "out in"], x: Float[Tensor, "b in"], rounds: int = 50) -> Timing:
    """Sparse tensor cores against dense for one layer on a GPU, in half precision.

    A GPU or a shape that cannot do it, and a kernel that is slower, leave the layer dense.
    """
    dense = lambda: functional.linear(x, weight)  # noqa: E731  # timed below like the other
    if not is_24(weight != 0):
        return Timing(_milliseconds(dense, x, rounds), None, "dense", "not 2 of 4")
    try:
        packed = torch.sparse.to_sparse_semi_structured(weight)
        packed @ x.T
    except (RuntimeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        reason = str(error).split("\n", 1)[0]
        return Timing(_milliseconds(dense, x, rounds), None, "dense", f"refused: {reason}")
    return _timed(dense, lambda: packed @ x.T, rounds, "2:4", x)


def _timed(
    dense: Callable[[], Tensor],
    sparse: Callable[[], Tensor],
    rounds: int,
    name: str,
    x: Tensor | None = None,
) -> Timing:
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for times, call in zip(spent, (dense, sparse), strict=True):
            times.append(_milliseconds(call, x, 1))
    a, b = median(spent[0]), median(spent[1])
    faster = b < a
    return Timing(a, b, name if faster else "dense", "faster" if faster else "slower than dense")


@torch.inference_mode()
def _milliseconds(call: Callable[[], Tensor], x: Tensor | None, rounds: int) -> float:
    on_gpu = x is not None and x.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(rounds):
        call()
    if on_gpu:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started) / rounds
