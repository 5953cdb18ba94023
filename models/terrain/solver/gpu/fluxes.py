"""Discharges, limiter shares and outlets of a tile's cells: Triton functions of the GPU engine."""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore


@triton.jit
def cube_root_inverse(x):
    """x^(-1/3) of a positive float32, within 2e-7: bits / 3, then five terms of (1 - e)^(-1/3)."""
    b = x.to(tl.int32, bitcast=True)
    y = (0x54A20000 - tl.umulhi(b, 0x55555556)).to(tl.float32, bitcast=True)
    e = 1.0 - x * y * y * y
    terms = 0.14403292 + 0.12483 * e
    terms = 0.22222222 + e * (0.17283951 + e * terms)
    return y + y * e * (0.33333333 + e * terms)


@triton.jit
def pow_minus_7_3(x, LOG: tl.constexpr):
    """x^(-7/3) of a positive float32."""
    y = tl.exp2(tl.log2(x) * -0.3333333333333333) if LOG else cube_root_inverse(x)
    y2 = y * y
    return (y2 * y2) * (y2 * y)


@triton.jit
def face(
    za, ha, zb, hb, own, adjacent, crossing, rough, g_dt_dx, theta, rest, eps, h_dry,
    LOG: tl.constexpr,
):  # fmt: skip
    """New discharge between cells a and b before the limiter; ``rough``: g dt n^2.

    The friction of :func:`models.terrain.solver.scheme.drag`.
    """
    wa, wb = za + ha, zb + hb
    hf = tl.maximum(wa, wb) - tl.maximum(za, zb)
    wet = hf > h_dry
    x = tl.where(wet, hf, 1.0)
    r = rough * pow_minus_7_3(x, LOG)
    qt = crossing * 0.25
    push = theta * own + rest * adjacent - g_dt_dx * x * (wb - wa)
    across = qt + qt * r * tl.sqrt(own * own + qt * qt + eps)
    norm = tl.sqrt(push * push + across * across + eps)
    return tl.where(wet, 2.0 * push / (1.0 + tl.sqrt(1.0 + 4.0 * r * norm)), 0.0)


@triton.jit
def friction(n, a, b, g_dt, ROUGH: tl.constexpr):
    """G dt n^2 of the face between two cells; ``n`` is a map, or one number."""
    if ROUGH:
        twice = tl.load(n + a) + tl.load(n + b)
        drag = (0.25 * g_dt) * (twice * twice)
    else:
        one = tl.load(n)
        drag = g_dt * (one * one)
    return drag


@triton.jit
def around(
    z, h, qx, qy, n, o, i, j, ny, nx, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
    ROUGH: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Unlimited discharge east, west, south, north of the cells at ``o``, and their depth."""
    x2, x1, x0, x3 = tl.load(qx + o - 2), tl.load(qx + o - 1), tl.load(qx + o), tl.load(qx + o + 1)
    y2, y1 = tl.load(qy + o - 2 * pitch), tl.load(qy + o - pitch)
    y0, y3 = tl.load(qy + o), tl.load(qy + o + pitch)
    z0, h0 = tl.load(z + o), tl.load(h + o)
    east = face(
        z0, h0, tl.load(z + o + 1), tl.load(h + o + 1), x0,
        tl.where(j == 0, x0, x1) + tl.where(j == nx - 2, x0, x3),
        (y1 + tl.load(qy + o - pitch + 1)) + (y0 + tl.load(qy + o + 1)),
        friction(n, o, o + 1, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    west = face(
        tl.load(z + o - 1), tl.load(h + o - 1), z0, h0, x1,
        tl.where(j == 1, x1, x2) + tl.where(j == nx - 1, x1, x0),
        (tl.load(qy + o - pitch - 1) + y1) + (tl.load(qy + o - 1) + y0),
        friction(n, o - 1, o, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    south = face(
        z0, h0, tl.load(z + o + pitch), tl.load(h + o + pitch), y0,
        tl.where(i == 0, y0, y1) + tl.where(i == ny - 2, y0, y3),
        (x1 + tl.load(qx + o + pitch - 1)) + (x0 + tl.load(qx + o + pitch)),
        friction(n, o, o + pitch, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    north = face(
        tl.load(z + o - pitch), tl.load(h + o - pitch), z0, h0, y1,
        tl.where(i == 1, y1, y2) + tl.where(i == ny - 1, y1, y0),
        (tl.load(qx + o - pitch - 1) + x1) + (tl.load(qx + o - pitch) + x0),
        friction(n, o - pitch, o, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip
    return east, west, south, north, h0


@triton.jit
def outlet(drain, o, h, h_dry):
    """Discharge through a cell's open edges in m2/s: Manning's normal depth."""
    wet = h > h_dry
    x = tl.where(wet, h, 1.0)
    y = cube_root_inverse(x)
    root = x * y * y
    return tl.where(wet, tl.load(drain + o) * x * root * root, 0.0)


@triton.jit
def supply(east, west, south, north, out, h, dt_dx):
    """Limiter ratio of a cell: the share of its wanted outflow that it can supply."""
    wanted = tl.maximum(east, 0.0) + tl.maximum(-west, 0.0)
    wanted += tl.maximum(south, 0.0) + tl.maximum(-north, 0.0)
    wanted = dt_dx * (wanted + out)
    short = wanted > h
    return tl.where(short, h / tl.where(short, wanted, 1.0), 1.0)


@triton.jit
def neighbours(q, o, stride, own, k, count):
    """Sum of the discharges before and after the face ``k`` of a row of ``count`` cells.

    At an end the face replaces its missing neighbour.
    """
    before = tl.where(k == 0, own, tl.load(q + o - stride))
    return before + tl.where(k == count - 2, own, tl.load(q + o + stride))


@triton.jit
def x_face(
    z, h, qx, qy, n, o, j, nx, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
    ROUGH: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Unlimited discharge right of the cells at ``o``."""
    own = tl.load(qx + o)
    adjacent = neighbours(qx, o, 1, own, j, nx)
    crossing = tl.load(qy + o - pitch) + tl.load(qy + o - pitch + 1)
    crossing += tl.load(qy + o) + tl.load(qy + o + 1)
    return face(
        tl.load(z + o), tl.load(h + o), tl.load(z + o + 1), tl.load(h + o + 1), own, adjacent,
        crossing, friction(n, o, o + 1, g_dt, ROUGH), g_dt_dx, theta, rest, eps, h_dry, LOG,
    )  # fmt: skip


@triton.jit
def y_face(
    z, h, qx, qy, n, o, i, ny, pitch, g_dt, g_dt_dx, theta, rest, eps, h_dry,
    ROUGH: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Unlimited discharge below the cells at ``o``."""
    own = tl.load(qy + o)
    adjacent = neighbours(qy, o, pitch, own, i, ny)
    crossing = tl.load(qx + o - 1) + tl.load(qx + o + pitch - 1)
    crossing += tl.load(qx + o) + tl.load(qx + o + pitch)
    return face(
        tl.load(z + o), tl.load(h + o), tl.load(z + o + pitch), tl.load(h + o + pitch), own,
        adjacent, crossing, friction(n, o, o + pitch, g_dt, ROUGH), g_dt_dx, theta, rest, eps,
        h_dry, LOG,
    )  # fmt: skip


@triton.jit
def add(h, added, LIMITED: tl.constexpr):
    """New depth, and what rounding left over; below zero with the limiter is left over too."""
    depth = h + added
    left = added - (depth - h)
    if LIMITED:
        left += tl.minimum(depth, 0.0)
        depth = tl.where(depth < 0.0, 0.0, depth)
    return depth, left


@triton.jit
def tile_max_depth(h):
    """Greatest depth of a tile; NaN counts as infinite."""
    return tl.max(tl.max(tl.where(h == h, h, float("inf")), 1), 0)


@triton.jit
def any_of(flags):
    """Whether one of a tile's flags is set, as an integer."""
    return tl.max(tl.max(flags, 1), 0)


@triton.jit
def cell_offsets(program, b, rows, pitch, left, pad, across, BY: tl.constexpr, BX: tl.constexpr):
    """Row and column indices of a tile's cells, and their offsets in a padded field."""
    i = (program // across) * BY + tl.arange(0, BY)[:, None]
    j = (program % across) * BX + tl.arange(0, BX)[None, :]
    return i, j, (b * rows + i + pad) * pitch + left + j
