"""The whole ensemble as one module for other programs: torch.export and ONNX, norms folded.

Each file takes normalised float32 images [batch, c, h, w] of any batch size and gives the log of
the mean probability [batch, classes] and the log-probabilities of the members [members, batch,
classes]. Each is run once it is written, and compared with the plain nets.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.export import ExportedProgram

from models.core import program as programs
from models.freetickets import onnx_file
from models.freetickets.infer import Ensemble, fold

OUTPUTS = ["log_probabilities", "member_log_probabilities"]
Answer = Callable[[Tensor], Sequence[Tensor]]


def program_of(nets: Sequence[nn.Module], x: Float[Tensor, "b c h w"]) -> ExportedProgram:
    """The folded ensemble on the CPU as an exported program, its batch left open.

    Args:
        nets: members in eval mode.
        x: two or more images of the size to come; a batch of one would be taken as fixed.
    """
    ensemble = Ensemble([fold(net).cpu() for net in nets]).eval()
    return programs.export(ensemble, x.cpu())


def write_onnx(path: Path, program: ExportedProgram, description: Mapping[str, Any]) -> Answer:
    """Write as ONNX with the description as metadata; the file as a function."""
    about = {name: json.dumps(value, allow_nan=False) for name, value in description.items()}
    onnx_file.write(path, program, OUTPUTS, about)
    evaluator = ReferenceEvaluator(str(path))

    def answer(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in evaluator.run(None, {"images": x.numpy()})]

    return answer


@torch.no_grad()
def distance(answer: Answer, nets: Sequence[nn.Module], x: Tensor) -> float:
    """Largest gap of an answer to that of the plain nets, relative where it is below -1.

    Args:
        answer: of a file, on the CPU.
        nets: members in eval mode.
        x: normalised images [b, c, h, w].

    Raises:
        RuntimeError: if it is above 1e-4.
    """
    device = next(nets[0].parameters()).device
    expected, x = Ensemble(list(nets)).eval()(x.to(device)), x.cpu()
    gap = max(programs.gap(a, b.cpu()) for a, b in zip(answer(x), expected, strict=True))
    if not gap <= programs.TOLERANCE:
        raise RuntimeError(f"the exported ensemble differs from its members by {gap}")
    return gap
