"""A trained net as an ONNX file, traced by torch and compared with the net."""

import copy
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from jaxtyping import Float
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from models.core.onnx_file import IR_VERSION, OPSET

BATCH = "batch"


def write(
    path: Path,
    net: nn.Module,
    x: Float[Tensor, "b c h w"],
    outputs: Mapping[str, int],
    description: Mapping[str, Any],
) -> None:
    """Write a net, its weights inside, for images of one size in batches of any.

    Args:
        path: of the file.
        net: in eval mode, on the CPU; takes one tensor.
        x: two or more images of the size to come, which are not kept; one would fix the batch.
        outputs: name of each output and which of its axes is the batch.
        description: kept in the metadata of the file, each value as JSON.

    Raises:
        torch.onnx.errors.OnnxExporterError: if the net has an operation that ONNX has not.
    """
    axes = {"images": {0: BATCH}} | {name: {axis: BATCH} for name, axis in outputs.items()}
    written = io.BytesIO()
    with warnings.catch_warnings():
        # torch's other exporter takes 20 times as long and a further package
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copy.deepcopy(net),
            (x,),
            written,  # ty: ignore[invalid-argument-type]  # a torch gap
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes=axes,
        )
    model = onnx.load_model_from_string(written.getvalue())
    model.ir_version, model.producer_name = IR_VERSION, "sextant"
    about = {name: json.dumps(value, allow_nan=False) for name, value in description.items()}
    helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def run(path: Path, x: Float[Tensor, "b c h w"]) -> Sequence[Tensor]:
    """What a file of :func:`write` gives, by the reference implementation of ONNX."""
    answers = ReferenceEvaluator(str(path)).run(None, {"images": x.numpy()})
    return [torch.from_numpy(answer) for answer in answers]
