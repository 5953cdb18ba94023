"""A graph as an ONNX file that every runtime of the last years reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx
from onnx import helper

OPSET, IR_VERSION = 17, 8


def save(
    path: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check the graph and write it, its weights inside.

    Args:
        path: of the file.
        name: of the graph.
        nodes: in the order in which they run.
        inputs: names, formats and shapes.
        outputs: likewise.
        weights: by the names that nodes take.
        metadata: kept in the file.

    Raises:
        onnx.checker.ValidationError: if the graph is no valid one.
    """
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="sextant",
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)
