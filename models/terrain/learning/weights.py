"""Loads trained nets and applies them to a terrain."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core import checkpoint
from models.core.errors import SpecError
from models.core.run import Run
from models.terrain.dem.hydrology import flow_accumulation
from models.terrain.learning import face_net
from models.terrain.learning.net import Downsampler, coarse
from models.terrain.spec.solver import Solver
from models.terrain.spec.train import TerrainTrain

TILE_CELLS = 2048 * 2048  # larger rasters are processed in bands


class TrainedNet(NamedTuple):
    """A net, and the factor and solver it was trained for."""

    net: Downsampler
    factor: int
    solver: dict[str, Any]


def describe(spec: TerrainTrain) -> dict[str, Any]:
    """Metadata of a file of weights: the net's architecture and the solver."""
    if spec.learn == "faces":
        net = {"name": face_net.NAME, "factor": spec.factor}
        return {"net": net, "solver": spec.solver.model_dump()}
    net = {"name": "terrain_downsampler", "factor": spec.factor, "width": spec.width}
    net |= {"norm": spec.norm, "inputs": spec.inputs}
    return {"net": net, "solver": spec.solver.model_dump()}


def load(path: Path, device: str) -> TrainedNet:
    """The net of a file of ``terrain.train``, in eval mode.

    Raises:
        DataError: if the file is damaged.
        SpecError: if it holds another net.
    """
    tensors, metadata = checkpoint.read(path)
    shape = metadata.get("net")
    if isinstance(shape, dict) and shape.get("name") == face_net.NAME:
        raise SpecError(
            f"{path.name} holds a net of faces: make a subgrid with it by terrain.downsample with"
            " method learned; compare floods that by subgrids"
        )
    if not isinstance(shape, dict) or shape.get("name") != "terrain_downsampler":
        raise SpecError(f"{path.name} holds no net of terrain.train: {shape}")
    inputs = shape.get("inputs", "heights")  # absent in files from before 26 November 2026
    net = Downsampler(shape["factor"], shape["width"], shape["norm"], inputs)
    net.load_state_dict(checkpoint.part(tensors, "net") or tensors)
    return TrainedNet(net.to(device).eval(), shape["factor"], metadata["solver"])


def load_for(spec: Any, ref: Any, run: Run, solver: Solver | None) -> TrainedNet:
    """Load a net for a spec; warn if it was trained for another solver.

    Args:
        spec: with a factor.
        ref: reference to the file of weights.
        run: gives access to the file.
        solver: of the spec; None: not compared.

    Raises:
        DataError: if the file is damaged.
        SpecError: if it was trained for another factor.
    """
    trained = load(run.input(ref), run.device)
    check_factor(spec, ref, trained.factor)
    if solver is not None and solver.model_dump() != trained.solver:
        run.warn("other_solver", f"{ref.artifact} was trained with the solver {trained.solver}")
    return trained


def check_factor(spec: Any, ref: Any, trained_for: int) -> None:
    """Refuse a net of another factor.

    Raises:
        SpecError: naming both factors.
    """
    if trained_for != spec.factor:
        raise SpecError(f"factor is {spec.factor}; {ref.artifact} was trained for {trained_for}")


def apply(
    trained: TrainedNet, z: Float[Tensor, "ny nx"], device: str
) -> Float[np.ndarray, "nyc nxc"]:
    """Coarse heights in m of a terrain in m whose sides are multiples of the factor."""
    f, (ny, nx) = trained.factor, z.shape
    band = max(f, TILE_CELLS // nx // f * f)
    halo = 16 * f
    rows = []
    datum = z.mean()
    flow = flow_accumulation(z) if trained.net.inputs == "flow" else None
    with torch.inference_mode():
        for top in range(0, ny, band):
            first, last = max(0, top - halo), min(ny, top + band + halo)
            part = (z[first:last] - datum)[None].to(device)
            flow_part = None if flow is None else flow[None, :, first:last].to(device)
            z_coarse = coarse(trained.net, part, flow_part)[0].cpu() + datum
            begin = (top - first) // f
            rows.append(z_coarse[begin : begin + min(band, ny - top) // f])
    return torch.cat(rows).numpy()
