"""The fused CPU engine, compiled: water that goes into the ground before a step."""

from typing import no_type_check

import numpy as np
from numba import float32

from models.terrain.solver.cpu.subgrid import cell_depth, wet_slope
from models.terrain.solver.cpu.tile import compiled, ordered


@compiled
@no_type_check
def remainder_index(layout, cell):
    """Position of a cell in ``remainder``."""
    i, j = cell // layout.nx, cell % layout.nx
    t = i // layout.tile_rows * layout.across + j // layout.tile_columns
    row = t * layout.tile_rows + i % layout.tile_rows
    return row * layout.pitch + j % layout.tile_columns


@compiled
@no_type_check
def soak(g, layout, now, dt):
    """Take from every wet cell what its ground takes up in ``dt`` s.

    A tile keeps its greatest depth of before, which only keeps it from being skipped in this step.
    """
    for t in range(layout.down * layout.across):
        if g.max_depth_bits[now, t] > 0:
            r0 = t // layout.across * layout.tile_rows
            c0 = t % layout.across * layout.tile_columns
            for i in range(r0, min(r0 + layout.tile_rows, layout.ny)):
                for j in range(c0, min(c0 + layout.tile_columns, layout.nx)):
                    soak_cell(g, layout, now, i * layout.nx + j, dt)


@ordered
@no_type_check
def soak_cell(g, layout, now, cell, dt):
    """:meth:`models.terrain.solver.soil.Soil.soak` of one cell."""
    at = now * layout.ny * layout.nx + cell
    k, h = g.conductivity[cell] * dt, np.float64(g.h[at])  # float() of a float32 is one
    carried = len(g.remainder) > 0
    index = remainder_index(layout, cell)
    if carried:
        h += g.remainder[index]
    if k <= 0 or h <= 0:
        return
    most = k
    if len(g.suction) > 0:
        head, twice = g.suction[cell] + h * g.deficit[cell], 2 * g.taken[cell] + k
        most = k * (1 + 4 * head / (np.sqrt(twice * twice + 8 * k * head) + twice))
    if layout.entries > 0:
        most /= wet_slope(g, layout, cell, g.h[at])
    amount = min(most, h)
    g.taken[cell] += amount
    g.h[at] = float32(h - amount)
    if carried:
        g.remainder[index] = float32(h - amount - np.float64(g.h[at]))
    if layout.entries > 0:
        g.d[at] = cell_depth(g, layout, cell, g.h[at])
