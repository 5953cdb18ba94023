"""The ground that a spec describes, on the fine cells of its terrain."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from models.core.run import Run
from models.terrain.dem.elevations import Elevation
from models.terrain.dem.rasters import map_on
from models.terrain.solver.rain_stack import M_PER_S, Pooling
from models.terrain.solver.soil import Soil
from models.terrain.spec.infiltration import RATE_MM_H, GreenAmpt, Infiltration

MOST = {"suction_head_m": 10.0, "moisture_deficit": 1.0}


class FineSoil(NamedTuple):
    """The ground on the fine cells.

    Attributes:
        conductivity: m/s [ny, nx], 0 where the terrain has no height.
        suction: suction head times deficit, m; None: a constant rate.
        deficit: share of the volume.
    """

    conductivity: Float[np.ndarray, "ny nx"]
    suction: Float[np.ndarray, "ny nx"] | None
    deficit: Float[np.ndarray, "ny nx"] | None

    def on(self, pooled: Pooling) -> Soil:
        """Its means on a grid, with nothing taken up."""
        rate = pooled(self.conductivity).float()
        if self.suction is None or self.deficit is None:
            return Soil(rate)
        return Soil(rate, pooled(self.suction).float(), pooled(self.deficit).float())


def soil_of(spec: Infiltration | None, fine: Elevation, run: Run) -> FineSoil | None:
    """What a spec says about the ground; None: nothing goes in.

    Args:
        spec: of the infiltration.
        fine: the terrain.
        run: gives access to the maps.

    Raises:
        SpecError: if a map is of other cells or out of range.
        DataError: if a map cannot be used.
    """
    if spec is None:
        return None
    values = [_quantity(spec, *names, fine, run) for names in spec.quantities]
    rate = np.where(fine.missing, 0, values[0] * M_PER_S)
    if not isinstance(spec, GreenAmpt):
        return FineSoil(rate, None, None)
    return FineSoil(rate, values[1] * values[2], values[2])


def _quantity(
    spec: Any, number: str, on_cells: str, fine: Elevation, run: Run
) -> Float[np.ndarray, "ny nx"]:
    """A number or a map on the fine cells."""
    ref = getattr(spec, on_cells)
    if ref is None:
        return np.full(fine.z.shape, getattr(spec, number), np.float64)
    most = MOST.get(number, RATE_MM_H)
    return map_on(fine, ref, run, f"infiltration.{on_cells}", 0.0, most).astype(np.float64)
