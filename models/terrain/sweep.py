"""The fused CPU engine, compiled: steps over all wet tiles until a time, without returning.

Two copies of depth and discharge take turns as old and new state. A tile is left alone when it and
the rim of its neighbours have been dry for two steps: nothing can change there, and both copies
hold zeros.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from numba import float32, int32, prange

from models.terrain import tile
from models.terrain.cache import cached
from models.terrain.tile import (
    FX,
    FY,
    LEFT,
    OUT,
    QX,
    QY,
    SHARE,
    STRIDE,
    TOP,
    WALL,
    H,
    N,
    Z,
    cap,
    compiled,
    deepest,
    depths,
    from_bits,
    limit_x,
    limit_y,
    load,
    outlets,
    shares,
    store,
    x_faces,
    y_faces,
)  # fmt: skip
from models.terrain.vectors import pointer

DONE, ASKED, UNSTABLE = 0, 1, 2  # why a sweep ended
DEEPEST_M = 1e5
NEARLY = 1e-9
DRY_STEPS = 2


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


@compiled
@no_type_check
def _copy(source, at, target, to, count):
    for j in range(count):
        store(target, to + j, load(source, at + j))


@compiled
@no_type_check
def _fill(s, to, count, value):
    for j in range(count):
        store(s, to + j, value)


@compiled
@no_type_check
def fetch_window(source, start, ny, nx, r0, c0, rows, s, plane, outside):
    """Copy ``rows`` rows of a field from cell (r0, c0) on into a plane; ``outside`` beyond it."""
    left = max(c0, 0)
    count = min(c0 + STRIDE, nx) - left
    for row in range(rows):
        i, to = r0 + row, plane + row * STRIDE
        if i < 0 or i >= ny or count < STRIDE:
            _fill(s, to, STRIDE, outside)
        if 0 <= i < ny:
            _copy(source, start + i * nx + left, s, to + left - c0, count)


@compiled
@no_type_check
def fetch(g, shape, now, r0, c0, rows, s):
    """Copy a tile and its surroundings into the buffer; walls outside of the grid."""
    ny, nx, r, c = shape.ny, shape.nx, r0 - TOP, c0 - LEFT
    old, dry = now * ny * nx, float32(0)
    fetch_window(pointer(g.z), 0, ny, nx, r, c, rows + 5, s, Z, WALL)
    fetch_window(pointer(g.h), old, ny, nx, r, c, rows + 5, s, H, dry)
    fetch_window(pointer(g.qx), old, ny, nx, r, c, rows + 5, s, QX, dry)
    fetch_window(pointer(g.qy), old, ny, nx, r, c, rows + 5, s, QY, dry)
    if len(g.n) > 1:
        fetch_window(pointer(g.n), 0, ny, nx, r, c, rows + 5, s, N, float32(1))


@compiled
@no_type_check
def fetch_outlets(g, shape, r0, c0, rows, s, c):
    """Discharge through the outlets of the cells in and around a tile."""
    for row in range(2, rows + 4):
        i = r0 - TOP + row
        for b in range(3, STRIDE - 8):
            j = c0 - LEFT + b
            inside = 0 <= i < shape.ny and 0 <= j < shape.nx
            value = g.drain[i * shape.nx + j] if inside else float32(0)
            store(s, OUT + row * STRIDE + b, value)
    outlets(s, rows + 4, STRIDE - 16, c)


@compiled
@no_type_check
def work_tile(s, rows, columns, first_y, last_y, first_x, last_x, c):
    """The step on a fetched tile: faces, shares, limited faces, depths, a row after the other."""
    faces = min((columns + 3 + 15) // 16 * 16, STRIDE - 4)
    cells = (columns + 15) // 16 * 16
    y_faces(s, 1, faces, first_y, last_y, c)
    if c.froude > 0:
        cap(s, 1, faces, FY, STRIDE, c)
    for row in range(2, rows + 4):
        x_faces(s, row, faces, first_x, last_x, c)
        y_faces(s, row, faces, first_y, last_y, c)
        if c.froude > 0:
            cap(s, row, faces, FX, 1, c)
            cap(s, row, faces, FY, STRIDE, c)
        if c.limited:
            shares(s, row, faces, c)
            limit_x(s, row, faces)
            if row > 2:
                limit_y(s, row - 1, faces)
        if row > 3:
            depths(s, row - 1, cells, c)


@compiled
@no_type_check
def keep(g, shape, new, r0, c0, rows, columns, s, time, numbers):
    """Copy a tile's new state out, with its greatest depth, rims and arrivals."""
    t, deep = (r0 // shape.tile_rows) * shape.across + c0 // shape.tile_columns, int32(0)
    left, right = False, False
    for row in range(TOP, TOP + rows):
        at = (r0 + row - TOP) * shape.nx + c0
        to, base = new * shape.ny * shape.nx + at, row * STRIDE + LEFT
        _copy(s, H + base, pointer(g.h), to, columns)
        _copy(s, FX + base, pointer(g.qx), to, columns)
        _copy(s, FY + base, pointer(g.qy), to, columns)
        most = deepest(s, row, columns)
        deep = max(deep, most)
        left = left or load(s, H + base) > 0
        right = right or load(s, H + base + columns - 1) > 0
        if row == TOP:
            g.rims[new, t, 0] = most > 0
        if row == TOP + rows - 1:
            g.rims[new, t, 1] = most > 0
        if len(g.peak) > 0 and most > 0:
            note(g, at, base, columns, s, time, numbers)
    g.rims[new, t, 2], g.rims[new, t, 3], g.deep[new, t] = left, right, deep


@compiled
@no_type_check
def note(g, at, base, columns, s, time, numbers):
    """Greatest depths and times of arrival of a row."""
    wet = float32(numbers.wet_m)
    for j in range(columns):
        h = load(s, H + base + j)
        if h > g.peak[at + j]:
            g.peak[at + j] = h
            if h > wet and g.arrival[at + j] == np.inf:
                g.arrival[at + j] = time


@compiled
@no_type_check
def is_near_water(g, shape, now, row, column):
    """Whether a tile or the adjoining rim of a neighbour holds water."""
    t = row * shape.across + column
    if g.deep[now, t] > 0:
        return True
    rims = g.rims[now]
    above, below = row > 0, row < shape.down - 1
    return (
        (above and rims[t - shape.across, 1] > 0)
        or (below and rims[t + shape.across, 0] > 0)
        or (column > 0 and rims[t - 1, 3] > 0)
        or (column < shape.across - 1 and rims[t + 1, 2] > 0)
    )


@compiled
@no_type_check
def do_tile(g, shape, t, now, s, c, time, numbers, raining):
    """One tile, unless it is dry all around."""
    row, column = t // shape.across, t % shape.across
    near = raining or is_near_water(g, shape, now, row, column)
    g.age[t] = 0 if near else g.age[t] + 1
    if g.age[t] > DRY_STEPS:  # both states hold zeros
        return
    r0, c0 = row * shape.tile_rows, column * shape.tile_columns
    rows, columns = min(shape.tile_rows, shape.ny - r0), min(shape.tile_columns, shape.nx - c0)
    fetch(g, shape, now, r0, c0, rows, s)
    if g.drains[t]:
        fetch_outlets(g, shape, r0, c0, rows, s, c)
    first_y, first_x = TOP - r0, LEFT - c0
    last_y, last_x = first_y + shape.ny - 2, first_x + shape.nx - 2
    work_tile(s, rows, columns, first_y, last_y, first_x, last_x, c)
    keep(g, shape, 1 - now, r0, c0, rows, columns, s, time, numbers)
    if g.drains[t]:
        g.lost[t] += lost_depth(s, rows, columns) * c.dt_dx * numbers.dx * numbers.dx
        _fill(s, OUT, tile.PLANE, float32(0))


@compiled
@no_type_check
def lost_depth(s, rows, columns):
    """Sum of what leaves a tile through outlets, m2/s."""
    lost = 0.0
    for i in range(TOP, TOP + rows):
        for j in range(LEFT, LEFT + columns):
            k = i * STRIDE + j
            lost += float(load(s, OUT + k)) * load(s, SHARE + k)
    return lost


@compiled
@no_type_check
def deepest_of(g, now):
    """Greatest depth of a state, m."""
    most = int32(0)
    for t in range(g.deep.shape[1]):
        most = max(most, g.deep[now, t])
    return float(from_bits(most))


@compiled
@no_type_check
def interpolate(g, k, t):
    """Value of series k at time t."""
    a, b = g.starts[k], g.starts[k + 1]
    if t <= g.times[a] or b - a == 1:
        return g.values[a]
    for i in range(a + 1, b):
        if t <= g.times[i]:
            share = (t - g.times[i - 1]) / (g.times[i] - g.times[i - 1])
            return g.values[i - 1] + share * (g.values[i] - g.values[i - 1])
    return g.values[b - 1]


@compiled
@no_type_check
def next_dt(deep, t, until, m):
    """The stable step, cut to land on the asked time."""
    h = max(deep, m.h_floor)
    dt = m.courant * m.dx
    dt = dt / (m.gravity + h) if m.reference_cfl else dt / np.sqrt(m.gravity * h)
    dt = min(dt, m.dt_cap)
    return until - t if dt >= (until - t) * (1 - NEARLY) else dt


@compiled
@no_type_check
def touch(g, shape, cell, now, time, m):
    """Tell the tile of a cell, and its peak, that water was put there."""
    t = cell // shape.nx // shape.tile_rows * shape.across
    t += cell % shape.nx // shape.tile_columns
    h = g.h[now * shape.ny * shape.nx + cell]
    g.deep[now, t] = max(g.deep[now, t], tile.bits(h))
    if h > 0:
        g.rims[now, t, :] = 1
    if len(g.peak) > 0 and h > g.peak[cell]:
        g.peak[cell] = h
        if h > float32(m.wet_m) and g.arrival[cell] == np.inf:
            g.arrival[cell] = time


@compiled
@no_type_check
def feed(g, shape, now, time, dt, m):
    """Inflow, mapped rain and held levels, on the new state."""
    cells = shape.ny * shape.nx
    for k in range(len(g.at)):
        rise = dt * g.gain[k] * interpolate(g, g.series[k], time - dt / 2)
        g.h[now * cells + g.at[k]] += float32(rise)
        g.clock[2] += rise * m.dx * m.dx
        touch(g, shape, g.at[k], now, time, m)
    for k in range(len(g.held)):
        cell = g.held[k]
        depth = max(g.level[k] - g.z[cell], float32(0))
        g.clock[3] += (float(g.h[now * cells + cell]) - depth) * m.dx * m.dx
        g.h[now * cells + cell] = depth
        touch(g, shape, cell, now, time, m)
    for t in g.held_tiles:  # a held level may have lowered the deepest cell
        g.deep[now, t] = rescan(g, shape, now, t)


@compiled
@no_type_check
def rescan(g, shape, now, t):
    """Bits of a tile's greatest depth."""
    r0 = t // shape.across * shape.tile_rows
    c0 = t % shape.across * shape.tile_columns
    most = int32(0)
    for i in range(r0, min(r0 + shape.tile_rows, shape.ny)):
        start = (now * shape.ny + i) * shape.nx
        for j in range(c0, min(c0 + shape.tile_columns, shape.nx)):
            most = max(most, tile.bits(g.h[start + j]))
    return most


@compiled
@no_type_check
def rain_by_map(g, shape, now, rise, time, m):
    """Rain that differs from cell to cell."""
    total = 0.0
    for cell in range(shape.ny * shape.nx):
        share = g.rain[cell] * float32(rise)
        g.h[now * shape.ny * shape.nx + cell] += share
        total += share
        if share > 0:
            touch(g, shape, cell, now, time, m)
    g.clock[2] += total * m.dx * m.dx


@compiled
@no_type_check
def constants(dt, rain, m):
    """The numbers of a step in float32."""
    return Step(
        float32(m.gravity * dt / m.dx), float32(m.gravity * dt / 4), float32(dt / m.dx),
        float32(dt * rain), float32(m.theta), float32((1 - m.theta) / 2), float32(m.eps),
        float32(m.h_dry), float32(m.froude), float32(m.gravity), m.limited,
    )  # fmt: skip


@no_type_check
def _advance(g, shape, m, until, max_steps):
    """Step to time ``until`` or ``max_steps`` further; the clock tells how far it came."""
    tiles, threads = shape.down * shape.across, len(g.work)
    last = g.clock[1] + max_steps
    while g.clock[0] < until:
        if g.clock[1] >= last:
            return ASKED
        deep = deepest_of(g, int(g.clock[4]))
        if not deep < DEEPEST_M:
            return UNSTABLE
        t, now = g.clock[0], int(g.clock[4])
        dt = next_dt(deep, t, until, m)
        rain = interpolate(g, len(g.starts) - 2, t + dt / 2)
        everywhere = rain if len(g.rain) == 0 else 0.0
        for k in prange(threads):
            c = constants(dt, everywhere, m)
            for index in range(k, tiles, threads):
                do_tile(g, shape, index, now, pointer(g.work[k]), c, t + dt, m, everywhere > 0)
        if len(g.rain) > 0 and rain > 0:
            rain_by_map(g, shape, 1 - now, dt * rain, t + dt, m)
        feed(g, shape, 1 - now, t + dt, dt, m)
        g.clock[2] += dt * everywhere * m.dx * m.dx * shape.ny * shape.nx
        g.clock[0] = until if dt == until - t else t + dt
        g.clock[1] += 1
        g.clock[4] = 1 - now
    return DONE if deepest_of(g, int(g.clock[4])) < DEEPEST_M else UNSTABLE


@no_type_check
def _record(g, shape, m, until, max_steps, tape, dts):
    """Steps like ``_advance`` that leave the state before each of them on the tape.

    Args:
        g: the arrays.
        shape: of the grid.
        m: constants.
        until: s.
        max_steps: no more than the tape holds.
        tape: [steps, 3, cells], h, qx and qy before each step.
        dts: [steps], s.
    """
    cells, why = shape.ny * shape.nx, ASKED
    for k in range(max_steps):
        at, before = int(g.clock[4]) * cells, g.clock[0]
        _copy(pointer(g.h), at, pointer(tape), 3 * k * cells, cells)
        _copy(pointer(g.qx), at, pointer(tape), (3 * k + 1) * cells, cells)
        _copy(pointer(g.qy), at, pointer(tape), (3 * k + 2) * cells, cells)
        why = advance_alone(g, shape, m, until, 1)
        dts[k] = g.clock[0] - before
        if why != ASKED:
            return why
    return why


advance_alone = cached(_advance)
advance_together = cached(_advance, "together", parallel=True)
record = cached(_record)
