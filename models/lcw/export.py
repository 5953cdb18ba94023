"""The generator as ONNX, written layer by layer and compared with torch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from models.core import onnx_file
from models.lcw.nets import Affine, Half

TOLERANCE = 1e-4
TESTED = 4
IMAGES = ["batch", None, None, None]


def write(
    path: Path,
    net: nn.Sequential,
    inputs: int,
    sample: Tensor,
    description: Mapping[str, Any],
) -> float:
    """Write noise [batch, inputs] -> images [batch, c, h, w] and return its distance to torch.

    Args:
        path: of the file.
        net: in evaluation mode.
        inputs: width of the noise.
        sample: noise to compare on; its first rows are used.
        description: kept in the metadata of the file, each value as JSON.

    Raises:
        RuntimeError: if an output differs by more than 1e-4.
    """
    graph = _Graph()
    last = "noise"
    for index, layer in enumerate(net):
        last = graph.add(layer, f"layer{index}", last)
    graph.nodes[-1].output[0] = "images"
    noise = helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", inputs])
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, IMAGES)
    about = {name: json.dumps(value, allow_nan=False) for name, value in description.items()}
    onnx_file.save(path, "lcw", graph.nodes, [noise], [images], graph.weights, about)
    return _compare(path, net, sample[:TESTED])


def _compare(path: Path, net: nn.Sequential, noise: Tensor) -> float:
    with torch.no_grad():
        expected = net(noise).cpu().numpy()
    (actual,) = ReferenceEvaluator(str(path)).run(None, {"noise": noise.cpu().numpy()})
    gap = float(np.abs(actual - expected).max())
    if gap > TOLERANCE:
        raise RuntimeError(f"the ONNX file differs from the net by {gap}")
    return gap


class _Graph:
    """Nodes and weights, in the order of the layers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.writers: dict[type, Callable[[Any], tuple[str, list[Tensor], dict[str, Any]]]] = {
            nn.Linear: lambda m: ("Gemm", _weights(m), {"transB": 1}),
            nn.BatchNorm1d: _norm,
            nn.BatchNorm2d: _norm,
            nn.ReLU: lambda _: ("Relu", [], {}),
            nn.Sigmoid: lambda _: ("Sigmoid", [], {}),
            nn.Tanh: lambda _: ("Tanh", [], {}),
            nn.Unflatten: lambda m: ("Reshape", [torch.tensor([-1, *m.unflattened_size])], {}),
            nn.ConvTranspose2d: _transposed,
        }

    def add(self, layer: nn.Module, name: str, source: str) -> str:
        """One layer after ``source``; the name of its output."""
        if isinstance(layer, Half):
            one, half = torch.tensor(1.0), torch.tensor(0.5)
            middle = self._node("Add", [one], {}, f"{name}a", source)
            return self._node("Mul", [half], {}, name, middle)
        if isinstance(layer, Affine):
            middle = self._node("Mul", [layer.scale], {}, f"{name}a", source)
            return self._node("Add", [layer.shift], {}, name, middle)
        op, tensors, attributes = self.writers[type(layer)](layer)
        return self._node(op, tensors, attributes, name, source)

    def _node(
        self, op: str, tensors: list[Tensor], attributes: dict[str, Any], name: str, source: str
    ) -> str:
        names = [f"{name}.{index}" for index in range(len(tensors))]
        for tensor, own in zip(tensors, names, strict=True):
            self.weights.append(numpy_helper.from_array(tensor.detach().cpu().numpy(), own))
        self.nodes.append(helper.make_node(op, [source, *names], [name], name, **attributes))
        return name


def _weights(layer: nn.Module) -> list[Tensor]:
    return list(layer.parameters())  # weight, then the bias where there is one


def _norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[str, list[Tensor], dict[str, Any]]:
    tensors = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    return "BatchNormalization", [t for t in tensors if t is not None], {"epsilon": layer.eps}


def _transposed(layer: nn.ConvTranspose2d) -> tuple[str, list[Tensor], dict[str, Any]]:
    (p, q), (s, r) = layer.padding, layer.stride
    return "ConvTranspose", _weights(layer), {"pads": [p, q, p, q], "strides": [s, r]}
