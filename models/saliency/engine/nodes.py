"""Reading the nodes of a ``torch.export`` graph."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx

aten = torch.ops.aten
SAME = {aten.dropout.default, aten.alias.default, aten.clone.default, aten.detach.default}
_POINTWISE = """
relu relu6 hardtanh silu hardswish hardsigmoid sigmoid tanh gelu elu leaky_relu mish
softplus clamp clamp_min clamp_max neg exp log abs square sqrt rsqrt pow add sub mul div
maximum minimum
"""
POINTWISE = {getattr(aten, name) for name in _POINTWISE.split()}


def constants_of(program: torch.export.ExportedProgram) -> dict[str, Tensor]:
    """Weights, buffers and constants by the names of their placeholders."""
    signature, state = program.graph_signature, {**program.state_dict, **program.constants}
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {name: state[target].detach() for name, target in named.items()}


def needed_by(result: fx.Node) -> set[fx.Node]:
    """The node and every node that it depends on."""
    needed, todo = set(), [result]
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo += node.all_input_nodes
    return needed


def arguments(node: fx.Node, defaults: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """The positional arguments of a node, completed by defaults."""
    return (*node.args, *defaults[len(node.args) :])


def two(value: Any) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values * 2)[:2]


def paddings(padding: Any, weight: Tensor, dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """Zeros above, left, below, right of the input of a convolution [out, in, rows, columns]."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        top, left = (t // 2 for t in total)
        return top, left, total[0] - top, total[1] - left
    top, left = two(padding)
    return top, left, top, left


def zero_padding(node: fx.Node) -> tuple[int, int, int, int] | None:
    """Zeros above, left, below, right that a padding node adds; None for other nodes."""
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return None
    _, widths, *rest = arguments(node)
    mode = "constant" if node.target == aten.constant_pad_nd.default else (rest or ["constant"])[0]
    value = rest[-1] if rest and not isinstance(rest[-1], str) else 0
    if len(widths) != 4 or min(widths) < 0 or mode != "constant" or value not in (0, None):
        return None
    left, right, top, bottom = widths
    return top, left, bottom, right


def map_size(node: fx.Node) -> tuple[int, int, int] | None:
    """Channels, height and width of a batch of maps; None for other values."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None
    channels, height, width = value.shape[1:]
    known = all(isinstance(size, int) for size in (channels, height, width))
    return (channels, height, width) if known else None


def packet_of(node: fx.Node) -> Any:
    """The overload packet of the operation, in its functional form."""
    return getattr(functional_of(node.target), "overloadpacket", None)


def functional_of(target: Any) -> Any:
    """The functional form of an in-place operation; other operations as they are."""
    packet = getattr(target, "overloadpacket", None)
    name = getattr(packet, "__name__", "")
    if not name.endswith("_") or target.namespace != "aten":
        return target
    return getattr(getattr(aten, name[:-1]), target._overloadname)


def limits_of(node: fx.Node) -> tuple[float, float] | None:
    """Limits of an activation that clamps its input; None for other operations."""
    packet = packet_of(node)
    if packet == aten.relu:
        return 0.0, math.inf
    if packet == aten.relu6:
        return 0.0, 6.0
    if packet == aten.hardtanh:
        low, high = arguments(node, (None, -1.0, 1.0))[1:3]
        return float(low), float(high)
    return None


def affine(
    x: Float[Tensor, "n c h w"], scale: Float[Tensor, "c 1 1"], shift: Float[Tensor, "c 1 1"]
) -> Float[Tensor, "n c h w"]:
    """Batch norm that could not be folded into a convolution."""
    return x * scale + shift
