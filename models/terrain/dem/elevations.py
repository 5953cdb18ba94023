"""Heights of a terrain with what tells where they are."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from rasterio import Affine

from models.terrain.solver.subgrid import SubgridTerrain

NODATA = -9999.0


class Elevation(NamedTuple):
    """A terrain.

    Attributes:
        z: heights in m, float32, nodata filled from the nearest known cell.
        missing: nodata cells.
        dx: side of a cell in m.
        crs: of the raster, or None.
        transform: from (column, row) to coordinates; a grid in metres if the file has none.
        name: for messages and titles.
        notes: sentences about what was converted or assumed when it was read.
        georeferenced: whether the file tells its coordinates.
        subgrid: tables of the fine heights that ``z`` is the mean of; None: the cells are level.
    """

    z: Float[np.ndarray, "ny nx"]
    missing: Bool[np.ndarray, "ny nx"]
    dx: float
    crs: Any
    transform: Affine
    name: str
    notes: tuple[str, ...] = ()
    georeferenced: bool = False
    subgrid: SubgridTerrain | None = None

    def bed_under(self, h: Float[np.ndarray, "ny nx"]) -> Float[np.ndarray, "ny nx"]:
        """Heights in m to which depths ``h`` in m are added for levels: ``z`` without a subgrid."""
        return self.z if self.subgrid is None else self.subgrid.bed_under(h)
