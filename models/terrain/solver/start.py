"""Water on a terrain at 0 s, on grids of any resolution; the last state of a flood as a file."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.terrain.dem import rasters
from models.terrain.dem.pooling import mean, pad_to_multiple
from models.terrain.dem.rasters import Elevation
from models.terrain.solver.scheme import FlowState
from models.terrain.solver.subgrid import SubgridTerrain
from models.terrain.spec.start import Start

DEEPEST_M, LEVELS_M = 1e4, (-1e4, 1e4)


class FirstWater(NamedTuple):
    """Water at 0 s on the fine cells: a depth, a level, or depths and discharges.

    Attributes:
        depth: m [ny, nx]; None where a level is given.
        level: m [ny, nx].
        missing: cells without a height, which stay dry.
        flow: depths and discharges, of the fine grid alone.
    """

    depth: Float[np.ndarray, "ny nx"] | None
    level: Float[np.ndarray, "ny nx"] | None
    missing: np.ndarray
    flow: FlowState | None = None

    def on(
        self, z: Float[np.ndarray, "nyc nxc"], subgrid: SubgridTerrain | None = None
    ) -> FlowState:
        """The state on a bed z in m: pooled depths, or the ground below the pooled level filled.

        With a subgrid depths are mean depths, and a level fills the cells by their tables.
        """
        if self.flow is not None:
            return self.flow
        wet = ~self.missing
        if self.level is not None:
            level, known = _pooled(self.level * wet, z.shape), _pooled(wet * 1.0, z.shape)
            level = level / np.maximum(known, 1e-9)
            full = np.maximum(level - z, 0) if subgrid is None else subgrid.filled_to(level)
            h = np.where(known > 0, full * known, 0)
        else:
            h = _pooled(np.asarray(self.depth) * wet, z.shape)
        depth = torch.from_numpy(h.astype(np.float32))[None]
        return FlowState(depth, torch.zeros_like(depth[:, :, 1:]), torch.zeros_like(depth[:, 1:]))


def _pooled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Means of a field on the fine cells over those of a grid."""
    factor = -(-values.shape[0] // shape[0])
    return mean(
        pad_to_multiple(torch.from_numpy(np.asarray(values, np.float64)), factor), factor
    ).numpy()


def first_water(start: Start | None, fine: Elevation, run: Run) -> FirstWater | None:
    """What a spec says about the water at 0 s; None for dry ground.

    Raises:
        SpecError: if a map or a state is not of the terrain.
        DataError: if a file cannot be used.
    """
    if start is None:
        return None
    shape, missing = fine.z.shape, fine.missing
    if start.state is not None:
        return FirstWater(None, None, missing, read_state(run.input(start.state), fine, run))
    if start.depth_map is not None:
        field, depth = "start.depth_map", start.depth_map
        return FirstWater(rasters.map_on(fine, depth, run, field, 0.0, DEEPEST_M), None, missing)
    if start.level_map is not None:
        level = rasters.map_on(fine, start.level_map, run, "start.level_map", *LEVELS_M)
        return FirstWater(None, level, missing)
    if start.depth_m is not None:
        return FirstWater(np.full(shape, start.depth_m), None, missing)
    return FirstWater(None, np.full(shape, start.level_m, np.float64), missing)


def save_state(path: Path, state: FlowState, ground: Elevation, t: float) -> None:
    """Write depths and discharges in float32, with what tells the terrain they are of."""
    tensors = {name: field[0].float().contiguous() for name, field in state._asdict().items()}
    about: dict[str, Any] = {"time_s": t, "cell_size_m": ground.dx, "heights": _digest(ground)}
    if ground.subgrid is not None:
        about["subgrid"] = _digest_of_tables(ground.subgrid)
    save_file(tensors, path, {"state": json.dumps(about)})


def _digest(ground: Elevation) -> str:
    return hashlib.sha256(np.ascontiguousarray(ground.z).tobytes()).hexdigest()


def _digest_of_tables(subgrid: SubgridTerrain) -> str:
    digest = hashlib.sha256()
    full, storage, x, y = subgrid.tables
    for field in (subgrid.lowest, full, storage, *x, *y):
        digest.update(np.ascontiguousarray(field.numpy()).tobytes())
    return digest.hexdigest()


def read_state(path: Path, ground: Elevation, run: Run) -> FlowState:
    """The state of a file of :func:`save_state`.

    Raises:
        DataError: if it is no such file.
        SpecError: if it is of a grid of another size or of another subgrid.
    """
    try:
        with safe_open(path, "pt") as file:
            fields: dict[str, Tensor] = {name: file.get_tensor(name) for name in ("h", "qx", "qy")}
            about = json.loads((file.metadata() or {})["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"start.state: {path.name} holds no state of a flood") from error
    ny, nx = ground.z.shape
    if fields["h"].shape != (ny, nx) or abs(about["cell_size_m"] / ground.dx - 1) > 1e-6:
        rows, columns = fields["h"].shape
        raise SpecError(
            f"start.state: {rows} x {columns} cells of {about['cell_size_m']:g} m, the terrain"
            f" {ny} x {nx} of {ground.dx:g} m; start on the terrain of the job that left it"
        )
    tables = None if ground.subgrid is None else _digest_of_tables(ground.subgrid)
    if about.get("subgrid") != tables:
        raise SpecError(
            "start.state: the same depths are other levels on another subgrid, or with and without"
            " one; start on the terrain of the job that left it"
        )
    if about["heights"] != _digest(ground):
        run.warn("other_heights", "start.state is of a terrain with other heights")
    return FlowState(*(fields[name][None] for name in ("h", "qx", "qy")))
