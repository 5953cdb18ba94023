"""The derivative of a step on a GPU: the Triton programs of ``rollout``.

``solver/adjoint.py`` as two gathers. ``shares_back`` works out faces and shares again and leaves
what passes through the limiter; ``faces_back`` collects, for each cell, what the ten faces around
it pass back. Names are those of ``models/terrain/solver/cpu/adjoint.py``.
"""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.terrain.solver.gpu.fluxes import (
    around,
    cube_root_inverse,
    friction,
    outlet,
    place,
    supply,
)


@triton.jit
def by_face(g_q, g_h, o, stride, dt_dx):
    """Derivative by the limited discharge from the cells at ``o`` to those a stride on."""
    return tl.load(g_q + o) + dt_dx * (tl.load(g_h + o + stride) - tl.load(g_h + o))


@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def shares_back(
    old,  # [3, b, rows, pitch] state before the step
    grads,  # [3, b, rows, pitch] derivatives by the state after it
    z, n, drain,
    kept,  # [5, b, rows, pitch] out: face x, face y, share, by what leaves, by the depth
    dts, numbers,
    plane, rows, pitch, left, pad, ny, nx, across,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr, LOG: tl.constexpr,
    DRAIN: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    """Faces and shares of a tile, and what passes back through the limiter and the outlets."""
    program, b = tl.program_id(0), tl.program_id(1)
    dt, dx, gravity = tl.load(dts + b), tl.load(numbers), tl.load(numbers + 1)
    theta = tl.load(numbers + 2).to(tl.float32)
    eps, h_dry = tl.load(numbers + 3).to(tl.float32), tl.load(numbers + 4).to(tl.float32)
    rest = (1.0 - theta) * 0.5
    g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
    dt_dx = (dt / dx).to(tl.float32)
    i, j, o = place(program, b, rows, pitch, left, pad, across, BY, BX)
    east, west, south, north, h = around(
        z, old, old + plane, old + 2 * plane, n, o, i, j, ny, nx, pitch,
        g_dt, g_dt_dx, theta, rest, eps, h_dry, ROUGH, LOG,
    )  # fmt: skip
    out = tl.zeros_like(h)
    if DRAIN:
        out = outlet(drain, o, h, h_dry)
    g_h = tl.load(grads + o)
    share, leaving, by_wanted = tl.zeros_like(h) + 1.0, tl.zeros_like(h), tl.zeros_like(h)
    if LIMITED:
        qx, qy = grads + plane, grads + 2 * plane
        from_east, from_west = tl.maximum(east, 0.0), tl.maximum(-west, 0.0)
        from_south, from_north = tl.maximum(south, 0.0), tl.maximum(-north, 0.0)
        share = supply(east, west, south, north, out, h, dt_dx)
        g_share = from_east * by_face(qx, grads, o, 1, dt_dx) - dt_dx * g_h * out
        g_share -= from_west * by_face(qx, grads, o - 1, 1, dt_dx)
        g_share += from_south * by_face(qy, grads, o, pitch, dt_dx)
        g_share -= from_north * by_face(qy, grads, o - pitch, pitch, dt_dx)
        wanted = dt_dx * ((from_east + from_west) + (from_south + from_north) + out)
        short = wanted > h
        by_wanted = tl.where(short, g_share / tl.where(short, wanted, 1.0), 0.0)
        leaving = -by_wanted * share * dt_dx
    drained = (leaving - dt_dx * g_h * share) * out * 1.6666666666666667
    tl.store(kept + o, east)
    tl.store(kept + plane + o, south)
    tl.store(kept + 2 * plane + o, share)
    tl.store(kept + 3 * plane + o, leaving)
    tl.store(kept + 4 * plane + o, g_h + by_wanted + drained / tl.where(out > 0.0, h, 1.0))


@triton.jit
def face_back(
    z, h, n, g_h, g_q, raw, share, leaving, o, stride, own, crossing,
    g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH: tl.constexpr,
):  # fmt: skip
    """What the faces from the cells at ``o`` to those a stride on pass back.

    Returns:
        By the push, the own and a crossing discharge; by the water of both ends; by both beds.
    """
    q = tl.load(raw + o)
    ahead = q > 0.0
    g = by_face(g_q, g_h, o, stride, dt_dx)
    g *= tl.where(ahead, tl.load(share + o), tl.load(share + o + stride))
    g += tl.where(ahead, tl.load(leaving + o), -tl.load(leaving + o + stride))
    za, zb = tl.load(z + o), tl.load(z + o + stride)
    wa, wb = za + tl.load(h + o), zb + tl.load(h + o + stride)
    hf = tl.maximum(wa, wb) - tl.maximum(za, zb)
    wet = hf > h_dry
    x = tl.where(wet, hf, 1.0)
    y = cube_root_inverse(x)
    p = x * x * x * y * y
    qt = crossing * 0.25
    norm = tl.sqrt(own * own + qt * qt + eps)
    rough = friction(n, o, o + stride, g_dt, ROUGH)
    g_under = tl.where(wet, g, 0.0) / (p + rough * norm)
    push = g_under * p
    g_norm = -g_under * q * rough / norm
    g_hf = g_under * q * rough * norm * 2.3333333333333335 / x - push * g_dt_dx * (wb - wa)
    g_slope = -push * g_dt_dx * x
    right = tl.where(wb > wa, 1.0, tl.where(wb == wa, 0.5, 0.0))
    bed = tl.where(zb > za, 1.0, tl.where(zb == za, 0.5, 0.0))
    to_right, to_left = g_hf * right + g_slope, g_hf * (1.0 - right) - g_slope
    return (
        push, g_norm * own, g_norm * qt * 0.25, to_right, to_left, -g_hf * bed,
        -g_hf * (1.0 - bed),
    )  # fmt: skip


@triton.jit
def x_back(
    z, h, qx, qy, n, grads, kept, plane, o, pitch, g_dt, g_dt_dx, dt_dx, eps, h_dry,
    ROUGH: tl.constexpr,
):  # fmt: skip
    """The faces right of the cells at ``o``."""
    crossing = (tl.load(qy + o - pitch) + tl.load(qy + o - pitch + 1)) + (
        tl.load(qy + o) + tl.load(qy + o + 1)
    )
    return face_back(
        z, h, n, grads, grads + plane, kept, kept + 2 * plane, kept + 3 * plane, o, 1,
        tl.load(qx + o), crossing, g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
    )  # fmt: skip


@triton.jit
def y_back(
    z, h, qx, qy, n, grads, kept, plane, o, pitch, g_dt, g_dt_dx, dt_dx, eps, h_dry,
    ROUGH: tl.constexpr,
):  # fmt: skip
    """The faces below the cells at ``o``."""
    crossing = (tl.load(qx + o - 1) + tl.load(qx + o + pitch - 1)) + (
        tl.load(qx + o) + tl.load(qx + o + pitch)
    )
    return face_back(
        z, h, n, grads, grads + 2 * plane, kept + plane, kept + 2 * plane, kept + 3 * plane, o,
        pitch, tl.load(qy + o), crossing, g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def faces_back(
    old, grads, earlier, by_z, z, n, kept, dts, numbers,
    plane, rows, pitch, left, pad, ny, nx, across,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr,
):  # fmt: skip
    """Derivatives by the state before the step (``earlier``); those by the bed are added up."""
    program, b = tl.program_id(0), tl.program_id(1)
    dt, dx, gravity = tl.load(dts + b), tl.load(numbers), tl.load(numbers + 1)
    theta = tl.load(numbers + 2).to(tl.float32)
    eps, h_dry = tl.load(numbers + 3).to(tl.float32), tl.load(numbers + 4).to(tl.float32)
    rest = (1.0 - theta) * 0.5
    g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
    dt_dx = (dt / dx).to(tl.float32)
    i, j, o = place(program, b, rows, pitch, left, pad, across, BY, BX)
    inside = (i < ny) & (j < nx)
    if dt == 0.0:
        for k in tl.static_range(3):
            tl.store(earlier + k * plane + o, tl.load(grads + k * plane + o))
    else:
        qx, qy = old + plane, old + 2 * plane
        # the faces right of the cells: here, before, after, below, below and before
        push, own, c0, right, from_left, bed, bed_left = x_back(
            z, old, qx, qy, n, grads, kept, plane, o, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = from_left, bed_left
        ends = tl.where(j == 0, rest, 0.0) + tl.where(j == nx - 2, rest, 0.0)
        g_x = (theta + ends) * push + own
        push, own, c1, right, from_left, bed, bed_left = x_back(
            z, old, qx, qy, n, grads, kept, plane, o - 1, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_h + right, g_z + bed
        g_x += rest * push
        push, own, c2, right, from_left, bed, bed_left = x_back(
            z, old, qx, qy, n, grads, kept, plane, o + 1, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_x += rest * push
        push, own, c2, right, from_left, bed, bed_left = x_back(
            z, old, qx, qy, n, grads, kept, plane, o + pitch, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        push, own, c3, right, from_left, bed, bed_left = x_back(
            z, old, qx, qy, n, grads, kept, plane, o + pitch - 1, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_y = (c0 + c1) + (c2 + c3)
        # the faces below the cells: here, above, below, after, above and after
        push, own, c0, right, from_left, bed, bed_left = y_back(
            z, old, qx, qy, n, grads, kept, plane, o, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_h + from_left, g_z + bed_left
        ends = tl.where(i == 0, rest, 0.0) + tl.where(i == ny - 2, rest, 0.0)
        g_y += (theta + ends) * push + own
        push, own, c1, right, from_left, bed, bed_left = y_back(
            z, old, qx, qy, n, grads, kept, plane, o - pitch, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_h + right, g_z + bed
        g_y += rest * push
        push, own, c2, right, from_left, bed, bed_left = y_back(
            z, old, qx, qy, n, grads, kept, plane, o + pitch, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_y += rest * push
        push, own, c2, right, from_left, bed, bed_left = y_back(
            z, old, qx, qy, n, grads, kept, plane, o + 1, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        push, own, c3, right, from_left, bed, bed_left = y_back(
            z, old, qx, qy, n, grads, kept, plane, o - pitch + 1, pitch,
            g_dt, g_dt_dx, dt_dx, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_x += (c0 + c1) + (c2 + c3)
        tl.store(earlier + o, tl.where(inside, tl.load(kept + 4 * plane + o) + g_h, 0.0))
        tl.store(earlier + plane + o, tl.where(j < nx - 1, tl.where(i < ny, g_x, 0.0), 0.0))
        tl.store(earlier + 2 * plane + o, tl.where(i < ny - 1, tl.where(j < nx, g_y, 0.0), 0.0))
        tl.store(by_z + o, tl.load(by_z + o) + tl.where(inside, g_h + g_z, 0.0))
