"""The water of a spec, given in metres, on the cells of a grid of any resolution."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.core.errors import SpecError
from models.terrain.solver.forcing import Forcing, HeldLevel, Inlet, Series, constant
from models.terrain.solver.scheme import Ground, Physics, authors_physics
from models.terrain.spec.solver import Solver
from models.terrain.spec.water import (
    Edge,
    Inflow,
    Level,
    Outflow,
    Rain,
    Segment,
    Source,
    Valley,
    Water,
)

M_PER_S = 1 / 3.6e6  # of a millimetre an hour
OPPOSITE: dict[Edge, Edge] = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
Cells = tuple[tuple[int, ...], tuple[int, ...]]  # rows, columns


class Extent(NamedTuple):
    """Size of the fine terrain in metres; coarse grids may reach a little beyond it."""

    height: float
    width: float

    def along(self, edge: Edge) -> float:
        """Length of an edge."""
        return self.height if edge in ("left", "right") else self.width


def resolve_water(water: list[Water], z: np.ndarray, missing: np.ndarray, dx: float) -> list[Water]:
    """Replace items that depend on the terrain by plain segments, so that all grids agree.

    Args:
        water: items of a spec.
        z: heights of the fine terrain [ny, nx], m.
        missing: its nodata cells [ny, nx].
        dx: side of a cell, m.

    Raises:
        SpecError: if a segment or a source is off the terrain.
    """
    extent = Extent(z.shape[0] * dx, z.shape[1] * dx)
    resolved: list[Water] = []
    for item in water:
        resolved += _valley(item, z, missing, dx, extent) if isinstance(item, Valley) else [item]
    for index, item in enumerate(resolved):
        _check(item, extent, f"water.{min(index, len(water) - 1)}")
    return resolved


def _valley(
    item: Valley, z: np.ndarray, missing: np.ndarray, dx: float, extent: Extent
) -> list[Water]:
    """Outflow at the lowest border cell, inflow at the middle of the opposite edge."""
    heights = np.where(missing, np.inf, z)
    border_heights: dict[Edge, np.ndarray] = {
        "left": heights[:, 0], "right": heights[:, -1], "top": heights[0], "bottom": heights[-1],
    }  # fmt: skip
    edge = min(border_heights, key=lambda name: float(border_heights[name].min()))
    centre_m = (int(border_heights[edge].argmin()) + 0.5) * dx
    half, end = item.length_m / 2, extent.along(edge)
    centre_m = min(max(centre_m, half), max(end - half, half))
    return [
        Inflow(
            type="inflow",
            edge=OPPOSITE[edge],
            length_m=item.length_m,
            discharge_m3_s=item.discharge_m3_s,
        ),
        Outflow(
            type="outflow", edge=edge, centre_m=centre_m, length_m=item.length_m, slope=item.slope
        ),
    ]


def _check(item: Water, extent: Extent, field: str) -> None:
    if isinstance(item, Source):
        x, y = item.centre_m
        if x > extent.width or y > extent.height:
            raise SpecError(
                f"{field}: ({x:g}, {y:g}) m is off the terrain of {extent.width:g} x "
                f"{extent.height:g} m"
            )
    if isinstance(item, Segment):
        low, high = _span(item, extent)
        end = extent.along(item.edge)
        if low < -1e-6 * end or high > end * (1 + 1e-6):
            raise SpecError(
                f"{field}: the segment from {low:g} to {high:g} m is off the {item.edge} edge, "
                f"which has {end:g} m: move centre_m or lower length_m"
            )


def _span(item: Segment, extent: Extent) -> tuple[float, float]:
    """Start and end of a segment along its edge in metres."""
    end = extent.along(item.edge)
    length = end if item.length_m is None else item.length_m
    centre = end / 2 if item.centre_m is None else item.centre_m
    return centre - length / 2, centre + length / 2


def covered(item: Segment, extent: Extent, shape: tuple[int, int], dx: float) -> Cells:
    """Cells of the edge whose centre lies in the segment; at least the cell at its centre.

    Args:
        item: the segment.
        extent: of the fine terrain.
        shape: rows and columns of the grid.
        dx: side of a cell, m.
    """
    low, high = _span(item, extent)
    count = shape[0] if item.edge in ("left", "right") else shape[1]
    centres = (np.arange(count) + 0.5) * dx
    along = np.flatnonzero((centres > low) & (centres < high))
    if len(along) == 0:
        along = np.array([min(int((low + high) / 2 / dx), count - 1)])
    fixed = 0 if item.edge in ("left", "top") else -1
    across = np.full(len(along), fixed % (shape[1] if item.edge in ("left", "right") else shape[0]))
    pair = (along, across) if item.edge in ("left", "right") else (across, along)
    return tuple(pair[0].tolist()), tuple(pair[1].tolist())


def _disc(item: Source, shape: tuple[int, int], dx: float) -> Cells:
    rows, columns = (np.arange(shape[0]) + 0.5) * dx, (np.arange(shape[1]) + 0.5) * dx
    x, y = item.centre_m
    distance = np.hypot(rows[:, None] - y, columns[None] - x)
    inside = distance <= max(item.radius_m, float(distance.min()))
    i, j = np.nonzero(inside if item.radius_m > 0 else distance == distance.min())
    keep = slice(None) if item.radius_m > 0 else slice(1)
    return tuple(i[keep].tolist()), tuple(j[keep].tolist())


def _series(
    item: Inflow | Source | Rain | Level, value: float | None, scale: float = 1.0
) -> Series:
    """The series of an item, or its constant value; nothing or its first value before it."""
    if item.series is None:
        return constant((value or 0.0) * scale)
    moments = item.series if isinstance(item.series, list) else []  # datasets are read before
    times = [moment.time_s for moment in moments]
    values = [moment.value * scale for moment in moments]
    if item.before == "nothing" and times[0] > 0:
        times, values = [math.nextafter(times[0], 0.0), *times], [0.0, *values]
    return Series(tuple(times), tuple(values))


def forcing_of(
    water: list[Water], extent: Extent, shape: tuple[int, int], dx: float, datum: float = 0.0
) -> Forcing:
    """The inflow and rain of a grid, and its levels that change.

    Args:
        water: resolved items.
        extent: of the fine terrain.
        shape: rows and columns of the grid.
        dx: side of a cell, m.
        datum: of levels, m.

    Raises:
        SpecError: if there is more than one rain.
    """
    inlets, levels = [], []
    rains = [item for item in water if isinstance(item, Rain)]
    if len(rains) > 1:
        raise SpecError("water: more than one rain; give one with a series")
    for item in water:
        if isinstance(item, Inflow):
            cells = covered(item, extent, shape, dx)
            inlets.append(Inlet(_series(item, item.discharge_m3_s), *cells))
        elif isinstance(item, Source):
            cells = _disc(item, shape, dx)
            inlets.append(Inlet(_series(item, item.discharge_m3_s), *cells))
        elif isinstance(item, Level) and item.series is not None:
            times, heights = _series(item, None)
            above = Series(times, tuple(height - datum for height in heights))
            levels.append(HeldLevel(above, *covered(item, extent, shape, dx)))
    uniform = rains and rains[0].stack is None  # a stack is read beside the other maps
    rain = _series(rains[0], rains[0].mm_per_h, M_PER_S) if uniform else None
    return Forcing(tuple(inlets), rain, levels=tuple(levels))


def ground_of(
    z: Tensor,
    datum: float,
    water: list[Water],
    extent: Extent,
    dx: float,
    solver: Solver,
    manning: Tensor | None = None,
) -> Ground:
    """A bed with its outlets and held levels.

    Args:
        z: bed in m above ``datum`` [b, ny, nx].
        datum: m.
        water: resolved items.
        extent: of the fine terrain.
        dx: side of a cell, m.
        solver: for the roughness.
        manning: roughness of each cell [ny, nx], s/m^(1/3); None: the solver's everywhere.
    """
    shape = (z.shape[1], z.shape[2])
    drain = level = None
    for item in water:
        if isinstance(item, Outflow):
            drain = torch.zeros(1, *shape) if drain is None else drain
            rows, columns = (list(cells) for cells in covered(item, extent, shape, dx))
            rough = solver.manning if manning is None else manning[rows, columns]
            drain[0, rows, columns] += item.slope**0.5 / rough
        elif isinstance(item, Level):
            level = torch.full((1, *shape), -torch.inf) if level is None else level
            rows, columns = (list(cells) for cells in covered(item, extent, shape, dx))
            level[0, rows, columns] = _series(item, item.level_m).values[0] - datum
    return Ground(
        z,
        solver.manning if manning is None else manning[None],
        dx,
        None if drain is None else drain.to(z),
        None if level is None else level.to(z),
    )


def physics_of(solver: Solver, *, coarse: bool = False) -> Physics:
    """Constants of the scheme; the time step assumes a depth of at least 0.01 m, coarse 0.1 m."""
    floor = 0.1 if coarse else 0.01
    if solver.reference_mode:
        return authors_physics(floor)._replace(theta=solver.own_weight, alpha=solver.courant)
    return Physics(
        theta=solver.own_weight,
        alpha=solver.courant,
        h_dry=solver.h_dry_m,
        limiter=solver.limiter,
        froude=solver.froude,
        h_floor=floor,
    )
