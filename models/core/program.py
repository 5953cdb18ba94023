"""A trained net as a file for other programs: what ``torch.export.load`` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

TOLERANCE = 1e-4  # of a logit, relative where it is above 1


@torch.no_grad()
def write(
    path: Path, net: nn.Module, x: Float[Tensor, "b c h w"], told: Mapping[str, Any]
) -> float:
    """Write a net with its batch left open; read it back and compare both on one image more.

    Args:
        path: of the file.
        net: on the CPU.
        x: three or more normalised images of the size to come; they are not kept.
        told: goes into the file as ``description.json``.

    Returns:
        The largest gap between file and net, relative where a value is above 1.

    Raises:
        RuntimeError: if it is above 1e-4.
    """
    net.eval()
    # a batch of one would be taken as fixed
    program = torch.export.export(net, (x[:2],), dynamic_shapes=({0: Dim.DYNAMIC},))
    program.example_inputs = None  # they would go into the file, pickled
    torch.export.save(program, path, extra_files={"description.json": json.dumps(told)})
    expected, found = net(x), torch.export.load(path).module()(x)
    gap = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
    if not gap <= TOLERANCE:
        raise RuntimeError(f"{path.name} differs from its net by {gap}, more than {TOLERANCE}")
    return gap
