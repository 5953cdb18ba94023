"""One step of the flood on a GPU: the Triton kernels of :mod:`models.terrain.solver.gpu.engine`.

Imported only if a GPU is present. Fields are padded by walls (bed at 1e6 m, no water), so that no
load needs a mask. Each face is computed twice, once for either cell, without the limiter; tiles
with a cell that would lose more water than it has are queued and computed again with the limiter.
A step without such cells is one pass over memory: four loads and three stores per cell, and one of
each for what rounding left over, unless a tape is recorded.
"""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.terrain.solver.gpu.fluxes import (
    add,
    any_of,
    around,
    cell_offsets,
    outlet,
    supply,
    tile_max_depth,
    x_face,
    y_face,
)


@triton.jit
def enqueue(marks, queue, t, flag):
    """Append a tile once to the queue of tiles to recompute; ``queue[0]`` is its length."""
    if flag:
        if tl.atomic_xchg(marks + t, 1) == 0:
            tl.store(queue + 1 + tl.atomic_add(queue, 1), t)


@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def step_tiles(  # noqa: C901  # one program
    old,  # [3, b, rows, pitch] depth and discharges before the step
    new,  # the same after it
    remainder,  # [b, rows, pitch] depth that rounding left over, before the step
    remainder_new,  # the same after it
    z,  # [b, rows, pitch] bed
    n,  # roughness: a map, or one number
    drain,  # [b, rows, pitch] coefficients of outlets
    drains,  # [b, tiles] whether a tile or its neighbour has any
    deepest,  # [b, tiles] out: greatest depth
    awake,  # [b, tiles] 0: tile and surroundings are dry, both states are zero there
    shares,  # [b, rows, pitch] out, in the tiles marked in ``short``: share of the limiter
    short,  # [b, tiles] out
    marks,  # [b, tiles] out: tile is in the queue
    queue,  # out: number of tiles to recompute, then the tiles
    lost,  # [b, tiles] m3 through outlets, float64
    peak,  # [b, rows, pitch] greatest depth so far
    arrival,  # [b, rows, pitch] s
    dts,  # [b] s, float64
    rains,  # [b] m/s, float64
    times,  # [b] s, before the step
    constants,  # float64: dx, gravity, theta, eps, h_dry, wet_m, ...
    plane, rows, pitch, left, pad, ny, nx, down, across, backwards,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr, LOG: tl.constexpr,
    DRAIN: tl.constexpr, CARRY: tl.constexpr, LIMITED: tl.constexpr, LAZY: tl.constexpr,
    PEAKS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Faces and depths of one tile; queues the tiles that need the limiter."""
    if ALIGNED:  # a thread can then process four neighbouring cells
        pitch, left = tl.multiple_of(pitch, 32), tl.multiple_of(left, 32)
    program, b = tl.program_id(0), tl.program_id(1)
    program = tl.where(backwards != 0, down * across - 1 - program, program)
    t = b * down * across + program
    dt, rain = tl.load(dts + b), tl.load(rains + b)
    busy = True
    if LAZY:
        busy = tl.load(awake + t) != 0
    if busy:
        dx, gravity = tl.load(constants), tl.load(constants + 1)
        theta = tl.load(constants + 2).to(tl.float32)
        eps, h_dry = tl.load(constants + 3).to(tl.float32), tl.load(constants + 4).to(tl.float32)
        rest = (1.0 - theta) * 0.5
        g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
        dt_dx, dt_rain = (dt / dx).to(tl.float32), (dt * rain).to(tl.float32)
        i, j, o = cell_offsets(program, b, rows, pitch, left, pad, across, BY, BX)
        east, west, south, north, h = around(
            z, old, old + plane, old + 2 * plane, n, o, i, j, ny, nx, pitch,
            g_dt, g_dt_dx, theta, rest, eps, h_dry, ROUGH, LOG,
        )  # fmt: skip
        if PEAKS:
            wet_m, now = tl.load(constants + 5).to(tl.float32), tl.load(times + b).to(tl.float32)
            tl.store(peak + o, tl.maximum(tl.load(peak + o), h))
            first = tl.load(arrival + o)
            tl.store(arrival + o, tl.where((h > wet_m) & (first == float("inf")), now, first))
        out = tl.zeros_like(h)
        if DRAIN:
            if tl.load(drains + t) != 0:
                out = outlet(drain, o, h, h_dry)
        share = supply(east, west, south, north, out, h, dt_dx)
        gone = out
        if LIMITED:
            gone = out * share
        if DRAIN:
            if tl.load(drains + t) != 0:
                leaves = tl.sum(tl.sum(gone.to(tl.float64), 1), 0) * dt * dx
                tl.store(lost + t, tl.load(lost + t) + leaves)
        inside = (i < ny) & (j < nx)
        added = tl.where(inside, dt_rain, 0.0)
        added -= dt_dx * (((east - west) + (south - north)) + gone)
        if CARRY:
            added += tl.load(remainder + o)
        depth, left_over = add(h, added, LIMITED)
        if CARRY:
            tl.store(remainder_new + o, left_over)
        if dt == 0.0:  # the sample is at its target time
            east, south = tl.load(old + plane + o), tl.load(old + 2 * plane + o)
        tl.store(new + o, depth)
        tl.store(new + plane + o, east)
        tl.store(new + 2 * plane + o, south)
        tl.store(deepest + t, tile_max_depth(depth))
        if LIMITED:
            lacks = (share < 1.0).to(tl.int32)
            some = any_of(lacks)
            tl.store(short + t, some)
            if some > 0:
                tl.store(shares + o, share)
                row, column = program // across, program % across
                last_i, last_j = row * BY + BY - 1, column * BX + BX - 1
                enqueue(marks, queue, t, True)
                up = any_of(tl.where(i == row * BY, lacks, 0)) > 0
                enqueue(marks, queue, t - across, (row > 0) & up)
                low = any_of(tl.where(i == last_i, lacks, 0)) > 0
                enqueue(marks, queue, t + across, (row < down - 1) & low)
                before = any_of(tl.where(j == column * BX, lacks, 0)) > 0
                enqueue(marks, queue, t - 1, (column > 0) & before)
                after = any_of(tl.where(j == last_j, lacks, 0)) > 0
                enqueue(marks, queue, t + 1, (column < across - 1) & after)


@triton.jit
def share_of(
    shares, short, o, first, i, j, down, across, BY: tl.constexpr, BX: tl.constexpr
):  # fmt: skip
    """Shares at ``o``; 1 in tiles where no cell lacks water, and outside the grid."""
    row, column = i // BY, j // BX
    there = (i >= 0) & (j >= 0) & (row < down) & (column < across)
    lacking = tl.load(short + first + row * across + column, there, 0)
    return tl.load(shares + o, lacking != 0, 1.0)


@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def limit_tiles(
    old, new, remainder, remainder_new, z, n, drain, drains, deepest, shares, short, marks, queue,
    dts, rains, constants,
    plane, rows, pitch, left, pad, ny, nx, down, across,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr, LOG: tl.constexpr,
    DRAIN: tl.constexpr, CARRY: tl.constexpr,
):  # fmt: skip
    """Recompute the queued tiles with the shares of their cells and of the cells around them.

    A tile reads the unlimited discharges of its own right and lower faces from the new state, which
    no other program reads. The faces of its left and upper neighbours may already be limited there,
    so they are computed again.
    """
    tiles, dx, gravity = down * across, tl.load(constants), tl.load(constants + 1)
    theta = tl.load(constants + 2).to(tl.float32)
    eps, h_dry = tl.load(constants + 3).to(tl.float32), tl.load(constants + 4).to(tl.float32)
    rest = (1.0 - theta) * 0.5
    for queue_index in range(tl.program_id(0), tl.load(queue), tl.num_programs(0)):
        t = tl.load(queue + 1 + queue_index)
        tl.store(marks + t, 0)
        b, first = t // tiles, t // tiles * tiles
        dt = tl.load(dts + b)
        g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
        dt_dx, dt_rain = (dt / dx).to(tl.float32), (dt * tl.load(rains + b)).to(tl.float32)
        i, j, o = cell_offsets(t % tiles, b, rows, pitch, left, pad, across, BY, BX)
        h, qx, qy = tl.load(old + o), old + plane, old + 2 * plane
        out = tl.zeros_like(h)
        if DRAIN:
            if tl.load(drains + t) != 0:
                out = outlet(drain, o, h, h_dry)
        share = share_of(shares, short, o, first, i, j, down, across, BY, BX)
        right = share_of(shares, short, o + 1, first, i, j + 1, down, across, BY, BX)
        before = share_of(shares, short, o - 1, first, i, j - 1, down, across, BY, BX)
        below = share_of(shares, short, o + pitch, first, i + 1, j, down, across, BY, BX)
        above = share_of(shares, short, o - pitch, first, i - 1, j, down, across, BY, BX)
        east, south = tl.load(new + plane + o), tl.load(new + 2 * plane + o)
        west = x_face(
            z, old, qx, qy, n, o - 1, j - 1, nx, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
            ROUGH, LOG,
        )  # fmt: skip
        north = y_face(
            z, old, qx, qy, n, o - pitch, i - 1, ny, pitch, g_dt, g_dt_dx, theta, rest, eps,
            h_dry, ROUGH, LOG,
        )  # fmt: skip
        east = east * tl.where(east > 0, share, right)
        west = west * tl.where(west > 0, before, share)
        south = south * tl.where(south > 0, share, below)
        north = north * tl.where(north > 0, above, share)
        inside = (i < ny) & (j < nx)
        added = tl.where(inside, dt_rain, 0.0)
        added -= dt_dx * (((east - west) + (south - north)) + out * share)
        if CARRY:
            added += tl.load(remainder + o)
        depth, left_over = add(h, added, True)
        if CARRY:
            tl.store(remainder_new + o, left_over)
        tl.store(new + o, depth)
        tl.store(new + plane + o, east)
        tl.store(new + 2 * plane + o, south)
        tl.store(deepest + t, tile_max_depth(depth))
