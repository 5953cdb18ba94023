"""The derivative of a step on a GPU: Triton kernels of :mod:`models.terrain.solver.gpu.rollout`.

:mod:`models.terrain.solver.adjoint` as two gathers. ``shares_backward`` recomputes faces and shares
and differentiates the limiter and the outlets; ``faces_backward`` sums, for each cell, the
derivatives through the ten faces around it. ``g_x`` is dL/dx; symbols and names are those of
:mod:`models.terrain.solver.cpu.adjoint`.
"""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore

from models.terrain.solver.gpu.fluxes import (
    around,
    cell_offsets,
    friction,
    neighbours,
    outlet,
    pow_minus_7_3,
    supply,
)


# Continuity: h' = h - dt/dx (qx'[j] - qx'[j-1] + qy'[i] - qy'[i-1] + out')
# dL/dq' = g_q' + dt/dx (g_h[next cell] - g_h[cell])
@triton.jit
def grad_face(g_q, g_h, o, stride, dt_dx):
    """Derivative with respect to the limited discharge from the cells ``o`` to ``o + stride``."""
    return tl.load(g_q + o) + dt_dx * (tl.load(g_h + o + stride) - tl.load(g_h + o))


# Limiter: leaving = sum of outgoing |q| + out,  wanted = dt/dx leaving,
#   share = min(1, h / wanted),  q' = share q for outgoing faces,  out' = share out,
#   out = drain h^(5/3)
# dL/dshare   = sum of g_q' q over outgoing faces, - dt/dx g_h out
# dL/dleaving = -dL/dshare / wanted share dt/dx       where share < 1, else 0
# dL/dh       = g_h + dL/dshare / wanted [share < 1] + dL/dout 5/3 out / h   (faces not included)
#   with dL/dout = dL/dleaving - dt/dx g_h share; g_outlet is dL/dout 5/3 out
@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def shares_backward(
    old,  # [3, b, rows, pitch] state before the step
    grads,  # [3, b, rows, pitch] derivatives with respect to the state after it
    z, n, drain,
    saved,  # [5, b, rows, pitch] out: qx, qy before the limiter, share, dL/dleaving, dL/dh
    dts, constants,
    plane, rows, pitch, left, pad, ny, nx, across,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr, LOG: tl.constexpr,
    DRAIN: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    """Faces and shares of a tile, and the derivatives through the limiter and the outlets."""
    program, b = tl.program_id(0), tl.program_id(1)
    dt, dx, gravity = tl.load(dts + b), tl.load(constants), tl.load(constants + 1)
    theta = tl.load(constants + 2).to(tl.float32)
    eps, h_dry = tl.load(constants + 3).to(tl.float32), tl.load(constants + 4).to(tl.float32)
    rest = (1.0 - theta) * 0.5
    g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
    dt_dx = (dt / dx).to(tl.float32)
    i, j, o = cell_offsets(program, b, rows, pitch, left, pad, across, BY, BX)
    east, west, south, north, h = around(
        z, old, old + plane, old + 2 * plane, n, o, i, j, ny, nx, pitch,
        g_dt, g_dt_dx, theta, rest, eps, h_dry, ROUGH, LOG,
    )  # fmt: skip
    out = tl.zeros_like(h)
    if DRAIN:
        out = outlet(drain, o, h, h_dry)
    g_h = tl.load(grads + o)
    share, g_leaving, g_h_share = tl.zeros_like(h) + 1.0, tl.zeros_like(h), tl.zeros_like(h)
    if LIMITED:
        qx, qy = grads + plane, grads + 2 * plane
        from_east, from_west = tl.maximum(east, 0.0), tl.maximum(-west, 0.0)
        from_south, from_north = tl.maximum(south, 0.0), tl.maximum(-north, 0.0)
        share = supply(east, west, south, north, out, h, dt_dx)
        g_share = from_east * grad_face(qx, grads, o, 1, dt_dx) - dt_dx * g_h * out
        g_share -= from_west * grad_face(qx, grads, o - 1, 1, dt_dx)
        g_share += from_south * grad_face(qy, grads, o, pitch, dt_dx)
        g_share -= from_north * grad_face(qy, grads, o - pitch, pitch, dt_dx)
        wanted = dt_dx * ((from_east + from_west) + (from_south + from_north) + out)
        short = wanted > h
        g_h_share = tl.where(short, g_share / tl.where(short, wanted, 1.0), 0.0)
        g_leaving = -g_h_share * share * dt_dx
    g_outlet = (g_leaving - dt_dx * g_h * share) * out * 1.6666666666666667
    tl.store(saved + o, east)
    tl.store(saved + plane + o, south)
    tl.store(saved + 2 * plane + o, share)
    tl.store(saved + 3 * plane + o, g_leaving)
    tl.store(saved + 4 * plane + o, g_h + g_h_share + g_outlet / tl.where(out > 0.0, h, 1.0))


# Forward, with U the cell that the water leaves:
#   hf = max(wa, wb) - max(za, zb),  r = g dt n^2 / hf^(7/3),
#   N = c - g dt/dx hf (wb - wa),  Q = sqrt(own^2 + qt^2 + eps),  F = 1 + r Q,
#   M = sqrt(N^2 + (qt F)^2 + eps),  s = sqrt(1 + 4 r M),  q = 2 N / (1 + s),  q' = share[U] q
# Derivative:
#   g        = dL/dq = share[U] g_q' + sign(q) dL/dleaving[U]
#   dL/d(rM) = -2 g q / ((1 + s) s),  G = dL/dM / M = dL/d(rM) r / M
#   dL/dN   = 2 g / (1 + s) + G N
#   dL/dF   = G qt^2 F,  dL/dQ / Q = dL/dF r / Q
#   dL/down = dL/dQ / Q own             of Q alone; c is gathered from dL/dN
#   dL/dqt  = (G F^2 + dL/dQ / Q) qt    a quarter for each face across
#   dL/dhf  = -7/3 r / hf (dL/d(rM) M + dL/dF Q) - dL/dN g dt/dx (wb - wa)
#   dL/dwb  = dL/dhf [wb > wa] - dL/dN g dt/dx hf,  dL/dzb = -dL/dhf [zb > za] at fixed level
# [b > a] is 1/2 at a tie; dL/dwa and dL/dza get the other share and the opposite slope term.
@triton.jit
def face_backward(
    z, h, n, g_h, g_q, raw, share, g_leaving, o, stride, own, adjacent, crossing,
    g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH: tl.constexpr,
):  # fmt: skip
    """Derivatives through the faces between the cells ``o`` and ``o + stride``.

    Returns:
        Derivatives with respect to N, the face's own discharge, one discharge across; the water
        level of the right and the left cell; the bed of the right and the left cell.
    """
    q = tl.load(raw + o)
    ahead = q > 0.0
    g = grad_face(g_q, g_h, o, stride, dt_dx)
    g *= tl.where(ahead, tl.load(share + o), tl.load(share + o + stride))
    g += tl.where(ahead, tl.load(g_leaving + o), -tl.load(g_leaving + o + stride))
    za, zb = tl.load(z + o), tl.load(z + o + stride)
    wa, wb = za + tl.load(h + o), zb + tl.load(h + o + stride)
    hf = tl.maximum(wa, wb) - tl.maximum(za, zb)
    wet = hf > h_dry
    x = tl.where(wet, hf, 1.0)
    r = friction(n, o, o + stride, g_dt, ROUGH) * pow_minus_7_3(x, False)
    qt = crossing * 0.25
    old = tl.sqrt(own * own + qt * qt + eps)
    factor = 1.0 + r * old
    push = theta * own + rest * adjacent - g_dt_dx * x * (wb - wa)
    norm = tl.sqrt(push * push + (qt * factor) * (qt * factor) + eps)
    root = tl.sqrt(1.0 + 4.0 * r * norm)
    twice = 2.0 * tl.where(wet, g, 0.0) / ((1.0 + root) * root)
    g_rm = -twice * q
    g_m = g_rm * r / norm
    g_num = twice * root + g_m * push
    g_factor = g_m * qt * qt * factor
    g_old = g_factor * r / old
    g_hf = -2.3333333333333335 * r / x * (g_rm * norm + g_factor * old)
    g_hf -= g_num * g_dt_dx * (wb - wa)
    g_slope = -g_num * g_dt_dx * x
    right = tl.where(wb > wa, 1.0, tl.where(wb == wa, 0.5, 0.0))
    bed = tl.where(zb > za, 1.0, tl.where(zb == za, 0.5, 0.0))
    g_w_right, g_w_left = g_hf * right + g_slope, g_hf * (1.0 - right) - g_slope
    return (
        g_num, g_old * own, (g_m * factor * factor + g_old) * qt * 0.25, g_w_right, g_w_left,
        -g_hf * bed, -g_hf * (1.0 - bed),
    )  # fmt: skip


@triton.jit
def x_face_backward(
    z, h, qx, qy, n, grads, saved, plane, o, j, nx, pitch, g_dt, g_dt_dx, dt_dx, theta, rest, eps,
    h_dry, ROUGH: tl.constexpr,
):  # fmt: skip
    """:func:`face_backward` of the faces right of the cells at ``o``, of column ``j``."""
    own = tl.load(qx + o)
    crossing = (tl.load(qy + o - pitch) + tl.load(qy + o - pitch + 1)) + (
        tl.load(qy + o) + tl.load(qy + o + 1)
    )
    return face_backward(
        z, h, n, grads, grads + plane, saved, saved + 2 * plane, saved + 3 * plane, o, 1,
        own, neighbours(qx, o, 1, own, j, nx), crossing, g_dt, g_dt_dx, dt_dx, theta, rest, eps,
        h_dry, ROUGH,
    )  # fmt: skip


@triton.jit
def y_face_backward(
    z, h, qx, qy, n, grads, saved, plane, o, i, ny, pitch, g_dt, g_dt_dx, dt_dx, theta, rest, eps,
    h_dry, ROUGH: tl.constexpr,
):  # fmt: skip
    """:func:`face_backward` of the faces below the cells at ``o``, of row ``i``."""
    own = tl.load(qy + o)
    crossing = (tl.load(qx + o - 1) + tl.load(qx + o + pitch - 1)) + (
        tl.load(qx + o) + tl.load(qx + o + pitch)
    )
    return face_backward(
        z, h, n, grads, grads + 2 * plane, saved + plane, saved + 2 * plane, saved + 3 * plane, o,
        pitch, own, neighbours(qy, o, pitch, own, i, ny), crossing, g_dt, g_dt_dx, dt_dx, theta,
        rest, eps, h_dry, ROUGH,
    )  # fmt: skip


# c[j] = theta q[j] + rest (q[j-1] + q[j+1]), where the end faces stand in for those beyond them;
# qt of an x face = a quarter of the four y faces around it, and the reverse; w = h + z
# dL/dqx[j] = theta dL/dN[j] + rest (dL/dN[j-1] + dL/dN[j+1]) + dL/down[j]
#             + dL/dqt / 4 of the four y faces around; dL/dqy likewise
# dL/dh = (dL/dh of shares_backward) + sum of dL/dw over the four faces,
# dL/dz = sum of (dL/dw + dL/dz at fixed level) over the four faces
@triton.jit(do_not_specialize=["rows", "pitch", "left", "ny", "nx"])
def faces_backward(
    old, grads, grads_before, grad_z, z, n, saved, dts, constants,
    plane, rows, pitch, left, pad, ny, nx, across,
    BY: tl.constexpr, BX: tl.constexpr, ROUGH: tl.constexpr,
):  # fmt: skip
    """Derivatives with respect to the state before the step; those of the bed are added up."""
    program, b = tl.program_id(0), tl.program_id(1)
    dt, dx, gravity = tl.load(dts + b), tl.load(constants), tl.load(constants + 1)
    theta = tl.load(constants + 2).to(tl.float32)
    eps, h_dry = tl.load(constants + 3).to(tl.float32), tl.load(constants + 4).to(tl.float32)
    rest = (1.0 - theta) * 0.5
    g_dt, g_dt_dx = (gravity * dt).to(tl.float32), (gravity * dt / dx).to(tl.float32)
    dt_dx = (dt / dx).to(tl.float32)
    i, j, o = cell_offsets(program, b, rows, pitch, left, pad, across, BY, BX)
    inside = (i < ny) & (j < nx)
    if dt == 0.0:
        for k in tl.static_range(3):
            tl.store(grads_before + k * plane + o, tl.load(grads + k * plane + o))
    else:
        qx, qy = old + plane, old + 2 * plane
        # faces right of the cells at (i, j), (i, j-1), (i, j+1), (i+1, j), (i+1, j-1)
        g_num, g_own, g_cross_0, _, g_w_left, _, g_z_left = x_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o, j, nx, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_w_left, g_z_left
        ends = tl.where(j == 0, rest, 0.0) + tl.where(j == nx - 2, rest, 0.0)
        g_x = (theta + ends) * g_num + g_own
        g_num, _, g_cross_1, g_w_right, _, g_z_right, _ = x_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o - 1, j - 1, nx, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_h + g_w_right, g_z + g_z_right
        g_x += rest * g_num
        g_num, _, _, _, _, _, _ = x_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o + 1, j + 1, nx, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_x += rest * g_num
        _, _, g_cross_2, _, _, _, _ = x_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o + pitch, j, nx, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        _, _, g_cross_3, _, _, _, _ = x_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o + pitch - 1, j - 1, nx, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_y = (g_cross_0 + g_cross_1) + (g_cross_2 + g_cross_3)
        # faces below the cells at (i, j), (i-1, j), (i+1, j), (i, j+1), (i-1, j+1)
        g_num, g_own, g_cross_0, _, g_w_left, _, g_z_left = y_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o, i, ny, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_h + g_w_left, g_z + g_z_left
        ends = tl.where(i == 0, rest, 0.0) + tl.where(i == ny - 2, rest, 0.0)
        g_y += (theta + ends) * g_num + g_own
        g_num, _, g_cross_1, g_w_right, _, g_z_right, _ = y_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o - pitch, i - 1, ny, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_h, g_z = g_h + g_w_right, g_z + g_z_right
        g_y += rest * g_num
        g_num, _, _, _, _, _, _ = y_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o + pitch, i + 1, ny, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_y += rest * g_num
        _, _, g_cross_2, _, _, _, _ = y_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o + 1, i, ny, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        _, _, g_cross_3, _, _, _, _ = y_face_backward(
            z, old, qx, qy, n, grads, saved, plane, o - pitch + 1, i - 1, ny, pitch,
            g_dt, g_dt_dx, dt_dx, theta, rest, eps, h_dry, ROUGH,
        )  # fmt: skip
        g_x += (g_cross_0 + g_cross_1) + (g_cross_2 + g_cross_3)
        tl.store(grads_before + o, tl.where(inside, tl.load(saved + 4 * plane + o) + g_h, 0.0))
        tl.store(grads_before + plane + o, tl.where(j < nx - 1, tl.where(i < ny, g_x, 0.0), 0.0))
        tl.store(
            grads_before + 2 * plane + o, tl.where(i < ny - 1, tl.where(j < nx, g_y, 0.0), 0.0)
        )
        tl.store(grad_z + o, tl.load(grad_z + o) + tl.where(inside, g_h + g_z, 0.0))
