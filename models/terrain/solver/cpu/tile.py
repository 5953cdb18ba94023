"""One step on one tile of the grid, compiled: the inner loops of the fused CPU engine.

A tile is copied with its halo into a buffer of planes. The step of
:mod:`models.terrain.solver.scheme` runs there row by row: each row of faces, shares and depths as
soon as its inputs are ready, so that the active rows stay in the first-level cache. Outside the
grid there is a wall: bed at ``WALL``, no water, no discharge.
"""

from typing import no_type_check

import numpy as np
from numba import float32, int32, intp, njit

from models.terrain.solver.cpu.pointers import bits, from_bits, load, square_root, store

ROWS, COLUMNS = 32, 173  # of the largest tile
TOP, LEFT = 3, 4  # halo rows and columns before it; two rows and four columns follow
STRIDE, DEPTH = 192, 73  # floats of a row; rows of a plane, sized for the tile of the derivative
PLANE = DEPTH * STRIDE
Z, N, H, QX, QY, FX, FY, SHARE, OUT = (k * PLANE for k in range(9))
D, FLOW_X, FLOW_Y, FRICTION_X, FRICTION_Y = (k * PLANE for k in range(9, 14))  # of a subgrid
BUFFER, SUBGRID_BUFFER = 9 * PLANE, 14 * PLANE
WALL = np.float32(1e6)
ONE, ZERO, HALF, QUARTER = np.float32(1), np.float32(0), np.float32(0.5), np.float32(0.25)
TWO, FOUR = np.float32(2), np.float32(4)
CUBE_START = np.float32(0x54A20000)  # of the bits of x^(-1/3), within 3.5 %
THIRD, NINTH2 = np.float32(1 / 3), np.float32(2 / 9)
INFINITE_BITS = 0x7F800000
# fused multiply-add, reassociation, approximate functions; NaN and infinities stay valid
MATH = {"contract", "reassoc", "nsz", "afn"}

# Called from compiled code alone: wrappers for calls from Python would take long to compile.
compiled = njit(
    fastmath=MATH,
    nogil=True,
    error_model="numpy",
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)
# Reassociation would cancel a compensated sum.
ordered = njit(fastmath={"contract", "nsz"}, nogil=True, error_model="numpy")
# A call inside a loop prevents its vectorization.
inlined = njit(fastmath=MATH, nogil=True, error_model="numpy", inline="always")


@inlined
@no_type_check
def cube_root_inverse(x):
    """x^(-1/3) of a positive float32, within 1e-7: bits / 3, then two third-order steps."""
    y = from_bits(int32(CUBE_START - float32(bits(x)) * THIRD))
    e = ONE - x * y * y * y
    y += y * e * (THIRD + NINTH2 * e)
    e = ONE - x * y * y * y
    return y + y * e * (THIRD + NINTH2 * e)


@inlined
@no_type_check
def plain_shape(s, plane, a, b):
    """Flow depth, friction factor and fall of level from cell b to cell a of a face."""
    za, zb = load(s, Z + a), load(s, Z + b)
    wa, wb = za + load(s, H + a), zb + load(s, H + b)
    return max(wa, wb) - max(za, zb), ONE, wb - wa


@inlined
@no_type_check
def subgrid_shape(s, plane, a, b):
    """The same where :mod:`models.terrain.solver.cpu.subgrid` has looked it up."""
    to = FLOW_X if plane == FX else FLOW_Y
    factor = FRICTION_X if plane == FX else FRICTION_Y
    fall = (load(s, Z + b) + load(s, D + b)) - (load(s, Z + a) + load(s, D + a))
    return load(s, to + a), load(s, factor + a), fall


@inlined
@no_type_check
def face(shape, n, own, adjacent, crossing, c):
    """New discharge through a face before the limiter.

    The friction of :func:`models.terrain.solver.scheme.drag`. ``shape``: flow depth, friction
    factor and fall of the level; ``n``: twice the roughness; ``own`` and ``adjacent``: the face's
    old discharge and the sum of its two neighbours; ``crossing``: four times the mean discharge
    across. Returns q, hf^(-1/3), |q_old|, M and sqrt(1 + 4 r M).
    """
    hf, factor, fall = shape
    wet = hf > c.h_dry
    x = hf if wet else ONE
    y = cube_root_inverse(x)
    r = resistance(n, y, c) * factor
    qt = crossing * QUARTER
    push = c.theta * own + c.rest * adjacent - c.g_dt_dx * x * fall
    old = square_root(own * own + qt * qt + c.eps)
    across = qt + qt * r * old
    norm = square_root(push * push + across * across + c.eps)
    root = square_root(ONE + FOUR * r * norm)
    q = TWO * push / (ONE + root)
    return q if wet else ZERO, y, old, norm, root


@inlined
@no_type_check
def resistance(n, y, c):
    """The r = g dt n^2 / hf^(7/3) of a face, with twice its roughness and y = hf^(-1/3)."""
    y2 = y * y
    return c.g_dt_4 * n * n * (y2 * y2) * (y2 * y)


@inlined
@no_type_check
def _store_flux(s, plane, k, flux):
    """Store the discharge of a face only."""
    store(s, plane + k, flux[0])


def rows_of_faces(store_face, shape_of):
    """Compile the kernels of a row of x faces and of a row of y faces.

    ``store_face(s, plane, k, flux)`` stores what :func:`face` gives; ``shape_of(s, plane, a, b)``
    is :func:`plain_shape` or :func:`subgrid_shape`, a and b offsets in a plane. At the ends of the
    grid a face replaces its missing neighbour.
    """

    @inlined
    @no_type_check
    def x_face(s, k, before, after, c):
        ky, n = QY + k, load(s, N + k) + load(s, N + k + 1)
        above = load(s, ky - STRIDE) + load(s, ky - STRIDE + 1)
        crossing = above + (load(s, ky) + load(s, ky + 1))
        shape = shape_of(s, FX, k, k + 1)
        store_face(s, FX, k, face(shape, n, load(s, QX + k), before + after, crossing, c))

    @inlined
    @no_type_check
    def y_face(s, k, before, after, c):
        kx, n = QX + k, load(s, N + k) + load(s, N + k + STRIDE)
        left = load(s, kx - 1) + load(s, kx + STRIDE - 1)
        crossing = left + (load(s, kx) + load(s, kx + STRIDE))
        shape = shape_of(s, FY, k, k + STRIDE)
        store_face(s, FY, k, face(shape, n, load(s, QY + k), before + after, crossing, c))

    @compiled
    @no_type_check
    def x_faces(s, row, width, first, last, c):
        """Right of the cells of a row."""
        base = row * STRIDE + 2
        for j in range(width):
            k = base + j
            x_face(s, k, load(s, QX + k - 1), load(s, QX + k + 1), c)
        if 2 <= first < 2 + width:
            k = row * STRIDE + first
            after = load(s, QX + k) if first == last else load(s, QX + k + 1)
            x_face(s, k, load(s, QX + k), after, c)
        if 2 <= last < 2 + width and last != first:
            k = row * STRIDE + last
            x_face(s, k, load(s, QX + k - 1), load(s, QX + k), c)

    @compiled
    @no_type_check
    def y_faces(s, row, width, first, last, c):
        """Between this row of cells and the next."""
        base = row * STRIDE + 2
        up = intp(0) if row == first else -STRIDE
        down = intp(0) if row == last else STRIDE
        if up == 0 or down == 0:
            for j in range(width):
                k = base + j
                y_face(s, k, load(s, QY + k + up), load(s, QY + k + down), c)
            return
        for j in range(width):
            k = base + j
            y_face(s, k, load(s, QY + k - STRIDE), load(s, QY + k + STRIDE), c)

    return x_faces, y_faces


x_faces, y_faces = rows_of_faces(_store_flux, plain_shape)
subgrid_x_faces, subgrid_y_faces = rows_of_faces(_store_flux, subgrid_shape)


@compiled
@no_type_check
def shares(s, row, width, c):
    """Limiter ratio of a row of cells: the share of the wanted outflow that a cell can supply."""
    base = row * STRIDE + 3
    for j in range(width):
        k = base + j
        east, west = max(load(s, FX + k), ZERO), max(-load(s, FX + k - 1), ZERO)
        south, north = max(load(s, FY + k), ZERO), max(-load(s, FY + k - STRIDE), ZERO)
        wanted = c.dt_dx * ((east + west) + (south + north) + load(s, OUT + k))
        h = load(s, H + k)
        short = wanted > h
        store(s, SHARE + k, h / wanted if short else ONE)


@compiled
@no_type_check
def limit_x(s, row, width):
    """Scale a row of x faces by the share of the cell that the water comes from."""
    base = row * STRIDE + 3
    for j in range(width):
        k = base + j
        q, left, right = load(s, FX + k), load(s, SHARE + k), load(s, SHARE + k + 1)
        store(s, FX + k, q * (left if q > ZERO else right))


@compiled
@no_type_check
def limit_y(s, row, width):
    """The same for the y faces below a row of cells."""
    base = row * STRIDE + 3
    for j in range(width):
        k = base + j
        q, upper, lower = load(s, FY + k), load(s, SHARE + k), load(s, SHARE + k + STRIDE)
        store(s, FY + k, q * (upper if q > ZERO else lower))


def row_of_caps(shape_of):
    """Compile the Froude cap on a row of faces, |q| <= froude hf sqrt(g hf)."""

    @compiled
    @no_type_check
    def cap_froude(s, row, width, plane, next_cell, c):
        base = row * STRIDE + 2
        for j in range(width):
            a = base + j
            hf = max(shape_of(s, plane, a, a + next_cell)[0], ZERO)
            limit = c.froude * hf * square_root(c.gravity * hf)
            q = load(s, plane + a)
            store(s, plane + a, min(max(q, -limit), limit))

    return cap_froude


cap_froude, subgrid_cap_froude = row_of_caps(plain_shape), row_of_caps(subgrid_shape)


@compiled
@no_type_check
def depths(s, row, width, c):
    """New depths of a row, in place of the old ones, which no later row needs."""
    base = row * STRIDE + LEFT
    for j in range(width):
        k = base + j
        net = load(s, FX + k) - load(s, FX + k - 1) + (load(s, FY + k) - load(s, FY + k - STRIDE))
        gone = load(s, OUT + k) * load(s, SHARE + k)
        h = load(s, H + k) + c.dt_rain - c.dt_dx * (net + gone)
        store(s, H + k, ZERO if (c.limited and h < ZERO) else h)


@ordered
@no_type_check
def carried_depths(s, row, width, remainder, at, c):
    """:func:`depths` with what rounding left over before, from ``at`` in ``remainder`` on.

    What lies below zero with the limiter on is carried too: no water is made.
    """
    base = row * STRIDE + LEFT
    for j in range(width):
        k = base + j
        net = load(s, FX + k) - load(s, FX + k - 1) + (load(s, FY + k) - load(s, FY + k - STRIDE))
        gone = load(s, OUT + k) * load(s, SHARE + k)
        old = load(s, H + k)
        added = c.dt_rain - c.dt_dx * (net + gone) + load(remainder, at + j)
        h = old + added
        left = added - (h - old)
        below = c.limited and h < ZERO
        store(remainder, at + j, left + h if below else left)
        store(s, H + k, ZERO if below else h)


@compiled
@no_type_check
def row_max_depth_bits(s, plane, row, width):
    """Bits of the greatest depth of a row; NaN counts as more than infinite."""
    base, greatest = row * STRIDE + LEFT, int32(0)
    for j in range(width):
        b = bits(load(s, plane + base + j))
        key = b if b >= 0 else (int32(0x7FFFFFFF) if (b & 0x7FFFFFFF) > INFINITE_BITS else int32(0))
        greatest = max(greatest, key)
    return greatest


@compiled
@no_type_check
def outlets(s, rows, width, c):
    """Replace the outlet coefficients in OUT by discharges at Manning's normal depth."""
    for row in range(2, rows):
        base = row * STRIDE + 3
        for j in range(width):
            k = base + j
            h = load(s, H + k)
            wet = h > c.h_dry
            x = h if wet else ONE
            y = cube_root_inverse(x)
            root = x * y * y
            store(s, OUT + k, load(s, OUT + k) * x * root * root if wet else ZERO)
