"""The fused CPU engine, compiled: greatest speeds and hazards of the wet cells."""

from typing import no_type_check

import numpy as np
from numba import float32

from models.terrain.solver.cpu.compile_cache import cached
from models.terrain.solver.cpu.tile import from_bits
from models.terrain.solver.maxima import HAZARD_M_S


@no_type_check
def _track(g, layout, wet_m, dt, speed, discharge, hazard, wet_s):
    """As :meth:`models.terrain.solver.maxima.Maxima.update`, on the current state.

    Args:
        g: arrays of the flood.
        layout: sizes of the grid; tiles without a wet cell are left out.
        wet_m: depth from which a cell counts, m.
        dt: s since the last look.
        speed: greatest so far, m/s [ny, nx].
        discharge: m2/s.
        hazard: m2/s.
        wet_s: time wet, s.
    """
    now, nx = int(g.clock[4]), layout.nx
    start = now * layout.ny * nx
    for t in range(layout.down * layout.across):
        if from_bits(g.max_depth_bits[now, t]) <= wet_m:
            continue
        r0, c0 = t // layout.across * layout.tile_rows, t % layout.across * layout.tile_columns
        for i in range(r0, min(r0 + layout.tile_rows, layout.ny)):
            for j in range(c0, min(c0 + layout.tile_columns, nx)):
                at = start + i * nx + j
                h = g.h[at]
                if h <= wet_m:
                    continue
                along = g.qx[at] + (g.qx[at - 1] if j > 0 else float32(0))
                across = g.qy[at] + (g.qy[at - nx] if i > 0 else float32(0))
                q = np.sqrt(along * along + across * across) * float32(0.5)
                wet_s[i, j] += dt
                speed[i, j] = max(speed[i, j], q / h)
                discharge[i, j] = max(discharge[i, j], q)
                hazard[i, j] = max(hazard[i, j], q + float32(HAZARD_M_S) * h)


track = cached(_track)
