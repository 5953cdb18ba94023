"""Arrays and numbers of one simulation on the fused CPU engine."""

from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Arrays of one simulation; all float32 fields are flat and of ny * nx cells.

    Attributes:
        z: bed.
        n: roughness; of one element where it is the same everywhere.
        drain: coefficients; of no element without outlets.
        h: two states, [2 * cells]; ``qx`` (last column 0) and ``qy`` (last row 0) too.
        qx: discharge through a cell's right face.
        qy: discharge through a cell's lower face.
        rain: share of the rain a cell gets; of no element where all get 1.
        peak: greatest depth so far; of no element where nobody asks.
        arrival: s at which the depth first exceeded ``wet_m``, inf before.
        at: flat indices of cells with inflow (int64); ``gain``: m/s there per unit of its series.
        gain: float64.
        series: of each such cell, an index into ``starts``; the rain's series is the last one.
        starts: where a series begins in ``times`` and ``values``; one more at the end (int64).
        times: s, float64.
        values: float64.
        held: flat indices of cells with a held level (int64).
        level: of these cells, m.
        held_tiles: tiles with such cells (int64).
        drains: of each tile, whether a cell in or beside it has an outlet.
        deep: of both states, of each tile, bits of its greatest depth [2, tiles] (int32).
        rims: whether its upper, lower, left, right rim holds water [2, tiles, 4].
        age: of each tile, steps since it was dry all around.
        lost: m3 that left through outlets, by tile (float64).
        clock: t, steps, m3 entered, m3 left by held levels, index of the present state (float64).
        work: buffers of the tile, one a thread [threads, BUFFER].
    """

    z: np.ndarray
    n: np.ndarray
    drain: np.ndarray
    h: np.ndarray
    qx: np.ndarray
    qy: np.ndarray
    rain: np.ndarray
    peak: np.ndarray
    arrival: np.ndarray
    at: np.ndarray
    gain: np.ndarray
    series: np.ndarray
    starts: np.ndarray
    times: np.ndarray
    values: np.ndarray
    held: np.ndarray
    level: np.ndarray
    held_tiles: np.ndarray
    drains: np.ndarray
    deep: np.ndarray
    rims: np.ndarray
    age: np.ndarray
    lost: np.ndarray
    clock: np.ndarray
    work: np.ndarray


class Shape(NamedTuple):
    """Integers of a grid: cells, tiles, size of a tile."""

    ny: int
    nx: int
    tile_rows: int
    tile_columns: int
    down: int
    across: int


class Numbers(NamedTuple):
    """Constants of the scheme, and of a run, in float64."""

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


class Step(NamedTuple):
    """What the rows of a tile need to know of a step, in float32."""

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
