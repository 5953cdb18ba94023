"""The fused CPU engine, compiled: one step on the tiles of a grid.

Depth and discharge are double-buffered. A tile is skipped when it and the adjoining edges of its
neighbours have been dry for two steps: nothing can change there, and both buffers hold zeros.
"""

from typing import no_type_check

import numpy as np
from numba import float32, int32

from models.terrain.solver.cpu import tile
from models.terrain.solver.cpu.pointers import moved, pointer
from models.terrain.solver.cpu.subgrid import cells_of, depth_row, face_row, wet_slope
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
    D,
    H,
    N,
    Z,
    cap_froude,
    carried_depths,
    compiled,
    depths,
    limit_x,
    limit_y,
    load,
    outlets,
    row_max_depth_bits,
    shares,
    store,
    subgrid_cap_froude,
    subgrid_x_faces,
    subgrid_y_faces,
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
def fetch(g, layout, now, r0, c0, rows, s):
    """Copy a tile and its halo into the buffer; walls outside the grid."""
    ny, nx, r, c = layout.ny, layout.nx, r0 - TOP, c0 - LEFT
    old, dry = now * ny * nx, float32(0)
    fetch_window(pointer(g.z), 0, ny, nx, r, c, rows + 5, s, Z, WALL)
    fetch_window(pointer(g.h), old, ny, nx, r, c, rows + 5, s, H, dry)
    fetch_window(pointer(g.qx), old, ny, nx, r, c, rows + 5, s, QX, dry)
    fetch_window(pointer(g.qy), old, ny, nx, r, c, rows + 5, s, QY, dry)
    if len(g.n) > 1:
        fetch_window(pointer(g.n), 0, ny, nx, r, c, rows + 5, s, N, float32(1))
    if layout.entries > 0:
        fetch_window(pointer(g.d), old, ny, nx, r, c, rows + 5, s, D, dry)


@compiled
@no_type_check
def fetch_outlets(g, layout, r0, c0, rows, s, c):
    """Discharge through the outlets of the cells in and around a tile.

    With a subgrid the wet part of a cell, deeper by the slope of its storage, flows.
    """
    for row in range(2, rows + 4):
        i = r0 - TOP + row
        for b in range(3, STRIDE - 8):
            j = c0 - LEFT + b
            inside = 0 <= i < layout.ny and 0 <= j < layout.nx
            value = g.drain[i * layout.nx + j] if inside else float32(0)
            if value > 0 and layout.entries > 0:
                h = load(s, H + row * STRIDE + b)
                value *= float32(wet_slope(g, layout, i * layout.nx + j, h) ** (2 / 3))
            store(s, OUT + row * STRIDE + b, value)
    outlets(s, rows + 4, STRIDE - 16, c)


@compiled
@no_type_check
def faces_of_row(g, layout, s, row, width, at, ends, c):
    """New discharges right of and below a row of cells; in row 1 only below.

    ``at``: of the tile in the fields of a subgrid; ``ends``: first and last y face, first and last
    x face of the grid.
    """
    first_y, last_y, first_x, last_x = ends
    if layout.entries > 0:
        subgrid_faces_of_row(g, layout, s, row, width, at, ends, c)
        return
    if row > 1:
        x_faces(s, row, width, first_x, last_x, c)
    y_faces(s, row, width, first_y, last_y, c)
    if c.froude > 0:
        if row > 1:
            cap_froude(s, row, width, FX, 1, c)
        cap_froude(s, row, width, FY, STRIDE, c)


@compiled
@no_type_check
def subgrid_faces_of_row(g, layout, s, row, width, at, ends, c):
    """:func:`faces_of_row` with a subgrid."""
    first_y, last_y, first_x, last_x = ends
    pitch, last = layout.table_pitch, layout.entries - 1
    cells = cells_of(g)
    fields, shapes = pointer(g.face_fields), pointer(g.face_shapes)
    if row > 1:
        face_row(s, row, width, at, pitch, 1, fields, shapes, cells, last)
        subgrid_x_faces(s, row, width, first_x, last_x, c)
    y = moved(fields, 5 * cells), moved(shapes, cells * layout.entries)
    face_row(s, row, width, at, pitch, STRIDE, y[0], y[1], cells, last)
    subgrid_y_faces(s, row, width, first_y, last_y, c)
    if c.froude > 0:
        if row > 1:
            subgrid_cap_froude(s, row, width, FX, 1, c)
        subgrid_cap_froude(s, row, width, FY, STRIDE, c)


@compiled
@no_type_check
def step_tile(g, layout, s, rows, columns, table, ends, remainder, at, c):
    """The step on a fetched tile, row by row: faces, shares, limited faces, depths.

    ``at``: of the tile in ``remainder``, whose rows have ``pitch`` cells; -1: it is not carried.
    """
    faces = min((columns + 3 + 15) // 16 * 16, STRIDE - 4)
    cells = (columns + 15) // 16 * 16
    faces_of_row(g, layout, s, 1, faces, table, ends, c)
    for row in range(2, rows + 4):
        faces_of_row(g, layout, s, row, faces, table, ends, c)
        if c.limited:
            shares(s, row, faces, c)
            limit_x(s, row, faces)
            if row > 2:
                limit_y(s, row - 1, faces)
        if row > 3 and at < 0:
            depths(s, row - 1, cells, c)
        elif row > 3:
            carried_depths(s, row - 1, cells, remainder, at + (row - 4) * layout.pitch, c)


@compiled
@no_type_check
def look_up_depths(g, layout, s, rows, columns, at):
    """Depths over the lowest heights of a tile, from its new mean depths."""
    last, fields = layout.entries - 1, pointer(g.cell_fields)
    cells = cells_of(g)
    for row in range(TOP, TOP + rows):
        depth_row(s, row, columns, at, layout.table_pitch, fields, pointer(g.storage), cells, last)


@compiled
@no_type_check
def write_tile(g, layout, new, r0, c0, rows, columns, s, time, constants):
    """Write a tile's new state to the grid, with its greatest depth, wet edges and arrivals."""
    t, tile_max = (r0 // layout.tile_rows) * layout.across + c0 // layout.tile_columns, int32(0)
    left, right = False, False
    for row in range(TOP, TOP + rows):
        at = (r0 + row - TOP) * layout.nx + c0
        to, base = new * layout.ny * layout.nx + at, row * STRIDE + LEFT
        copy(s, H + base, pointer(g.h), to, columns)
        copy(s, FX + base, pointer(g.qx), to, columns)
        copy(s, FY + base, pointer(g.qy), to, columns)
        if layout.entries > 0:
            copy(s, D + base, pointer(g.d), to, columns)
        row_max = row_max_depth_bits(s, D if layout.entries > 0 else H, row, columns)
        tile_max = max(tile_max, row_max)
        left = left or load(s, H + base) > 0
        right = right or load(s, H + base + columns - 1) > 0
        if row == TOP:
            g.edge_wet[new, t, 0] = row_max > 0
        if row == TOP + rows - 1:
            g.edge_wet[new, t, 1] = row_max > 0
        if len(g.peak) > 0 and row_max > 0:
            update_peaks(g, at, base, columns, s, time, constants)
    g.edge_wet[new, t, 2], g.edge_wet[new, t, 3], g.max_depth_bits[new, t] = left, right, tile_max


@compiled
@no_type_check
def update_peaks(g, at, base, columns, s, time, constants):
    """Update the greatest depths and arrival times of a row."""
    wet = float32(constants.wet_m)
    for j in range(columns):
        h = load(s, H + base + j)
        if h > g.peak[at + j]:
            g.peak[at + j] = h
            if h > wet and g.arrival[at + j] == np.inf:
                g.arrival[at + j] = time


@compiled
@no_type_check
def is_near_water(g, layout, now, row, column):
    """Whether a tile or the adjoining edge of a neighbour holds water."""
    t = row * layout.across + column
    if g.max_depth_bits[now, t] > 0:
        return True
    edge_wet = g.edge_wet[now]
    above, below = row > 0, row < layout.down - 1
    return (
        (above and edge_wet[t - layout.across, 1] > 0)
        or (below and edge_wet[t + layout.across, 0] > 0)
        or (column > 0 and edge_wet[t - 1, 3] > 0)
        or (column < layout.across - 1 and edge_wet[t + 1, 2] > 0)
    )


@compiled
@no_type_check
def process_tile(g, layout, t, now, s, c, time, constants, raining):
    """Step one tile, unless it and its surroundings are dry."""
    row, column = t // layout.across, t % layout.across
    near = raining or is_near_water(g, layout, now, row, column)
    g.age[t] = 0 if near else g.age[t] + 1
    if g.age[t] > DRY_STEPS:  # both states hold zeros
        return
    r0, c0 = row * layout.tile_rows, column * layout.tile_columns
    rows, columns = min(layout.tile_rows, layout.ny - r0), min(layout.tile_columns, layout.nx - c0)
    fetch(g, layout, now, r0, c0, rows, s)
    if g.drains[t]:
        fetch_outlets(g, layout, r0, c0, rows, s, c)
    first_y, first_x = TOP - r0, LEFT - c0
    ends = first_y, first_y + layout.ny - 2, first_x, first_x + layout.nx - 2
    at = t * layout.tile_rows * layout.pitch if len(g.remainder) > 0 else -1
    table = r0 * layout.table_pitch + c0
    step_tile(g, layout, s, rows, columns, table, ends, pointer(g.remainder), at, c)
    if layout.entries > 0:
        look_up_depths(g, layout, s, rows, columns, table)
    write_tile(g, layout, 1 - now, r0, c0, rows, columns, s, time, constants)
    if g.drains[t]:
        g.lost[t] += lost_depth(s, rows, columns) * c.dt_dx * constants.dx * constants.dx
        _fill(s, OUT, tile.PLANE, float32(0))


@compiled
@no_type_check
def lost_depth(s, rows, columns):
    """Sum of the discharges that leave a tile through outlets, m2/s."""
    lost = 0.0
    for i in range(TOP, TOP + rows):
        for j in range(LEFT, LEFT + columns):
            k = i * STRIDE + j
            lost += float(load(s, OUT + k)) * load(s, SHARE + k)
    return lost
