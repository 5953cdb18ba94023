"""Cells without a height in a flood: a wall around them, or an opening that water leaves by."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.core.errors import SpecError
from models.core.run import Run
from models.terrain.dem.pooling import mean, pad_to_multiple
from models.terrain.solver.boundary import Extent, covered, forcing_of
from models.terrain.solver.forcing import Forcing, Inlet
from models.terrain.solver.scheme import Ground
from models.terrain.solver.subgrid import closed
from models.terrain.spec.terrains import NodataCells
from models.terrain.spec.water import Rain, Segment, Source, Water

WALL_M = 100.0  # above the highest ground and the highest held level: no water is that deep
OPEN_SLOPE, OPEN_MANNING = 1.0, 0.01  # a fall: what enters leaves with the next step


class Voids(NamedTuple):
    """The cells of a fine terrain that have no height.

    Attributes:
        missing: on the fine cells [ny, nx].
        kind: what they are to water.
    """

    missing: Bool[np.ndarray, "ny nx"]
    kind: NodataCells

    def on(self, shape: tuple[int, int]) -> Bool[Tensor, "ny nx"]:
        """Cells of this grid of which every fine cell is missing."""
        factor = -(-self.missing.shape[0] // shape[0])
        fine = pad_to_multiple(torch.from_numpy(self.missing).float(), factor)
        return mean(fine, factor) >= 1

    def applied(self, ground: Ground, forcing: Forcing) -> tuple[Ground, Forcing]:
        """Ground and forcing of a grid with these cells closed or open; inlets leave them out."""
        nowhere = self.on((ground.z.shape[1], ground.z.shape[2]))
        inlets = tuple(_beside(inlet, nowhere) for inlet in forcing.inlets)
        shaped = _walled(ground, nowhere) if self.kind == "wall" else _opened(ground, nowhere)
        return shaped, forcing._replace(inlets=inlets)


def _walled(ground: Ground, nowhere: Bool[Tensor, "ny nx"]) -> Ground:
    highest = ground.z.detach()
    if ground.subgrid is not None:
        highest = highest + ground.subgrid.storage[..., -1]
    top = float(highest[:, ~nowhere].max())
    if ground.level is not None:
        top = max(top, float(ground.level.max()))
    z = torch.where(nowhere, top + WALL_M, ground.z)
    grid = ground.subgrid
    return ground._replace(z=z, subgrid=grid and closed(grid, nowhere, top + WALL_M))


def _opened(ground: Ground, nowhere: Bool[Tensor, "ny nx"]) -> Ground:
    drain = torch.zeros_like(ground.z[:1].detach()) if ground.drain is None else ground.drain
    return ground._replace(drain=drain.masked_fill(nowhere, OPEN_SLOPE**0.5 / OPEN_MANNING))


def _beside(inlet: Inlet, nowhere: Bool[Tensor, "ny nx"]) -> Inlet:
    """The inlet without cells that have no height; the nearest that has one if none is left."""
    cells = zip(inlet.rows, inlet.columns, strict=True)
    kept = [(i, j) for i, j in cells if not bool(nowhere[i, j])]
    if not kept:
        known = torch.nonzero(~nowhere)
        centre = torch.tensor([np.mean(inlet.rows), np.mean(inlet.columns)])
        nearest = known[((known - centre) ** 2).sum(1).argmin()]
        kept = [(int(nearest[0]), int(nearest[1]))]
    rows, columns = zip(*kept, strict=True)
    return inlet._replace(rows=rows, columns=columns)


def check_water(
    water: list[Water], missing: Bool[np.ndarray, "ny nx"], extent: Extent, dx: float, run: Run
) -> None:
    """Refuse water that enters or leaves where the terrain has no height; warn where in part.

    Args:
        water: resolved items.
        missing: cells of the fine terrain without height.
        extent: of the fine terrain.
        dx: side of a cell, m.
        run: takes the warnings.

    Raises:
        SpecError: naming the item.
    """
    for index, item in enumerate(water):
        if not isinstance(item, Segment | Source):
            continue
        if isinstance(item, Source):
            inlet = forcing_of([item], extent, missing.shape, dx).inlets[0]
            cells = inlet.rows, inlet.columns
        else:
            cells = covered(item, extent, missing.shape, dx)
        lost, count = int(missing[cells].sum()), len(cells[0])
        name = f"water.{index} ({item.type})"
        if lost == count:
            raise SpecError(
                f"{name}: none of its {count} cells has a height; move it to cells that have, or"
                " choose a part of the terrain by area"
            )
        if lost:
            run.warn("water_on_nodata", f"{name}: {lost} of its {count} cells have no height")


def rain_share(
    water: list[Water],
    rain_map: Float[np.ndarray, "ny nx"] | None,
    missing: Bool[np.ndarray, "ny nx"],
) -> Float[np.ndarray, "ny nx"] | None:
    """The rain map with no rain on missing cells; as it is where no rain falls on any."""
    if not missing.any() or not any(isinstance(item, Rain) for item in water):
        return rain_map
    return np.where(missing, 0, 1 if rain_map is None else rain_map).astype(np.float32)
