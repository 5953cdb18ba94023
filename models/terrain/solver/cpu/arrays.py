"""Arrays and constants of one simulation on the fused CPU engine."""

from typing import NamedTuple

import numpy as np


class FlowArrays(NamedTuple):
    """Arrays of one simulation; all float32 fields are flat and of ny * nx cells.

    Attributes:
        z: bed.
        n: roughness; of one element where it is the same everywhere.
        drain: coefficients; of no element without outlets.
        h: two states, [2 * cells]; ``qx`` (last column 0) and ``qy`` (last row 0) too.
        qx: discharge through a cell's right face.
        qy: discharge through a cell's lower face.
        remainder: depth that rounding left over, by tile, rows padded [tiles, tile_rows, pitch];
            of no element where it is not carried.
        d: depth over the lowest heights, two states like ``h``; of no element without a subgrid.
        cell_fields: of the subgrid, see :mod:`models.terrain.solver.cpu.subgrid`; padded.
        storage: table of each cell.
        face_fields: of x faces, then of y faces.
        face_shapes: tables of x faces, then of y faces.
        rain: share of the rain a cell gets; of no element where all get 1. Of a stack one field or
            two of the piece of time, m/s.
        conductivity: of the soil, m/s; of no element where nothing goes in.
        suction: suction head times moisture deficit, m; of no element for a constant rate.
        deficit: of moisture, likewise.
        taken: depth that went into the ground, m (float64).
        peak: greatest depth so far; of no element where it is not tracked.
        arrival: s at which the depth first exceeded ``wet_m``, inf before.
        inlet_cells: flat indices of cells with inflow, rising (int64).
        inlet_gain: of these cells, m/s per unit of their series (float64).
        series: of these cells, an index into ``starts``; the rain's series is the last one. The
            weights of a stack's two fields are the last ones, that of the first at the end.
        starts: where a series begins in ``times`` and ``values``; one more at the end (int64).
        times: s, float64.
        values: float64.
        integrals: of each series from its first moment to these times (float64).
        held: flat indices of cells with a held level (int64).
        level: of these cells, m.
        level_series: of these cells, an index into ``starts``; -1 where the level is constant.
        held_tiles: tiles with such cells (int64).
        drains: of each tile, whether a cell in it or next to it has an outlet.
        max_depth_bits: of both states, bits of a tile's greatest depth [2, tiles] (int32).
        edge_wet: whether its upper, lower, left, right edge cells hold water [2, tiles, 4].
        age: of each tile, steps since it and its neighbours' edges became dry.
        lost: m3 that left through outlets, by tile (float64).
        clock: t, steps, m3 entered, m3 left by held levels, index of the current state (float64).
        work: tile buffers, one per thread [threads, BUFFER].
    """

    z: np.ndarray
    n: np.ndarray
    drain: np.ndarray
    h: np.ndarray
    qx: np.ndarray
    qy: np.ndarray
    remainder: np.ndarray
    d: np.ndarray
    cell_fields: np.ndarray
    storage: np.ndarray
    face_fields: np.ndarray
    face_shapes: np.ndarray
    rain: np.ndarray
    conductivity: np.ndarray
    suction: np.ndarray
    deficit: np.ndarray
    taken: np.ndarray
    peak: np.ndarray
    arrival: np.ndarray
    inlet_cells: np.ndarray
    inlet_gain: np.ndarray
    series: np.ndarray
    starts: np.ndarray
    times: np.ndarray
    values: np.ndarray
    integrals: np.ndarray
    held: np.ndarray
    level: np.ndarray
    level_series: np.ndarray
    held_tiles: np.ndarray
    drains: np.ndarray
    max_depth_bits: np.ndarray
    edge_wet: np.ndarray
    age: np.ndarray
    lost: np.ndarray
    clock: np.ndarray
    work: np.ndarray


class TileLayout(NamedTuple):
    """Sizes of a grid: cells, cells of a tile, tiles.

    ``pitch``: padded columns of a tile; ``table_pitch``: padded columns of the grid in the fields
    of a subgrid; ``entries`` of its tables, 0 without a subgrid.
    """

    ny: int
    nx: int
    tile_rows: int
    tile_columns: int
    down: int
    across: int
    pitch: int
    table_pitch: int
    entries: int


class SchemeConstants(NamedTuple):
    """Constants of the scheme and of a run, in float64; ``rain_most``: greatest share of rain."""

    dx: float
    gravity: float
    theta: float
    eps: float
    h_dry: float
    froude: float
    limited: bool
    courant: float
    reference_cfl: bool
    h_floor: float
    dt_cap: float
    wet_m: float
    rain_most: float


class StepConstants(NamedTuple):
    """Constants of one step that the row kernels use, in float32."""

    g_dt_dx: float
    g_dt_4: float
    dt_dx: float
    dt_rain: float
    theta: float
    rest: float
    eps: float
    h_dry: float
    froude: float
    gravity: float
    limited: bool
