"""The derivative of a step on the CPU, compiled: ``models/terrain/solver/adjoint.py`` tile by tile.

A tile's window holds the state before the step and the derivatives by the state after it; faces
and shares are worked out again, then each cell gathers what depends on it.
"""

from typing import no_type_check

from numba import float32

from models.terrain.solver.cpu.compile_cache import cached
from models.terrain.solver.cpu.loop import constants
from models.terrain.solver.cpu.pointers import load, pointer, store
from models.terrain.solver.cpu.step import fetch_window
from models.terrain.solver.cpu.tile import (
    DEPTH,
    FX,
    FY,
    ONE,
    OUT,
    PLANE,
    QUARTER,
    QX,
    QY,
    SHARE,
    STRIDE,
    WALL,
    ZERO,
    H,
    N,
    Z,
    compiled,
    inlined,
    outlets,
    rows_of_faces,
)  # fmt: skip

ROWS, COLUMNS = DEPTH - 10, 167  # of the largest tile
TOP, LEFT = 5, 8  # surroundings before it; five rows and eight columns follow
GH, GQX, GQY, LEAVING, KEPT = (k * PLANE for k in range(9, 14))
OF_X, OF_Y = 14 * PLANE, 21 * PLANE  # of faces, seven planes each:
PUSH, OWN, CROSS, RIGHT_W, LEFT_W, RIGHT_Z, LEFT_Z = (k * PLANE for k in range(7))
AGAIN_X, AGAIN_Y = 28 * PLANE, 31 * PLANE  # of faces, three planes each:
ROOT, UNDER, NORM = (k * PLANE for k in range(3))
BUFFER = 34 * PLANE
HALF, FIVE_THIRDS, SEVEN_THIRDS = float32(0.5), float32(5 / 3), float32(7 / 3)


@inlined
@no_type_check
def _put(s, plane, k, found):
    """Keep the discharge of a face and what led to it: there is no other root or division."""
    q, y, under, norm = found
    to = AGAIN_X if plane == FX else AGAIN_Y
    store(s, plane + k, q)
    store(s, to + ROOT + k, y)
    store(s, to + UNDER + k, under)
    store(s, to + NORM + k, ONE / norm)


x_faces, y_faces = rows_of_faces(_put)


@inlined
@no_type_check
def face_back(s, a, b, own, crossing, q, g, to, again, c):
    """What a face passes back, given q, its discharge before the limiter, and g by it."""
    za, zb = load(s, Z + a), load(s, Z + b)
    wa, wb = za + load(s, H + a), zb + load(s, H + b)
    hf = max(wa, wb) - max(za, zb)
    wet = hf > c.h_dry
    x, y = hf if wet else ONE, load(s, again + ROOT + a)
    n = load(s, N + a) + load(s, N + b)
    qt = crossing * QUARTER
    by_norm = load(s, again + NORM + a)
    norm = (own * own + qt * qt + c.eps) * by_norm
    g_under = (g if wet else ZERO) * load(s, again + UNDER + a)
    push = g_under * x * x * x * y * y
    drag = g_under * q * c.g_dt_4 * n * n
    g_norm = -drag * by_norm
    g_hf = drag * norm * SEVEN_THIRDS * y * y * y - push * c.g_dt_dx * (wb - wa)
    g_slope = -push * c.g_dt_dx * x
    right = HALF * float32(wb > wa) + HALF * float32(wb >= wa)
    bed = HALF * float32(zb > za) + HALF * float32(zb >= za)
    store(s, to + PUSH + a, push)
    store(s, to + OWN + a, g_norm * own)
    store(s, to + CROSS + a, g_norm * qt * QUARTER)
    store(s, to + RIGHT_W + a, g_hf * right + g_slope)
    store(s, to + LEFT_W + a, g_hf * (ONE - right) - g_slope)
    store(s, to + RIGHT_Z + a, -g_hf * bed)
    store(s, to + LEFT_Z + a, -g_hf * (ONE - bed))


@inlined
@no_type_check
def by_x(s, k, c):
    """Derivative by the limited discharge right of cell k."""
    return load(s, GQX + k) + c.dt_dx * (load(s, GH + k + 1) - load(s, GH + k))


@inlined
@no_type_check
def by_y(s, k, c):
    """Derivative by the limited discharge below cell k."""
    return load(s, GQY + k) + c.dt_dx * (load(s, GH + k + STRIDE) - load(s, GH + k))


@compiled
@no_type_check
def limiter_back(s, row, width, c):
    """Shares of a row of cells, and what passes back through them."""
    base = row * STRIDE + 3
    for j in range(width):
        k = base + j
        east, west = max(load(s, FX + k), ZERO), max(-load(s, FX + k - 1), ZERO)
        south, north = max(load(s, FY + k), ZERO), max(-load(s, FY + k - STRIDE), ZERO)
        out, h, g_h = load(s, OUT + k), load(s, H + k), load(s, GH + k)
        wanted = c.dt_dx * ((east + west) + (south + north) + out)
        short = c.limited and wanted > h
        safe = wanted if short else ONE
        share = h / safe if short else ONE
        g_share = east * by_x(s, k, c) - west * by_x(s, k - 1, c) - c.dt_dx * g_h * out
        g_share += south * by_y(s, k, c) - north * by_y(s, k - STRIDE, c)
        by_wanted = g_share / safe if short else ZERO
        leaving = -by_wanted * share * c.dt_dx
        outlet = (leaving - c.dt_dx * g_h * share) * out * FIVE_THIRDS
        store(s, SHARE + k, share)
        store(s, LEAVING + k, leaving)
        store(s, KEPT + k, g_h + by_wanted + outlet / (h if out > ZERO else ONE))


@compiled
@no_type_check
def x_back(s, row, width, c):
    """A row of x faces."""
    base = row * STRIDE + 3
    for j in range(width):
        k = base + j
        q, ky = load(s, FX + k), QY + k
        from_left = q > ZERO
        left, right = load(s, SHARE + k), load(s, SHARE + k + 1)
        leave_left, leave_right = load(s, LEAVING + k), load(s, LEAVING + k + 1)
        g = by_x(s, k, c) * (left if from_left else right)
        g += leave_left if from_left else -leave_right
        above, below = (
            load(s, ky - STRIDE) + load(s, ky - STRIDE + 1),
            load(s, ky) + load(s, ky + 1),
        )
        face_back(s, k, k + 1, load(s, QX + k), above + below, q, g, OF_X, AGAIN_X, c)


@compiled
@no_type_check
def y_back(s, row, width, c):
    """A row of y faces."""
    base = row * STRIDE + 3
    for j in range(width):
        k = base + j
        q, kx = load(s, FY + k), QX + k
        from_above = q > ZERO
        upper, lower = load(s, SHARE + k), load(s, SHARE + k + STRIDE)
        leave_upper, leave_lower = load(s, LEAVING + k), load(s, LEAVING + k + STRIDE)
        g = by_y(s, k, c) * (upper if from_above else lower)
        g += leave_upper if from_above else -leave_lower
        left, right = load(s, kx - 1) + load(s, kx + STRIDE - 1), load(s, kx) + load(s, kx + STRIDE)
        face_back(s, k, k + STRIDE, load(s, QY + k), left + right, q, g, OF_Y, AGAIN_Y, c)


@compiled
@no_type_check
def gather_discharges(s, row, columns, first_y, last_y, first_x, last_x, c):
    """Derivatives by the old discharges of a row, in place of those by the new ones."""
    base = row * STRIDE + LEFT
    for j in range(columns):
        k, x = base + j, OF_X + base + j
        y = OF_Y + k
        along = c.theta * load(s, x) + c.rest * (load(s, x - 1) + load(s, x + 1))
        above = load(s, y + CROSS - STRIDE) + load(s, y + CROSS - STRIDE + 1)
        crossing = load(s, y + CROSS) + load(s, y + CROSS + 1) + above
        store(s, GQX + k, along + load(s, x + OWN) + crossing)
        along = c.theta * load(s, y) + c.rest * (load(s, y - STRIDE) + load(s, y + STRIDE))
        below = load(s, x + CROSS + STRIDE) + load(s, x + CROSS + STRIDE - 1)
        crossing = load(s, x + CROSS) + load(s, x + CROSS - 1) + below
        store(s, GQY + k, along + load(s, y + OWN) + crossing)
    for end in (first_x, last_x):
        if LEFT <= end < LEFT + columns:
            k = row * STRIDE + end
            store(s, GQX + k, load(s, GQX + k) + c.rest * load(s, OF_X + k))
    for end in (first_y, last_y):
        if row == end:
            for j in range(columns):
                k = base + j
                store(s, GQY + k, load(s, GQY + k) + c.rest * load(s, OF_Y + k))


@compiled
@no_type_check
def gather_cells(s, row, columns):
    """Derivatives of a row by the old depth (into GH) and by the bed (into LEAVING)."""
    base = row * STRIDE + LEFT
    for j in range(columns):
        k, x = base + j, OF_X + base + j
        y = OF_Y + k
        w = load(s, x + RIGHT_W - 1) + load(s, x + LEFT_W)
        w += load(s, y + RIGHT_W - STRIDE) + load(s, y + LEFT_W)
        z = load(s, x + RIGHT_Z - 1) + load(s, x + LEFT_Z)
        z += load(s, y + RIGHT_Z - STRIDE) + load(s, y + LEFT_Z)
        store(s, GH + k, load(s, KEPT + k) + w)
        store(s, LEAVING + k, w + z)


@compiled
@no_type_check
def keep_row(source, target, to, columns, adding):
    """Copy a row out of the buffer, or add it to what is there."""
    for j in range(columns[1]):
        old = load(target, to + j) if adding else ZERO
        store(target, to + j, old + load(source, columns[0] + j))


@compiled
@no_type_check
def keep_rows(s, grads, by_z, new, to, base, sizes):
    """Copy a gathered row of a tile out."""
    columns, cells = sizes
    keep_row(s, pointer(grads), new, (GH + base, columns), False)
    keep_row(s, pointer(grads), new + cells, (GQX + base, columns), False)
    keep_row(s, pointer(grads), new + 2 * cells, (GQY + base, columns), False)
    keep_row(s, pointer(by_z), to, (LEAVING + base, columns), True)


@compiled
@no_type_check
def fetch_tile(g, shape, tape, at, grads, old, r, left, height, width, s, c):
    """Rows from ``r`` on, columns from ``left`` on, into the buffer; walls outside of the grid."""
    ny, nx = shape.ny, shape.nx
    cells = ny * nx
    fetch_window(pointer(g.z), 0, ny, nx, r, left, height, s, Z, WALL)
    for k, plane in ((0, H), (1, QX), (2, QY)):
        fetch_window(pointer(tape), (3 * at + k) * cells, ny, nx, r, left, height, s, plane, ZERO)
    for k, plane in ((0, GH), (1, GQX), (2, GQY)):
        from_ = (3 * old + k) * cells
        fetch_window(pointer(grads), from_, ny, nx, r, left, height, s, plane, ZERO)
    if len(g.n) > 1:
        fetch_window(pointer(g.n), 0, ny, nx, r, left, height, s, N, ONE)
    if len(g.drain) > 0:
        fetch_window(pointer(g.drain), 0, ny, nx, r, left, height, s, OUT, ZERO)
        outlets(s, height, width, c)


@compiled
@no_type_check
def tile_back(g, shape, tape, at, grads, old, by_z, r0, c0, s, c):
    """One tile: window in; then row after row faces, limiter, derivatives, gathered row out.

    A row is gathered, and its derivatives replaced, two rows behind: nothing needs the old ones.
    """
    ny, nx = shape.ny, shape.nx
    rows, columns, cells = min(ROWS, ny - r0), min(COLUMNS, nx - c0), ny * nx
    height, width = rows + 10, (columns + 9 + 15) // 16 * 16
    fetch_tile(g, shape, tape, at, grads, old, r0 - TOP, c0 - LEFT, height, width, s, c)
    first_y, first_x = TOP - r0, LEFT - c0
    last_y, last_x = first_y + ny - 2, first_x + nx - 2
    for row in range(1, TOP + rows + 2):
        x_faces(s, row, width, first_x, last_x, c)
        y_faces(s, row, width, first_y, last_y, c)
        if row > 1:
            limiter_back(s, row, width, c)
            x_back(s, row, width, c)
        if row > 2:
            y_back(s, row - 1, width, c)
        done = row - 2
        if done >= TOP:
            gather_cells(s, done, columns)
            gather_discharges(s, done, columns, first_y, last_y, first_x, last_x, c)
            to, base = (r0 + done - TOP) * nx + c0, done * STRIDE + LEFT
            keep_rows(s, grads, by_z, 3 * (1 - old) * cells + to, to, base, (columns, cells))


@no_type_check
def _unwind(g, shape, m, tape, dts, steps, grads, by_z, work):
    """Derivatives through steps, last first.

    Args:
        g: arrays of the flood: bed, roughness, outlets, held levels.
        shape: of its grid.
        m: constants.
        tape: [steps, 3, cells], the states before the steps.
        dts: [steps], s.
        steps: how many of them.
        grads: [2, 3, cells], by h, qx, qy; given in the first, which also gets the answer.
        by_z: [cells], added to.
        work: of ``BUFFER`` floats.
    """
    s, cells, old = pointer(work), shape.ny * shape.nx, 0
    for k in range(steps - 1, -1, -1):
        c = constants(dts[k], 0.0, m)
        for i in range(len(g.held)):
            cell = g.held[i]
            place = 3 * old * cells + cell
            if g.level[i] > g.z[cell]:
                by_z[cell] -= grads[place]
            grads[place] = 0
        for r0 in range(0, shape.ny, ROWS):
            for c0 in range(0, shape.nx, COLUMNS):
                tile_back(g, shape, tape, k, grads, old, by_z, r0, c0, s, c)
        old = 1 - old
    if old == 1:
        for i in range(3 * cells):
            grads[i] = grads[3 * cells + i]


unwind = cached(_unwind)
