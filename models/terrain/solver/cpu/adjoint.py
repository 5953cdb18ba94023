"""The derivative of a step on the CPU, compiled: :mod:`models.terrain.solver.adjoint` by tiles.

A tile's window holds the state before the step and the derivatives with respect to the state after
it. Faces and shares are recomputed, then each cell gathers the derivatives of all that it enters.
``g_x`` and ``GX`` are dL/dx; the equations above each function use the symbols of the definition.
"""

from typing import no_type_check

from numba import float32

from models.terrain.solver.cpu.compile_cache import cached
from models.terrain.solver.cpu.loop import step_constants
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
    SUBGRID_BUFFER,
    TWO,
    WALL,
    ZERO,
    H,
    N,
    Z,
    compiled,
    inlined,
    outlets,
    plain_shape,
    resistance,
    rows_of_faces,
)  # fmt: skip

ROWS, COLUMNS = DEPTH - 10, 167  # of the largest tile
TOP, LEFT = 5, 8  # halo rows and columns before it; five rows and eight columns follow
GH, GQX, GQY, G_LEAVING, GH_CELL = (SUBGRID_BUFFER + k * PLANE for k in range(5))
FACE_X, FACE_Y = GH + 5 * PLANE, GH + 13 * PLANE  # of faces, eight planes each, the last of
G_NUM, G_OWN, G_CROSS, G_W_RIGHT, G_W_LEFT, G_Z_RIGHT, G_Z_LEFT = (k * PLANE for k in range(7))
SAVED_X, SAVED_Y = GH + 21 * PLANE, GH + 25 * PLANE  # a subgrid; of faces, four planes each:
INV_CUBE_ROOT, OLD, NORM, ROOT = (k * PLANE for k in range(4))
BUFFER = GH + 29 * PLANE
HALF, FIVE_THIRDS, SEVEN_THIRDS = float32(0.5), float32(5 / 3), float32(7 / 3)


@inlined
@no_type_check
def store_face(s, plane, k, flux):
    """Keep the discharge of a face and its intermediate values, so that no root is taken twice."""
    q, y, old, norm, root = flux
    to = SAVED_X if plane == FX else SAVED_Y
    store(s, plane + k, q)
    store(s, to + INV_CUBE_ROOT + k, y)
    store(s, to + OLD + k, old)
    store(s, to + NORM + k, norm)
    store(s, to + ROOT + k, root)


x_faces, y_faces = rows_of_faces(store_face, plain_shape)


# Forward:   hf = max(wa, wb) - max(za, zb),  r = g dt n^2 / hf^(7/3),
#   N = c - g dt/dx hf (wb - wa),  Q = sqrt(own^2 + qt^2 + eps),  F = 1 + r Q,
#   M = sqrt(N^2 + (qt F)^2 + eps),  s = sqrt(1 + 4 r M),  q = 2 N / (1 + s)
# Derivative, with g = dL/dq:
#   dL/d(rM) = -2 g q / ((1 + s) s),  G = dL/dM / M = dL/d(rM) r / M
#   dL/dN   = 2 g / (1 + s) + G N                     (G_NUM)
#   dL/dF   = G qt^2 F,  dL/dQ / Q = dL/dF r / Q
#   dL/down = dL/dQ / Q own                           (G_OWN, of Q alone; c is gathered from G_NUM)
#   dL/dqt  = (G F^2 + dL/dQ / Q) qt, a quarter a face      (G_CROSS)
#   dL/dhf  = -7/3 r / hf (dL/d(rM) M + dL/dF Q) - dL/dN g dt/dx (wb - wa)
#   dL/dwb  = dL/dhf [wb > wa] - dL/dN g dt/dx hf     (G_W_RIGHT), dL/dwa likewise (G_W_LEFT)
#   dL/dzb  = -dL/dhf [zb > za] at fixed level        (G_Z_RIGHT), dL/dza likewise (G_Z_LEFT)
# x is hf, y is hf^(-1/3): 1/hf = y^3.
@inlined
@no_type_check
def momentum_backward(s, shape, n, own, crossing, q, g, at, c):
    """Derivatives through the momentum equation of a face.

    ``shape``: flow depth, friction factor and fall of its level; ``q``: its discharge before the
    limiter; ``g``: dL/dq; ``at``: of the first of its saved planes. Returns G_NUM, G_OWN, G_CROSS
    and the derivatives by hf, by the fall and by log r.
    """
    hf, friction, fall = shape
    wet = hf > c.h_dry
    x, y = hf if wet else ONE, load(s, at + INV_CUBE_ROOT)
    r, qt = resistance(n, y, c) * friction, crossing * QUARTER
    old, norm, root = load(s, at + OLD), load(s, at + NORM), load(s, at + ROOT)
    factor = ONE + r * old
    twice = TWO * (g if wet else ZERO) / ((ONE + root) * root)
    g_rm = -twice * q
    g_m = g_rm * r / norm
    g_num = twice * root + g_m * HALF * q * (ONE + root)
    g_factor = g_m * qt * qt * factor
    g_old = g_factor * r / old
    g_log_r = r * (g_rm * norm + g_factor * old)
    g_hf = -SEVEN_THIRDS * y * y * y * g_log_r - g_num * c.g_dt_dx * fall
    g_cross = (g_m * factor * factor + g_old) * qt * QUARTER
    return g_num, g_old * own, g_cross, g_hf, -g_num * c.g_dt_dx * x, g_log_r


@inlined
@no_type_check
def level_backward(s, fall, g_level, g_fall, to):
    """Of the derivative by the higher level of a face and by its fall, the parts of both cells."""
    right = HALF * float32(fall > ZERO) + HALF * float32(fall >= ZERO)
    store(s, to + G_W_RIGHT, g_level * right + g_fall)
    store(s, to + G_W_LEFT, g_level * (ONE - right) - g_fall)


@inlined
@no_type_check
def _face_backward(s, a, b, own, crossing, q, g, to, saved, c):
    """Derivatives through the face between cells a and b, into its planes from ``to`` on."""
    shape = plain_shape(s, FX, a, b)
    n, k = load(s, N + a) + load(s, N + b), to + a
    by = momentum_backward(s, shape, n, own, crossing, q, g, saved + a, c)
    g_num, g_own, g_cross, g_hf, g_fall, _ = by
    za, zb = load(s, Z + a), load(s, Z + b)
    bed = HALF * float32(zb > za) + HALF * float32(zb >= za)
    store(s, k + G_NUM, g_num)
    store(s, k + G_OWN, g_own)
    store(s, k + G_CROSS, g_cross)
    level_backward(s, shape[2], g_hf, g_fall, k)
    store(s, k + G_Z_RIGHT, -g_hf * bed)
    store(s, k + G_Z_LEFT, -g_hf * (ONE - bed))


# Continuity: h' = h - dt/dx (qx'[j] - qx'[j-1] + qy'[i] - qy'[i-1] + out')
# dL/dqx'[j] = g_qx[j] + dt/dx (g_h[j+1] - g_h[j])
@inlined
@no_type_check
def grad_qx(s, k, c):
    """Derivative with respect to the limited discharge right of cell k."""
    return load(s, GQX + k) + c.dt_dx * (load(s, GH + k + 1) - load(s, GH + k))


@inlined
@no_type_check
def grad_qy(s, k, c):
    """Derivative with respect to the limited discharge below cell k."""
    return load(s, GQY + k) + c.dt_dx * (load(s, GH + k + STRIDE) - load(s, GH + k))


# Limiter: leaving = sum of outgoing |q| + out,  wanted = dt/dx leaving,
#   share = min(1, h / wanted),  q' = share q for outgoing faces,  out' = share out,
#   out = drain h^(5/3)
# dL/dshare   = sum of g_q' q over outgoing faces, - dt/dx g_h out
# dL/dleaving = -dL/dshare / wanted share dt/dx       where share < 1, else 0      (G_LEAVING)
# dL/dh       = g_h + dL/dshare / wanted [share < 1] + dL/dout 5/3 out / h         (GH_CELL)
#   with dL/dout = dL/dleaving - dt/dx g_h share
@compiled
@no_type_check
def limiter_backward(s, row, width, c):
    """Shares of a row of cells, and the derivatives through the limiter and the outlets."""
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
        g_share = east * grad_qx(s, k, c) - west * grad_qx(s, k - 1, c) - c.dt_dx * g_h * out
        g_share += south * grad_qy(s, k, c) - north * grad_qy(s, k - STRIDE, c)
        g_h_share = g_share / safe if short else ZERO
        g_leaving = -g_h_share * share * c.dt_dx
        outlet = (g_leaving - c.dt_dx * g_h * share) * out * FIVE_THIRDS
        store(s, SHARE + k, share)
        store(s, G_LEAVING + k, g_leaving)
        store(s, GH_CELL + k, g_h + g_h_share + outlet / (h if out > ZERO else ONE))


# Face: q' = share[U] q with U the cell that the water leaves
# dL/dq = share[U] g_q' + sign(q) dL/dleaving[U]
def rows_backward(face_backward):
    """Compile the derivatives through a row of x faces and of y faces: limiter, then momentum.

    ``face_backward(s, a, b, own, crossing, q, g, to, saved, c)`` stores those of a face.
    """

    @compiled
    @no_type_check
    def x_faces_backward(s, row, width, c):
        base = row * STRIDE + 3
        for j in range(width):
            k = base + j
            q, ky = load(s, FX + k), QY + k
            from_left = q > ZERO
            left, right = load(s, SHARE + k), load(s, SHARE + k + 1)
            leave_left, leave_right = load(s, G_LEAVING + k), load(s, G_LEAVING + k + 1)
            g = grad_qx(s, k, c) * (left if from_left else right)
            g += leave_left if from_left else -leave_right
            above = load(s, ky - STRIDE) + load(s, ky - STRIDE + 1)
            crossing = above + (load(s, ky) + load(s, ky + 1))
            face_backward(s, k, k + 1, load(s, QX + k), crossing, q, g, FACE_X, SAVED_X, c)

    @compiled
    @no_type_check
    def y_faces_backward(s, row, width, c):
        base = row * STRIDE + 3
        for j in range(width):
            k = base + j
            q, kx = load(s, FY + k), QX + k
            from_above = q > ZERO
            upper, lower = load(s, SHARE + k), load(s, SHARE + k + STRIDE)
            leave_upper, leave_lower = load(s, G_LEAVING + k), load(s, G_LEAVING + k + STRIDE)
            g = grad_qy(s, k, c) * (upper if from_above else lower)
            g += leave_upper if from_above else -leave_lower
            left = load(s, kx - 1) + load(s, kx + STRIDE - 1)
            crossing = left + (load(s, kx) + load(s, kx + STRIDE))
            face_backward(s, k, k + STRIDE, load(s, QY + k), crossing, q, g, FACE_Y, SAVED_Y, c)

    return x_faces_backward, y_faces_backward


x_faces_backward, y_faces_backward = rows_backward(_face_backward)


# c[j] = theta q[j] + rest (q[j-1] + q[j+1]), where the end faces stand in for those beyond them;
# qt of an x face = a quarter of the four y faces around it, and the reverse
# dL/dqx[j] = theta G_NUM[j] + rest (G_NUM[j-1] + G_NUM[j+1]) + G_OWN[j] + G_CROSS of 4 y faces,
#   and once more rest G_NUM[j] at the first and at the last face
@compiled
@no_type_check
def gather_discharges(s, row, columns, first_y, last_y, first_x, last_x, c):
    """Derivatives with respect to a row of old discharges, in place of those of the new ones."""
    base = row * STRIDE + LEFT
    for j in range(columns):
        k, x = base + j, FACE_X + base + j
        y = FACE_Y + k
        along = c.theta * load(s, x) + c.rest * (load(s, x - 1) + load(s, x + 1))
        above = load(s, y + G_CROSS - STRIDE) + load(s, y + G_CROSS - STRIDE + 1)
        crossing = load(s, y + G_CROSS) + load(s, y + G_CROSS + 1) + above
        store(s, GQX + k, along + load(s, x + G_OWN) + crossing)
        along = c.theta * load(s, y) + c.rest * (load(s, y - STRIDE) + load(s, y + STRIDE))
        below = load(s, x + G_CROSS + STRIDE) + load(s, x + G_CROSS + STRIDE - 1)
        crossing = load(s, x + G_CROSS) + load(s, x + G_CROSS - 1) + below
        store(s, GQY + k, along + load(s, y + G_OWN) + crossing)
    for end in (first_x, last_x):
        if LEFT <= end < LEFT + columns:
            k = row * STRIDE + end
            store(s, GQX + k, load(s, GQX + k) + c.rest * load(s, FACE_X + k))
    for end in (first_y, last_y):
        if row == end:
            for j in range(columns):
                k = base + j
                store(s, GQY + k, load(s, GQY + k) + c.rest * load(s, FACE_Y + k))


# w = h + z enters four faces, as the right cell of two and as the left cell of two:
# dL/dh = GH_CELL + sum of G_W,  dL/dz = sum of (G_W + G_Z)
@compiled
@no_type_check
def gather_cells(s, row, columns):
    """Derivatives with respect to a row of old depths (into GH) and bed (into G_LEAVING)."""
    base = row * STRIDE + LEFT
    for j in range(columns):
        k, x = base + j, FACE_X + base + j
        y = FACE_Y + k
        w = load(s, x + G_W_RIGHT - 1) + load(s, x + G_W_LEFT)
        w += load(s, y + G_W_RIGHT - STRIDE) + load(s, y + G_W_LEFT)
        z = load(s, x + G_Z_RIGHT - 1) + load(s, x + G_Z_LEFT)
        z += load(s, y + G_Z_RIGHT - STRIDE) + load(s, y + G_Z_LEFT)
        store(s, GH + k, load(s, GH_CELL + k) + w)
        store(s, G_LEAVING + k, w + z)


@compiled
@no_type_check
def write_row(source, target, to, columns, adding):
    """Copy a row out of the buffer, or add it to the target."""
    for j in range(columns[1]):
        old = load(target, to + j) if adding else ZERO
        store(target, to + j, old + load(source, columns[0] + j))


@compiled
@no_type_check
def write_rows(s, grads, grad_z, new, to, base, sizes):
    """Copy a gathered row of a tile out."""
    columns, cells = sizes
    write_row(s, pointer(grads), new, (GH + base, columns), False)
    write_row(s, pointer(grads), new + cells, (GQX + base, columns), False)
    write_row(s, pointer(grads), new + 2 * cells, (GQY + base, columns), False)
    write_row(s, pointer(grad_z), to, (G_LEAVING + base, columns), True)


@compiled
@no_type_check
def fetch_tile(g, layout, tape, at, grads, old, r, left, height, s):
    """Rows from ``r`` on, columns from ``left`` on, into the buffer; walls outside of the grid."""
    ny, nx = layout.ny, layout.nx
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


@compiled
@no_type_check
def tile_backward(g, layout, tape, at, grads, old, grad_z, r0, c0, s, c):
    """One tile: read its window; then row by row faces, limiter, derivatives, write.

    A row is gathered two rows behind the faces. Its derivatives replace the old ones, which no
    later row needs.
    """
    ny, nx = layout.ny, layout.nx
    rows, columns, cells = min(ROWS, ny - r0), min(COLUMNS, nx - c0), ny * nx
    height, width = rows + 10, (columns + 9 + 15) // 16 * 16
    fetch_tile(g, layout, tape, at, grads, old, r0 - TOP, c0 - LEFT, height, s)
    if len(g.drain) > 0:
        outlets(s, height, width, c)
    first_y, first_x = TOP - r0, LEFT - c0
    last_y, last_x = first_y + ny - 2, first_x + nx - 2
    for row in range(1, TOP + rows + 2):
        x_faces(s, row, width, first_x, last_x, c)
        y_faces(s, row, width, first_y, last_y, c)
        if row > 1:
            limiter_backward(s, row, width, c)
            x_faces_backward(s, row, width, c)
        if row > 2:
            y_faces_backward(s, row - 1, width, c)
        done = row - 2
        if done >= TOP:
            gather_cells(s, done, columns)
            gather_discharges(s, done, columns, first_y, last_y, first_x, last_x, c)
            to, base = (r0 + done - TOP) * nx + c0, done * STRIDE + LEFT
            write_rows(s, grads, grad_z, 3 * (1 - old) * cells + to, to, base, (columns, cells))


@no_type_check
def _backward_steps(g, layout, m, tape, dts, steps, grads, grad_z, work):
    """Backward pass over several steps, last first.

    A held level sets h' = max(level - z, 0): dL/dz -= g_h where level > z, and dL/dh = 0.

    Args:
        g: arrays of the flood: bed, roughness, outlets, held levels.
        layout: sizes of the grid.
        m: constants of the scheme.
        tape: [steps, 3, cells], the states before the steps.
        dts: [steps], s.
        steps: number of steps.
        grads: [2, 3, cells], with respect to h, qx, qy; input and result are in the first.
        grad_z: [cells], with respect to the bed; added to.
        work: buffer of ``BUFFER`` floats.
    """
    s, cells, old = pointer(work), layout.ny * layout.nx, 0
    for k in range(steps - 1, -1, -1):
        c = step_constants(dts[k], 0.0, m)
        for i in range(len(g.held)):
            cell = g.held[i]
            index = 3 * old * cells + cell
            if g.level[i] > g.z[cell]:
                grad_z[cell] -= grads[index]
            grads[index] = 0
        for r0 in range(0, layout.ny, ROWS):
            for c0 in range(0, layout.nx, COLUMNS):
                tile_backward(g, layout, tape, k, grads, old, grad_z, r0, c0, s, c)
        old = 1 - old
    if old == 1:
        for i in range(3 * cells):
            grads[i] = grads[3 * cells + i]


backward_steps = cached(_backward_steps)
