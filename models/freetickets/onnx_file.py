"""An exported program of residual nets as ONNX, operation by operation.

The graph of ``torch.export`` is flat and names every tensor, so one table of a dozen operations
serves every net of this method.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from models.core import onnx_file

TYPES = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}


def write(
    path: Path, program: ExportedProgram, outputs: list[str], metadata: Mapping[str, str]
) -> None:
    """Write a program of one input, ``images`` [batch, c, h, w], with its weights inside.

    Args:
        path: of the file.
        program: of convolutional nets in eval mode, batch left open.
        outputs: names of what it gives.
        metadata: kept in the file.
    """
    graph = _Graph(program, outputs)
    onnx_file.save(
        path, "ensemble", graph.nodes, graph.inputs, graph.outputs, graph.weights, metadata
    )


class _Graph:
    """Nodes and weights of a program, in order."""

    def __init__(self, program: ExportedProgram, outputs: list[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.names: dict[Node, str] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        signature = program.graph_signature
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in program.graph.nodes:
            if not node.users and node.op == "placeholder":
                continue  # counters of batch norms
            if node.op == "placeholder" and node.name in held:
                self.names[node] = self._keep(held[node.name], program.state_dict[held[node.name]])
            elif node.op == "placeholder":
                self.names[node] = "images"
                self.inputs.append(_described("images", node))
            elif node.op == "call_function":
                self._add(node)
            else:
                for given, name in zip(node.args[0], outputs, strict=True):
                    self._node("Identity", [self.names[given]], name)
                    self.outputs.append(_described(name, given))

    def _add(self, node: Node) -> None:
        operation = str(node.target)
        if operation in SAME:
            if node.args:
                self.names[node] = self.names[_first(node)]
            return
        if operation == "aten.stack.default":
            self.names[node] = self._stack(node)
            return
        op, tensors, attributes = OPERATIONS[operation](*node.args)
        given = [self._given(x, f"{node.name}.{i}") for i, x in enumerate(tensors)]
        self.names[node] = self._node(op, given, node.name, **attributes)

    def _given(self, x: Any, name: str) -> str:
        """The name of an operand, which may be a number."""
        if isinstance(x, Node):
            return self.names[x]
        return self._keep(name, torch.tensor(x, dtype=torch.float64))

    def _stack(self, node: Node) -> str:
        """A new first axis: one for each operand, then joined."""
        axis = self._keep(f"{node.name}.axis", torch.tensor([0]))
        operands: Any = node.args[0]
        parts = [
            self._node("Unsqueeze", [self.names[x], axis], f"{node.name}.{i}")
            for i, x in enumerate(operands)
        ]
        return self._node("Concat", parts, node.name, axis=0)

    def _keep(self, name: str, tensor: Tensor) -> str:
        array = tensor.detach().cpu().contiguous().numpy()
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, op: str, given: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, given, [name], name, **attributes))
        return name


def _described(name: str, node: Node) -> onnx.ValueInfoProto:
    """Name, format and shape; sizes that are open are those of the batch."""
    value = node.meta["val"]
    shape = [size if isinstance(size, int) else "batch" for size in value.shape]
    return helper.make_tensor_value_info(name, TYPES[value.dtype], shape)


def _first(node: Node) -> Node:
    operand = node.args[0]
    if not isinstance(operand, Node):
        raise TypeError(f"{node.target} of {operand!r}")
    return operand


Written = tuple[str, list[Any], dict[str, Any]]  # operation, operands, attributes


def _conv(
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Written:
    operands = [x, weight] if bias is None else [x, weight, bias]
    return "Conv", operands, {"strides": list(stride), "pads": [*padding, *padding]}


def _norm(x: Node, *others: Any) -> Written:
    weight, bias, mean, variance, _, _, eps, _ = others
    return "BatchNormalization", [x, weight, bias, mean, variance], {"epsilon": eps}


def _pool(
    x: Node, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int] = (0, 0)
) -> Written:
    attributes = {"strides": list(stride), "pads": [*padding, *padding]}
    return "MaxPool", [x], {"kernel_shape": list(kernel), **attributes}


def _cast(x: Node, dtype: torch.dtype) -> Written:
    return "Cast", [x], {"to": TYPES[dtype]}


SAME = ("aten._assert_tensor_metadata.default",)
OPERATIONS: dict[str, Callable[..., Written]] = {
    "aten.conv2d.default": _conv,
    "aten.batch_norm.default": _norm,
    "aten.max_pool2d.default": _pool,
    "aten.to.dtype": _cast,
    "aten.relu.default": lambda x: ("Relu", [x], {}),
    "aten.add.Tensor": lambda x, y: ("Add", [x, y], {}),
    "aten.sub.Tensor": lambda x, y: ("Sub", [x, y], {}),
    "aten.mean.dim": lambda x, axes: ("ReduceMean", [x], {"axes": axes, "keepdims": 0}),
    "aten.logsumexp.default": lambda x, axes: (
        "ReduceLogSumExp",
        [x],
        {"axes": axes, "keepdims": 0},
    ),
    "aten.linear.default": lambda x, w, b: ("Gemm", [x, w, b], {"transB": 1}),
    "aten.log_softmax.int": lambda x, axis: ("LogSoftmax", [x], {"axis": axis}),
}
