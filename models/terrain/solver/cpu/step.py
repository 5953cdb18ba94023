"""The fused CPU engine, compiled: one step on the tiles of a grid.

Two copies of depth and discharge take turns as old and new state. A tile is left alone when it and
the rim of its neighbours have been dry for two steps: nothing can change there, and both copies
hold zeros.
"""

from typing import no_type_check

import numpy as np
from numba import float32, int32

from models.terrain.solver.cpu import tile
from models.terrain.solver.cpu.pointers import pointer
from models.terrain.solver.cpu.tile import (
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
    limit_x,
    limit_y,
    load,
    outlets,
    shares,
    store,
    x_faces,
    y_faces,
)  # fmt: skip

DRY_STEPS = 2


@compiled
@no_type_check
def copy(source, at, target, to, count):
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
            copy(source, start + i * nx + left, s, to + left - c0, count)


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
        copy(s, H + base, pointer(g.h), to, columns)
        copy(s, FX + base, pointer(g.qx), to, columns)
        copy(s, FY + base, pointer(g.qy), to, columns)
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
