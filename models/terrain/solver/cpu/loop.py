"""The fused CPU engine, compiled: steps until a time, without returning; inflow, clock, tapes."""

from typing import no_type_check

import numpy as np
from numba import float32, int32, prange

from models.terrain.solver.cpu import tile
from models.terrain.solver.cpu.arrays import Step
from models.terrain.solver.cpu.compile_cache import cached
from models.terrain.solver.cpu.pointers import pointer
from models.terrain.solver.cpu.step import copy, do_tile
from models.terrain.solver.cpu.tile import compiled, from_bits

DONE, ASKED, UNSTABLE = 0, 1, 2  # why stepping ended
DEEPEST_M = 1e5
NEARLY = 1e-9


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
        copy(pointer(g.h), at, pointer(tape), 3 * k * cells, cells)
        copy(pointer(g.qx), at, pointer(tape), (3 * k + 1) * cells, cells)
        copy(pointer(g.qy), at, pointer(tape), (3 * k + 2) * cells, cells)
        why = advance_alone(g, shape, m, until, 1)
        dts[k] = g.clock[0] - before
        if why != ASKED:
            return why
    return why


advance_alone = cached(_advance)
advance_together = cached(_advance, "together", parallel=True)
record = cached(_record)
