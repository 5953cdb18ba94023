"""Trained nets from their files, and what they make of a terrain."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.core import checkpoint
from models.core.errors import SpecError
from models.core.run import Run
from models.terrain.dem.hydrology import drained
from models.terrain.learning.net import Downsampler, coarse
from models.terrain.spec.parts import Solver
from models.terrain.spec.train import TerrainTrain

TILE_CELLS = 2048 * 2048  # a larger raster goes through the net in bands


class Trained(NamedTuple):
    """A net and what it was trained for."""

    net: Downsampler
    factor: int
    solver: dict[str, Any]


def describe(spec: TerrainTrain) -> dict[str, Any]:
    """What a file of weights tells of its net."""
    net = {"name": "terrain_downsampler", "factor": spec.factor, "width": spec.width}
    net |= {"norm": spec.norm, "inputs": spec.inputs}
    return {"net": net, "solver": spec.solver.model_dump()}


def load(path: Path, device: str) -> Trained:
    """The net of a file of ``terrain.train``, in eval mode.

    Raises:
        DataError: if the file is damaged.
        SpecError: if it holds another net.
    """
    tensors, told = checkpoint.read(path)
    shape = told.get("net")
    if not isinstance(shape, dict) or shape.get("name") != "terrain_downsampler":
        raise SpecError(f"{path.name} holds no net of terrain.train: {shape}")
    inputs = shape.get("inputs", "heights")  # files of before 26 November 2026 do not tell
    net = Downsampler(shape["factor"], shape["width"], shape["norm"], inputs)
    net.load_state_dict(checkpoint.part(tensors, "net") or tensors)
    return Trained(net.to(device).eval(), shape["factor"], told["solver"])


def load_for(spec: Any, ref: Any, run: Run, solver: Solver | None) -> Trained:
    """A net that fits a spec; warns where it was trained for another solver.

    Raises:
        SpecError: if it was trained for another factor.
    """
    found = load(run.input(ref), run.device)
    if found.factor != spec.factor:
        raise SpecError(f"factor is {spec.factor}; {ref.artifact} was trained for {found.factor}")
    if solver is not None and solver.model_dump() != found.solver:
        run.warn("other_solver", f"{ref.artifact} was trained with the solver {found.solver}")
    return found


def apply(trained: Trained, z: Tensor, device: str) -> np.ndarray:
    """Coarse heights in m of a terrain whose sides are multiples of the factor."""
    f, (ny, nx) = trained.factor, z.shape
    band = max(f, TILE_CELLS // nx // f * f)
    halo = 16 * f
    rows = []
    datum = z.mean()
    flow = drained(z) if trained.net.inputs == "flow" else None
    with torch.inference_mode():
        for top in range(0, ny, band):
            first, last = max(0, top - halo), min(ny, top + band + halo)
            part = (z[first:last] - datum)[None].to(device)
            seen = None if flow is None else flow[None, :, first:last].to(device)
            made = coarse(trained.net, part, seen)[0].cpu() + datum
            begin = (top - first) // f
            rows.append(made[begin : begin + min(band, ny - top) // f])
    return torch.cat(rows).numpy()
