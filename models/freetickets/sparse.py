"""Layers of a ticket that skip zeros, kept where a timing shows that they are faster.

CSR for linear layers and 1x1 convolutions on a CPU; 2:4 for sparse tensor cores where a mask is
capped. Everything else stays dense, and the report says why.
"""

import warnings
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.freetickets import timing
from models.freetickets.masks import GROUP, KEPT
from models.freetickets.timing import Way

REPEATS = 10  # calls in one CUDA graph: copying the input and replaying are shared by them


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
    """CSR against dense for one layer on the CPU."""
    return _timed(weight, CsrLinear(weight, None), x, rounds, "csr")


def time_24(weight: Float[Tensor, "out in"], x: Float[Tensor, "b in"], rounds: int = 50) -> Timing:
    """Sparse tensor cores against dense for one layer on a GPU, in half precision.

    A GPU or a shape that cannot do it, and a kernel that is slower, leave the layer dense.
    """
    if not is_24(weight != 0):
        return _dense(weight, x, rounds, "not 2 of 4")
    try:
        packed = _packed(weight, x)
        return _timed(weight, lambda x: functional.linear(x, packed), x, rounds, "2:4")
    except (RuntimeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        return _dense(weight, x, rounds, f"refused: {str(error).splitlines()[0]}")


def _packed(weight: Tensor, x: Tensor) -> Tensor:
    """The weight in 2:4 form, with cuSPARSELt's fastest algorithm where it is there."""
    packed = cast("Any", torch.sparse.to_sparse_semi_structured(weight))
    if packed.BACKEND == "cusparselt":
        packed.alg_id_cusparselt = torch._cslt_sparse_mm_search(packed.packed, x.T)
    return packed


def _dense(weight: Tensor, x: Tensor, rounds: int, reason: str) -> Timing:
    ms = timing.medians({"dense": lambda x: functional.linear(x, weight)}, x, rounds)
    return Timing(ms["dense"], None, "dense", reason)


def _timed(weight: Tensor, sparse: Way, x: Tensor, rounds: int, name: str) -> Timing:
    """Both ways in turns; a layer whose answer differs stays dense."""
    repeats = REPEATS if x.is_cuda else 1
    with torch.inference_mode():
        ways = {
            "dense": timing.recorded(_repeated(lambda x: functional.linear(x, weight), repeats), x),
            name: timing.recorded(_repeated(sparse, repeats), x),
        }
        a, b = (way(x) for way in ways.values())
        if not torch.allclose(a, b, rtol=0, atol=1e-2 * float(a.abs().max())):
            return _dense(weight, x, rounds, "another answer")
    ms = {key: t / repeats for key, t in timing.medians(ways, x, rounds).items()}
    faster = ms[name] < ms["dense"]
    reason = "faster" if faster else "slower than dense"
    return Timing(ms["dense"], ms[name], name if faster else "dense", reason)


def _repeated(way: Way, repeats: int) -> Way:
    def run(x: Tensor) -> Tensor:
        for _ in range(repeats - 1):
            way(x)
        return way(x)

    return run
