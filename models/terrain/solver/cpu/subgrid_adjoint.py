"""The derivative of a step on a subgrid, compiled: tiles of the adjoint, tables of the step.

With respect to the state before the step and to what is learned of each face,
:class:`models.terrain.solver.subgrid.FaceChange`, at the tables that the flood has: a change on
top of one that is in them already is 0 here.
"""

from typing import NamedTuple, no_type_check

import numpy as np
from numba import float32

from models.terrain.solver.cpu.adjoint import (
    BUFFER,
    COLUMNS,
    FACE_X,
    FACE_Y,
    G_CROSS,
    G_NUM,
    G_OWN,
    G_W_LEFT,
    G_W_RIGHT,
    G_Z_LEFT,
    G_Z_RIGHT,
    GH,
    GH_CELL,
    GQX,
    GQY,
    LEFT,
    ROWS,
    TOP,
    fetch_tile,
    gather_discharges,
    level_backward,
    limiter_backward,
    momentum_backward,
    rows_backward,
    store_face,
    write_row,
)
from models.terrain.solver.cpu.compile_cache import cached
from models.terrain.solver.cpu.loop import step_constants
from models.terrain.solver.cpu.pointers import (
    bits,
    load_constant,
    load_shorts,
    moved,
    pointer,
    square_root,
)
from models.terrain.solver.cpu.subgrid import UNIT, depth_of, face_entry, friction_of
from models.terrain.solver.cpu.tile import (
    FLOW_X,
    FLOW_Y,
    FRICTION_X,
    FRICTION_Y,
    FX,
    FY,
    ONE,
    OUT,
    PLANE,
    STRIDE,
    TWO,
    ZERO,
    D,
    H,
    N,
    Z,
    compiled,
    inlined,
    load,
    outlets,
    rows_of_faces,
    store,
    subgrid_shape,
)
from models.terrain.solver.cpu.tile import LEFT as STEP_LEFT
from models.terrain.solver.cpu.tile import TOP as STEP_TOP
from models.terrain.solver.subgrid import BLEND_M

G_SHIFT, G_FILM, G_DEEP = G_Z_RIGHT, G_Z_LEFT, G_Z_LEFT + PLANE
LEVEL_SLOPE = BUFFER  # of cells, then of faces three planes each:
SLOPES_X, SLOPES_Y = BUFFER + PLANE, BUFFER + 4 * PLANE
DEPTH_SLOPE, FRICTION_SLOPE, FILM = 0, PLANE, 2 * PLANE
SUBGRID_BUFFER = BUFFER + 7 * PLANE
BLEND, TWO_THIRDS = float32(BLEND_M), float32(2 / 3)


class GroundArrays(NamedTuple):
    """Of :class:`models.terrain.solver.cpu.arrays.FlowArrays` what a backward pass reads."""

    z: np.ndarray
    n: np.ndarray
    drain: np.ndarray
    held: np.ndarray
    cell_fields: np.ndarray
    storage: np.ndarray
    face_fields: np.ndarray
    face_shapes: np.ndarray


# d = low + (high - low) (x - k^2) / (2 k + 1),  x = h last^2 / full:  dd/dh, 1 under water
@compiled
@no_type_check
def depth_row(s, row, width, p0, fields, storage, cells, last):
    """Depths over the lowest heights of a row of cells, and their slopes by the mean depth."""
    base = row * STRIDE + 2
    for j in range(width):
        h, p = load(s, H + base + j), p0 + j
        per_depth = load_constant(fields, p)
        x = h * per_depth
        i = float32(int(min(square_root(max(ZERO, x)), float32(last - 1))))
        entries = load_shorts(storage, p * (last + 1) + int(i))
        low, high = float32(entries & 0xFFFF), float32((entries >> 16) & 0xFFFF)
        full, rise = load_constant(fields, cells + p), load_constant(fields, 2 * cells + p)
        whole = UNIT * (full + rise)
        steep = (high - low) / (TWO * i + ONE)
        partly = h < full
        store(s, D + base + j, (low + steep * (x - i * i)) * whole if partly else h + rise)
        store(s, LEVEL_SLOPE + base + j, steep * per_depth * whole if partly else ONE)


# Tables: hb and phi are linear in the level, hb at least level - mean,
#   above the table phi = far - fall / hb^2
# Changes: level - shift for level,  phi_k exp(film (1 - w_k) + deep w_k),  1 - w = b / (hb_k + b)
# FILM: dlog phi/dfilm, which is 1 - dlog phi/ddeep
@inlined
@no_type_check
def slopes_at(level, fields, shapes, p, cells, last):
    """Flow depth and friction of face p, their slopes by the level (of log friction), FILM."""
    k, share, above = face_entry(level, fields, p, cells, last)
    entry = p * (last + 1) + k
    word, following = bits(load_constant(shapes, entry)), bits(load_constant(shapes, entry + 1))
    low, high = depth_of(word), depth_of(following)
    rough, next_rough = friction_of(word), friction_of(following)
    per_m = load_constant(fields, cells + p)
    linear, mean = low + (high - low) * share, level - load_constant(fields, 2 * cells + p)
    depth = max(linear, mean)
    safe = depth if above else ONE
    fall = load_constant(fields, 4 * cells + p) / (safe * safe)
    thin, next_thin = BLEND / (low + BLEND), BLEND / (high + BLEND)
    within = rough + (next_rough - rough) * share
    friction = load_constant(fields, 3 * cells + p) - fall if above else within
    by_level = TWO * fall / safe if above else (next_rough - rough) * per_m
    film = rough * thin + (next_rough * next_thin - rough * thin) * share
    return (
        depth,
        friction,
        ONE if mean > linear else (high - low) * per_m,
        by_level / friction,
        next_thin if above else film / within,
    )


@compiled
@no_type_check
def slopes_row(s, row, width, p0, next_cell, fields, shapes, cells, last):
    """Look up the faces of a row of cells: to the right, or below with ``next_cell`` of a row."""
    base = row * STRIDE + 2
    flow = FLOW_X if next_cell == 1 else FLOW_Y
    friction = FRICTION_X if next_cell == 1 else FRICTION_Y
    slopes = SLOPES_X if next_cell == 1 else SLOPES_Y
    for j in range(width):
        a = base + j
        b = a + next_cell
        level = max(load(s, Z + a) + load(s, D + a), load(s, Z + b) + load(s, D + b))
        shape = slopes_at(level, fields, shapes, p0 + j, cells, last)
        store(s, flow + a, shape[0])
        store(s, friction + a, shape[1])
        store(s, slopes + DEPTH_SLOPE + a, shape[2])
        store(s, slopes + FRICTION_SLOPE + a, shape[3])
        store(s, slopes + FILM + a, shape[4])


x_faces, y_faces = rows_of_faces(store_face, subgrid_shape)


# level = max(wa, wb) - shift:
#   dL/dlevel = dL/dhf dhf/dlevel + dL/dlog r dlog phi/dlevel = -dL/dshift
#   dL/dfilm = FILM dL/dlog r,  dL/ddeep = (1 - FILM) dL/dlog r
@inlined
@no_type_check
def _face_backward(s, a, b, own, crossing, q, g, to, saved, c):
    """Derivatives through the face between cells a and b, into its planes from ``to`` on."""
    shape = subgrid_shape(s, FX if to == FACE_X else FY, a, b)
    n, k = load(s, N + a) + load(s, N + b), to + a
    by = momentum_backward(s, shape, n, own, crossing, q, g, saved + a, c)
    g_num, g_own, g_cross, g_hf, g_fall, g_log_r = by
    slopes = (SLOPES_X if to == FACE_X else SLOPES_Y) + a
    g_level = g_hf * load(s, slopes + DEPTH_SLOPE) + g_log_r * load(s, slopes + FRICTION_SLOPE)
    film = g_log_r * load(s, slopes + FILM)
    store(s, k + G_NUM, g_num)
    store(s, k + G_OWN, g_own)
    store(s, k + G_CROSS, g_cross)
    level_backward(s, shape[2], g_level, g_fall, k)
    store(s, k + G_SHIFT, -g_level)
    store(s, k + G_FILM, film)
    store(s, k + G_DEEP, g_log_r - film)


x_faces_backward, y_faces_backward = rows_backward(_face_backward)


# dL/dh = GH_CELL + dd/dh (sum of G_W)
@compiled
@no_type_check
def gather_depths(s, row, columns):
    """Derivatives with respect to a row of old mean depths, into GH."""
    base = row * STRIDE + LEFT
    for j in range(columns):
        k, x = base + j, FACE_X + base + j
        y = FACE_Y + k
        w = load(s, x + G_W_RIGHT - 1) + load(s, x + G_W_LEFT)
        w += load(s, y + G_W_RIGHT - STRIDE) + load(s, y + G_W_LEFT)
        store(s, GH + k, load(s, GH_CELL + k) + w * load(s, LEVEL_SLOPE + k))


@compiled
@no_type_check
def widen_outlets(s, rows, width):
    """Outlet coefficients times what the wet part of a cell is deeper, to 2/3."""
    for row in range(2, rows - 1):
        for k in range(row * STRIDE + 3, row * STRIDE + 3 + width):
            if load(s, OUT + k) > ZERO:
                store(s, OUT + k, load(s, OUT + k) * load(s, LEVEL_SLOPE + k) ** TWO_THIRDS)


@compiled
@no_type_check
def look_up_row(g, layout, s, row, width, at):
    """Tables of the faces right of and below a row of cells; ``at``: of the row's cell 2."""
    last, cells = layout.entries - 1, len(g.cell_fields) // 3
    fields, shapes = pointer(g.face_fields), pointer(g.face_shapes)
    slopes_row(s, row, width, at, 1, fields, shapes, cells, last)
    fields, shapes = moved(fields, 5 * cells), moved(shapes, cells * layout.entries)
    slopes_row(s, row, width, at, STRIDE, fields, shapes, cells, last)


@compiled
@no_type_check
def row_at(layout, r0, c0, row):
    """Index in the padded fields of cell 2 of a row of a tile's window.

    The window begins a row above the padding, where no face is open: that row is the next one's.
    """
    return max(r0 - TOP + row + STEP_TOP, 1) * layout.table_pitch + c0 - LEFT + 2 + STEP_LEFT


@compiled
@no_type_check
def write_rows(s, grads, changes, new, to, base, sizes):
    """Copy a gathered row of a tile out; what is learned is added up."""
    columns, cells = sizes
    for k, plane in ((0, GH), (1, GQX), (2, GQY)):
        write_row(s, pointer(grads), new + k * cells, (plane + base, columns), False)
    for k, plane in ((0, FACE_X), (3, FACE_Y)):
        for j in range(3):
            at = plane + G_SHIFT + j * PLANE + base
            write_row(s, pointer(changes), to + (k + j) * cells, (at, columns), True)


@compiled
@no_type_check
def tile_backward(g, layout, tape, at, grads, old, changes, r0, c0, s, c):
    """One tile, as :func:`models.terrain.solver.cpu.adjoint.tile_backward` does it."""
    ny, nx = layout.ny, layout.nx
    rows, columns, cells = min(ROWS, ny - r0), min(COLUMNS, nx - c0), ny * nx
    height, width = rows + 10, (columns + 9 + 15) // 16 * 16
    fetch_tile(g, layout, tape, at, grads, old, r0 - TOP, c0 - LEFT, height, s)
    fields, storage, padded = pointer(g.cell_fields), pointer(g.storage), len(g.cell_fields) // 3
    for row in range(1, height):
        first = row_at(layout, r0, c0, row)
        depth_row(s, row, width + 2, first, fields, storage, padded, layout.entries - 1)
    if len(g.drain) > 0:
        widen_outlets(s, height, width)
        outlets(s, height, width, c)
    first_y, first_x = TOP - r0, LEFT - c0
    last_y, last_x = first_y + ny - 2, first_x + nx - 2
    for row in range(1, TOP + rows + 2):
        look_up_row(g, layout, s, row, width, row_at(layout, r0, c0, row))
        x_faces(s, row, width, first_x, last_x, c)
        y_faces(s, row, width, first_y, last_y, c)
        if row > 1:
            limiter_backward(s, row, width, c)
            x_faces_backward(s, row, width, c)
        if row > 2:
            y_faces_backward(s, row - 1, width, c)
        done = row - 2
        if done >= TOP:
            gather_depths(s, done, columns)
            gather_discharges(s, done, columns, first_y, last_y, first_x, last_x, c)
            to, base = (r0 + done - TOP) * nx + c0, done * STRIDE + LEFT
            write_rows(s, grads, changes, 3 * (1 - old) * cells + to, to, base, (columns, cells))


@no_type_check
def _subgrid_backward_steps(g, layout, m, tape, dts, steps, grads, changes, work):
    """Backward pass over several steps, last first.

    The depth of a held level does not depend on what is learned.

    Args:
        g: :class:`GroundArrays`.
        layout: sizes of the grid.
        m: constants of the scheme.
        tape: [steps, 3, cells], the states before the steps.
        dts: [steps], s.
        steps: number of steps.
        grads: [2, 3, cells], with respect to h, qx, qy; input and result are in the first.
        changes: [6, cells], by shift, film and deep of the x faces, then of the y faces; added to.
        work: buffer of ``SUBGRID_BUFFER`` floats.
    """
    s, cells, old = pointer(work), layout.ny * layout.nx, 0
    for k in range(steps - 1, -1, -1):
        c = step_constants(dts[k], 0.0, m)
        for cell in g.held:
            grads[3 * old * cells + cell] = 0
        for r0 in range(0, layout.ny, ROWS):
            for c0 in range(0, layout.nx, COLUMNS):
                tile_backward(g, layout, tape, k, grads, old, changes, r0, c0, s, c)
        old = 1 - old
    if old == 1:
        for i in range(3 * cells):
            grads[i] = grads[3 * cells + i]


backward_steps = cached(_subgrid_backward_steps)
