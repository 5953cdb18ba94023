"""Trained nets as files for other programs: what ``torch.export.load`` reads."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

TOLERANCE = 1e-4  # of a logit or log-probability, relative where it is above 1


@torch.no_grad()
def export(net: nn.Module, x: Float[Tensor, "b c h w"]) -> ExportedProgram:
    """The program of a net in eval mode, its batch left open.

    Args:
        net: on the CPU.
        x: two or more images of the size to come; a batch of one would be taken as fixed.
    """
    program = torch.export.export(net, (x,), dynamic_shapes=({0: Dim.DYNAMIC},))
    program.example_inputs = None  # they are somebody's images, and would go into the file, pickled
    return program


def save(
    path: Path, program: ExportedProgram, description: Mapping[str, Any]
) -> Callable[..., Any]:
    """Write with ``description.json`` inside; the file, read back, as a function."""
    about = json.dumps(description, allow_nan=False)
    torch.export.save(program, path, extra_files={"description.json": about})
    return torch.export.load(path).module()


def gap(actual: Tensor, expected: Tensor) -> float:
    """Largest difference of two answers on the CPU, relative where it is above 1.

    Both tensors have one shape [...].
    """
    return float(((actual - expected).abs() / expected.abs().clamp(min=1)).max())
