"""The fused CPU engine, compiled: the loop over time steps; inflow, clock, tapes."""

from typing import no_type_check

import numpy as np
from numba import float32, int32, prange

from models.terrain.solver.cpu import tile
from models.terrain.solver.cpu.arrays import StepConstants
from models.terrain.solver.cpu.compile_cache import cached
from models.terrain.solver.cpu.pointers import pointer
from models.terrain.solver.cpu.soil import remainder_index, soak
from models.terrain.solver.cpu.step import copy, process_tile
from models.terrain.solver.cpu.subgrid import cell_depth, mean_depth_over
from models.terrain.solver.cpu.tile import compiled, from_bits

DONE, STEP_LIMIT, UNSTABLE = 0, 1, 2  # reasons why the loop ended
DEEPEST_M = 1e5
STEP_SLACK = 1e-9  # relative: a shorter remainder is added to the last step


@compiled
@no_type_check
def max_depth(g, now):
    """Greatest depth of a state, m."""
    most = int32(0)
    for t in range(g.max_depth_bits.shape[1]):
        most = max(most, g.max_depth_bits[now, t])
    return float(from_bits(most))


@compiled
@no_type_check
def last_moment(g, k, t):
    """Position of the last moment of series k at or before time t; the first before it."""
    a, b = g.starts[k], g.starts[k + 1]
    while b - a > 1:
        middle = (a + b) // 2
        if g.times[middle] <= t:
            a = middle
        else:
            b = middle
    return a


@compiled
@no_type_check
def interpolate(g, k, t):
    """Value of series k at time t."""
    i = last_moment(g, k, t)
    if t <= g.times[i] or i + 1 == g.starts[k + 1]:
        return g.values[i]
    share = (t - g.times[i]) / (g.times[i + 1] - g.times[i])
    return g.values[i] + share * (g.values[i + 1] - g.values[i])


@compiled
@no_type_check
def integral(g, k, t):
    """Of series k from its first moment to time t."""
    i = last_moment(g, k, t)
    return g.integrals[i] + (t - g.times[i]) * (g.values[i] + interpolate(g, k, t)) / 2


@compiled
@no_type_check
def mean_value(g, k, t, dt):
    """Mean of series k from t to t + dt."""
    i = last_moment(g, k, t)
    if t >= g.times[i] and i == last_moment(g, k, t + dt):
        return interpolate(g, k, t + dt / 2)
    return (integral(g, k, t + dt) - integral(g, k, t)) / dt


@compiled
@no_type_check
def step_for(depth, m):
    """The stable step for water of this greatest depth, s."""
    h = max(depth, m.h_floor)
    dt = m.courant * m.dx
    dt = dt / (m.gravity + h) if m.reference_cfl else dt / np.sqrt(m.gravity * h)
    return min(dt, m.dt_cap)


@compiled
@no_type_check
def highest_rate(g, k, t, dt):
    """The larger value of series k at the beginning and in the middle of a step."""
    return max(interpolate(g, k, t), interpolate(g, k, t + dt / 2))


@compiled
@no_type_check
def count_fields(g, layout):
    """Number of rain series: 2 while the rain changes from one field to another, else 1."""
    return 2 if len(g.rain) > layout.ny * layout.nx else 1


@compiled
@no_type_check
def depth_after(g, layout, start, depth, t, dt, m):
    """Greatest depth after the inflow and rain of a step of ``dt`` s if nothing flows, m.

    ``start``: of the present state in ``g.h``; ``depth``: its greatest. The entries of a cell with
    several inlets follow each other. Rain counts as if the deepest cell were level.
    """
    most, h, before, last, rate = depth, 0.0, -1, -1, 0.0
    for k in range(len(g.inlet_cells)):
        if g.series[k] != last:
            last = g.series[k]
            rate = highest_rate(g, last, t, dt)
        cell = g.inlet_cells[k]
        h = (h if cell == before else float(g.h[start + cell])) + dt * g.inlet_gain[k] * rate
        most, before = max(most, cell_depth(g, layout, cell, h)), cell
    rain = 0.0
    for k in range(count_fields(g, layout)):
        rain += highest_rate(g, len(g.starts) - 2 - k, t, dt)
    return most + dt * m.rain_most * rain


@compiled
@no_type_check
def next_dt(g, layout, start, depth, t, until, m):
    """The stable step, the inflow within it counted as depth, cut so that it ends at ``until``."""
    dt = step_for(depth_after(g, layout, start, depth, t, step_for(depth, m), m), m)
    return until - t if dt >= (until - t) * (1 - STEP_SLACK) else dt


@compiled
@no_type_check
def water_depth(g, layout, now, cell):
    """Depth of a cell over its bed or lowest height, after its mean depth was changed."""
    at = now * layout.ny * layout.nx + cell
    if layout.entries == 0:
        return g.h[at]
    g.d[at] = cell_depth(g, layout, cell, g.h[at])
    return g.d[at]


@compiled
@no_type_check
def mark_wet(g, layout, cell, now, time, m):
    """Update the flags and peaks of a cell's tile after water was added to the cell."""
    t = cell // layout.nx // layout.tile_rows * layout.across
    t += cell % layout.nx // layout.tile_columns
    h = g.h[now * layout.ny * layout.nx + cell]
    depth = water_depth(g, layout, now, cell)
    g.max_depth_bits[now, t] = max(g.max_depth_bits[now, t], tile.bits(depth))
    if h > 0:
        g.edge_wet[now, t, :] = 1
    if len(g.peak) > 0 and h > g.peak[cell]:
        g.peak[cell] = h
        if h > float32(m.wet_m) and g.arrival[cell] == np.inf:
            g.arrival[cell] = time


@compiled
@no_type_check
def add_water(g, at, k, rise, m):
    """Raise a depth, ``at`` in ``g.h`` and ``k`` in ``g.remainder``.

    What rounding leaves over is carried, and with the limiter on what lies below zero: so much may
    be owed by a cell that was emptied that a drop does not wet it.
    """
    depth = float(g.h[at]) + rise
    if len(g.remainder) == 0:
        g.h[at] = float32(depth)
        return
    depth += float(g.remainder[k])
    g.h[at] = float32(0) if m.limited and depth < 0 else float32(depth)
    g.remainder[k] = float32(depth - float(g.h[at]))


@compiled
@no_type_check
def hold_level(g, layout, now, k, time, m):
    """Set the k-th held cell to its level; it gives water or takes it, by the sign."""
    cell = g.held[k]
    at = now * layout.ny * layout.nx + cell
    level = g.level[k]
    if g.level_series[k] >= 0:
        level = float32(interpolate(g, g.level_series[k], time))
    depth = mean_depth_over(g, layout, cell, level - g.z[cell])
    before = np.float64(g.h[at])  # float() of a float32 is one
    if len(g.remainder) > 0:
        before += g.remainder[remainder_index(layout, cell)]
        g.remainder[remainder_index(layout, cell)] = 0
    taken = (before - float(depth)) * m.dx * m.dx
    g.clock[3 if taken > 0 else 2] += abs(taken)
    g.h[at] = depth


@compiled
@no_type_check
def apply_forcing(g, layout, now, time, dt, m):
    """Inflow and held levels, on the new state."""
    last, rate = -1, 0.0
    for k in range(len(g.inlet_cells)):
        if g.series[k] != last:
            last = g.series[k]
            rate = mean_value(g, last, time - dt, dt)
        rise = dt * g.inlet_gain[k] * rate
        cell = g.inlet_cells[k]
        at = now * layout.ny * layout.nx + cell
        add_water(g, at, remainder_index(layout, cell), rise, m)
        g.clock[2] += rise * m.dx * m.dx
        mark_wet(g, layout, cell, now, time, m)
    for k in range(len(g.held)):
        hold_level(g, layout, now, k, time, m)
        mark_wet(g, layout, g.held[k], now, time, m)
    for t in g.held_tiles:  # a held level can lower the deepest cell
        g.max_depth_bits[now, t] = tile_max_depth_bits(g, layout, now, t)


@compiled
@no_type_check
def tile_max_depth_bits(g, layout, now, t):
    """Bits of a tile's greatest depth, from its cells, whose mean depths may have changed."""
    r0 = t // layout.across * layout.tile_rows
    c0 = t % layout.across * layout.tile_columns
    most = int32(0)
    for i in range(r0, min(r0 + layout.tile_rows, layout.ny)):
        for j in range(c0, min(c0 + layout.tile_columns, layout.nx)):
            most = max(most, tile.bits(water_depth(g, layout, now, i * layout.nx + j)))
    return most


@compiled
@no_type_check
def apply_rain_fields(g, layout, now, t, dt, m):
    """The rain of a step that differs from cell to cell, by one call: inlined, it is large."""
    for k in range(count_fields(g, layout)):
        rain = mean_value(g, len(g.starts) - 2 - k, t, dt)
        if rain > 0:
            apply_rain_map(g, layout, now, k * layout.ny * layout.nx, dt * rain, t + dt, m)


@compiled
@no_type_check
def apply_rain_map(g, layout, now, first, rise, time, m):
    """Rain that differs from cell to cell, by the field that begins at ``first`` of ``g.rain``.

    ``rise``: m where the field is 1.
    """
    total = 0.0
    for t in range(layout.down * layout.across):
        total += rain_on_tile(g, layout, now, t, first, rise, time, m)
    g.clock[2] += total * m.dx * m.dx


@compiled
@no_type_check
def rain_on_tile(g, layout, now, t, first, rise, time, m):
    """Mapped rain on a tile, its flags and peaks; the sum of the depths added, m."""
    r0, c0 = t // layout.across * layout.tile_rows, t % layout.across * layout.tile_columns
    columns = min(layout.tile_columns, layout.nx - c0)
    total, start = 0.0, now * layout.ny * layout.nx
    for i in range(r0, min(r0 + layout.tile_rows, layout.ny)):
        k = (t * layout.tile_rows + i - r0) * layout.pitch
        cell = i * layout.nx + c0
        for j in range(columns):
            share = float(g.rain[first + cell + j]) * rise
            total += share
            add_water(g, start + cell + j, k + j, share, m)
    if total > 0:
        mark_wet_tile(g, layout, t, now, time, m)
    return total


@compiled
@no_type_check
def mark_wet_tile(g, layout, t, now, time, m):
    """Update the flags and peaks of a tile after water was added to its cells."""
    r0, c0 = t // layout.across * layout.tile_rows, t % layout.across * layout.tile_columns
    columns = min(layout.tile_columns, layout.nx - c0)
    g.max_depth_bits[now, t] = tile_max_depth_bits(g, layout, now, t)
    g.edge_wet[now, t, :] = 1
    if len(g.peak) == 0:
        return
    for i in range(r0, min(r0 + layout.tile_rows, layout.ny)):
        for cell in range(i * layout.nx + c0, i * layout.nx + c0 + columns):
            h = g.h[now * layout.ny * layout.nx + cell]
            if h > g.peak[cell]:
                g.peak[cell] = h
                if h > float32(m.wet_m) and g.arrival[cell] == np.inf:
                    g.arrival[cell] = time


@compiled
@no_type_check
def step_constants(dt, rain, m):
    """Constants of a step in float32."""
    return StepConstants(
        float32(m.gravity * dt / m.dx), float32(m.gravity * dt / 4), float32(dt / m.dx),
        float32(dt * rain), float32(m.theta), float32((1 - m.theta) / 2), float32(m.eps),
        float32(m.h_dry), float32(m.froude), float32(m.gravity), m.limited,
    )  # fmt: skip


@no_type_check
def _advance(g, layout, m, until, max_steps):
    """Step to time ``until``, at most ``max_steps`` steps; ``g.clock`` holds the time reached."""
    tiles, threads = layout.down * layout.across, len(g.work)
    last = g.clock[1] + max_steps
    while g.clock[0] < until:
        if g.clock[1] >= last:
            return STEP_LIMIT
        depth = max_depth(g, int(g.clock[4]))
        if not depth < DEEPEST_M:
            return UNSTABLE
        t, now = g.clock[0], int(g.clock[4])
        dt = next_dt(g, layout, now * layout.ny * layout.nx, depth, t, until, m)
        everywhere = mean_value(g, len(g.starts) - 2, t, dt) if len(g.rain) == 0 else 0.0
        if len(g.conductivity) > 0:
            soak(g, layout, now, dt)
        for k in prange(threads):
            c = step_constants(dt, everywhere, m)
            for index in range(k, tiles, threads):
                process_tile(
                    g, layout, index, now, pointer(g.work[k]), c, t + dt, m, everywhere > 0
                )
        if len(g.rain) > 0:
            apply_rain_fields(g, layout, 1 - now, t, dt, m)
        apply_forcing(g, layout, 1 - now, t + dt, dt, m)
        g.clock[2] += dt * everywhere * m.dx * m.dx * layout.ny * layout.nx
        g.clock[0] = until if dt == until - t else t + dt
        g.clock[1] += 1
        g.clock[4] = 1 - now
    return DONE if max_depth(g, int(g.clock[4])) < DEEPEST_M else UNSTABLE


@no_type_check
def _record(g, layout, m, until, max_steps, tape, dts):
    """Step like ``_advance`` and record the state before each step on a tape.

    Args:
        g: arrays of the flood.
        layout: sizes of the grid.
        m: constants of the scheme.
        until: target time, s.
        max_steps: at most the length of the tape.
        tape: [steps, 3, cells], out: h, qx and qy before each step.
        dts: [steps], out: s.
    """
    cells, why = layout.ny * layout.nx, STEP_LIMIT
    for k in range(max_steps):
        at, before = int(g.clock[4]) * cells, g.clock[0]
        copy(pointer(g.h), at, pointer(tape), 3 * k * cells, cells)
        copy(pointer(g.qx), at, pointer(tape), (3 * k + 1) * cells, cells)
        copy(pointer(g.qy), at, pointer(tape), (3 * k + 2) * cells, cells)
        why = advance_alone(g, layout, m, until, np.int64(1))  # a literal has code of its own
        dts[k] = g.clock[0] - before
        if why != STEP_LIMIT:
            return why
    return why


advance_alone = cached(_advance)
advance_together = cached(_advance, "together", parallel=True)
record = cached(_record)
