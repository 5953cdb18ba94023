"""Layers of a ticket that skip zeros, kept where a timing shows that they are faster.

CSR for linear layers and 1x1 convolutions on a CPU; 2:4 for sparse tensor cores where a mask is
capped. Everything else stays dense, and the report says why.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.freetickets import timing
from models.freetickets.masks import GROUP, KEPT
from models.freetickets.timing import Way

REPEATS = 10  # calls in one CUDA graph: copying the input and replaying are shared by them
CHUNK = 64  # rows multiplied at once by CSR: their columns then stay in a core's second cache


class CsrLinear(nn.Module):
    """x W^T + b with W in compressed rows: work in proportion to the active weights."""

    def __init__(self, weight: Float[Tensor, "out in"], bias: Tensor | None) -> None:
        super().__init__()
        # A plain attribute: torch cannot copy, move or save parameters in CSR everywhere.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            rows = weight.detach().to_sparse_csr()
            # torch would turn 64-bit indices into the 32-bit ones of its library at every call
            index = (rows.crow_indices().int(), rows.col_indices().int())
            self.rows = torch.sparse_csr_tensor(
                *index, rows.values(), rows.shape, check_invariants=True
            )
        self.bias = bias

    def forward(self, x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        rows = x.reshape(-1, x.shape[-1])
        y = torch.cat([self.rows @ part.T for part in rows.split(CHUNK)], 1).T
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class Linear24(nn.Module):
    """x W^T + b on sparse tensor cores; the weight has at most 2 of 4 neighbouring inputs."""

    def __init__(
        self, weight: Float[Tensor, "out in"], bias: Tensor | None, x: Float[Tensor, "b in"]
    ) -> None:
        super().__init__()
        self.packed = cast("Any", torch.sparse.to_sparse_semi_structured(weight.detach()))
        if (
            self.packed.BACKEND == "cusparselt"
        ):  # has several algorithms; which is best depends on b
            algorithm = torch._cslt_sparse_mm_search(self.packed.packed, x.T)
            self.packed.alg_id_cusparselt = algorithm
        self.bias = bias

    def forward(self, x: Float[Tensor, "b in"]) -> Float[Tensor, "b out"]:
        return functional.linear(x, self.packed, self.bias)


class Pointwise(nn.Module):
    """A 1x1 convolution as a linear layer over pixels."""

    def __init__(self, linear: nn.Module, stride: int) -> None:
        super().__init__()
        self.linear, self.stride = linear, stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b out h2 w2"]:
        rows = pixels(x, self.stride)
        b, h, w, _ = rows.shape
        return self.linear(rows.flatten(0, 2)).view(b, h, w, -1).permute(0, 3, 1, 2)


def pixels(x: Float[Tensor, "b c h w"], stride: int) -> Float[Tensor, "b h2 w2 c"]:
    """The inputs of a 1x1 convolution, one for each position of its output."""
    return x[:, :, ::stride, ::stride].permute(0, 2, 3, 1).contiguous()


class Timing(NamedTuple):
    """Milliseconds of a layer both ways, and which one stays."""

    dense_ms: float | None
    sparse_ms: float | None
    kept: str
    reason: str


def is_24(mask: Bool[Tensor, "out in"]) -> bool:
    """Whether at most 2 of each 4 neighbouring inputs are active."""
    return mask.shape[1] % GROUP == 0 and int(mask.unflatten(1, (-1, GROUP)).sum(-1).max()) <= KEPT


def time_csr(weight: Float[Tensor, "out in"], x: Float[Tensor, "b in"], rounds: int = 15) -> Timing:
    """CSR against dense for one layer on the CPU."""
    return _timed(lambda x: functional.linear(x, weight), CsrLinear(weight, None), x, rounds, "csr")


def time_24(weight: Float[Tensor, "out in"], x: Float[Tensor, "b in"], rounds: int = 50) -> Timing:
    """Sparse tensor cores against dense for one layer on a GPU, in half precision.

    A GPU or a shape that cannot do it, and a kernel that is slower, leave the layer dense.
    """
    dense = lambda x: functional.linear(x, weight)  # noqa: E731  # one of two ways
    return _on_tensor_cores(dense, weight, lambda: Linear24(weight, None, x), x, rounds)


def _on_tensor_cores(
    dense: Way, weight: Tensor, make: Callable[[], Way], x: Tensor, rounds: int
) -> Timing:
    if not is_24(weight != 0):
        return _dense(dense, x, rounds, "not 2 of 4")
    try:
        return _timed(dense, make(), x, rounds, "2:4")
    except (RuntimeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        return _dense(dense, x, rounds, f"refused: {str(error).splitlines()[0]}")


def _dense(dense: Way, x: Tensor, rounds: int, reason: str) -> Timing:
    return Timing(timing.medians({"dense": dense}, x, rounds)["dense"], None, "dense", reason)


def _timed(dense: Way, sparse: Way, x: Tensor, rounds: int, name: str) -> Timing:
    """Both ways in turns; a layer whose answer differs stays dense."""
    repeats = REPEATS if x.is_cuda else 1
    with torch.inference_mode():
        ways = {
            "dense": timing.recorded(_repeated(dense, repeats), x),
            name: timing.recorded(_repeated(sparse, repeats), x),
        }
        a, b = (way(x) for way in ways.values())
        if not torch.allclose(a, b, rtol=0, atol=1e-2 * float(a.abs().max())):
            return _dense(dense, x, rounds, "another answer")
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


class Row(NamedTuple):
    """A layer at a batch size: what it is, and what became of it."""

    layer: str
    kernel: int
    outputs: int
    inputs: int
    density: float
    batch: int
    dense_ms: float | None
    sparse_ms: float | None
    kept: str
    reason: str


@torch.no_grad()
def choose_layers(
    net: nn.Module, x: Float[Tensor, "b c h w"], rounds: int = 7
) -> tuple[nn.Module, list[Row]]:
    """A copy of the net whose layers skip zeros where that is faster on images of this shape.

    Args:
        net: a ticket in eval mode on the device of ``x``, best with its norms folded.
        x: normalised images; in half precision on a GPU, where 2:4 works.
        rounds: calls of each layer both ways, interleaved; medians count.

    Returns:
        The net, and a row for each convolution and linear layer.
    """
    chosen, rows = copy.deepcopy(net), []
    inputs = _inputs(net, x)
    for name, given in inputs.items():
        layer = cast("nn.Conv2d | nn.Linear", net.get_submodule(name))
        timed, instead = _tried(layer, given, rounds)
        if timed.kept != "dense" and instead is not None:
            parent, _, child = name.rpartition(".")
            setattr(chosen.get_submodule(parent), child, instead)
        outputs, c_in, *kernel = layer.weight.shape
        density = float((layer.weight != 0).double().mean())
        side = kernel[0] if kernel else 0
        rows.append(Row(name, side, outputs, c_in, density, len(x), *timed))
    return chosen, rows


def _inputs(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each convolution and linear layer is given, by name."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: inputs.update({name: args[0].detach()})
        )
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return inputs


def _tried(layer: nn.Conv2d | nn.Linear, x: Tensor, rounds: int) -> tuple[Timing, nn.Module | None]:
    """A layer's timing, and the layer that would replace it."""
    if reason := _unsuited(layer):
        return _left(reason), None
    weight = layer.weight.flatten(1)
    if bool((weight != 0).all()):
        return _left("dense by rule"), None
    if not x.is_cuda:
        instead = _instead(layer, CsrLinear(weight, layer.bias))
        return _timed(layer, instead, x, rounds, "csr"), instead
    is_conv = isinstance(layer, nn.Conv2d)
    rows = pixels(x, _stride(layer)).flatten(0, 2) if is_conv else x.flatten(0, -2)
    make = lambda: _instead(layer, Linear24(weight, layer.bias, rows))  # noqa: E731
    timed = _on_tensor_cores(layer, weight, make, x, rounds)
    return timed, make() if timed.kept == "2:4" else None


def _unsuited(layer: nn.Conv2d | nn.Linear) -> str | None:
    """Why no product of matrices is the layer; None if one is."""
    if type(layer).forward not in (nn.Conv2d.forward, nn.Linear.forward):
        return "has a forward pass of its own"
    if isinstance(layer, nn.Linear):
        return None
    if layer.kernel_size != (1, 1):
        return "no sparse kernel for windows larger than 1 x 1"
    is_plain = layer.groups == 1 and layer.padding in ((0, 0), "same", "valid")
    return None if is_plain else "grouped or padded"


def _instead(layer: nn.Conv2d | nn.Linear, linear: nn.Module) -> nn.Module:
    return Pointwise(linear, _stride(layer)) if isinstance(layer, nn.Conv2d) else linear


def _stride(layer: nn.Conv2d) -> int:
    return layer.stride[0]


def _left(reason: str) -> Timing:
    return Timing(None, None, "dense", reason)
