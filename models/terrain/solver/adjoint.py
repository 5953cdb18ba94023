"""Hand-written derivative of one step of :mod:`models.terrain.solver.scheme`: the definition.

Plain torch. The lines of the step are differentiated in reverse order; ``g_x`` is the derivative of
the loss L with respect to ``x``, dL/dx. At a tie of max(a, b) each argument gets half of the
derivative, as in torch. The equation of each block is written above it; the compiled engines
(:mod:`models.terrain.solver.cpu.adjoint`, :mod:`models.terrain.solver.gpu.adjoint`) compute the
same blocks.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.terrain.solver.scheme import (
    FlowState,
    Ground,
    Physics,
    across,
    centred,
    cube_root,
    face_fluxes,
    flow_shape,
    outflow,
    supply,
    transposed,
    water_depth,
)


def step_vjp(
    state: FlowState, ground: Ground, dt: Float[Tensor, "b"], physics: Physics, grad: FlowState
) -> tuple[FlowState, Float[Tensor, "b ny nx"]]:
    """Derivatives with respect to the old state and the bed, from those of the new state.

    Args:
        state: before the step; h [b, ny, nx], qx [b, ny, nx-1], qy [b, ny-1, nx].
        ground: bed, roughness, outlets and held levels of the step.
        dt: s; a sample with 0 passes ``grad`` through unchanged.
        physics: constants, without a Froude cap and the authors' terms.
        grad: derivative with respect to the state after the step; shapes of ``state``.

    Returns:
        The derivatives with respect to ``state`` and to ``ground.z``.

    Raises:
        ValueError: if the ground has a subgrid.
    """
    if ground.subgrid is not None:
        raise ValueError("with a subgrid take subgrid_adjoint.subgrid_step_vjp")
    z, back = ground.z, back_to_faces(state, ground, dt, physics, grad)
    (x, y), w = (back.x, back.y), state.h + ground.z
    g_w = level_vjp(w, x.hf, x.fall) + level_vjp(w.mT, y.hf, y.fall).mT
    # of a face: hf = max(w_l, w_r) - max(z_l, z_r), so dhf/dz_r = -[z_r > z_l], 1/2 at a tie
    still = torch.zeros_like
    g_z = g_w + level_vjp(z, -x.hf, still(x.hf)) + level_vjp(z.mT, -y.hf, still(y.hf)).mT
    # held level: h' = max(level - z, 0), so dh'/dz = -1 where level > z
    if ground.level is not None:
        g_z = g_z - torch.where((ground.level > z) & (dt > 0)[:, None, None], grad.h, 0)
    return back.state._replace(h=back.state.h + g_w), g_z


class FaceGradient(NamedTuple):
    """Derivatives through the momentum equation of the faces of one direction [b, ny, nx-1].

    Attributes:
        hf: with respect to the flow depth.
        fall: to w_r - w_l, at fixed flow depth.
        log_r: to the logarithm of r, that is of n^2 and of the friction factor.
        along: to the old discharges along the direction.
        across: to those across it [b, ny-1, nx].
    """

    hf: Tensor
    fall: Tensor
    log_r: Tensor
    along: Tensor
    across: Tensor


class BackToFaces(NamedTuple):
    """Derivatives of a step but for what the faces get from the cells.

    Attributes:
        state: with respect to the old state; that to h leaves out the levels at the faces.
        x: of the faces between columns.
        y: of the faces between rows, rows and columns exchanged.
    """

    state: FlowState
    x: FaceGradient
    y: FaceGradient


def back_to_faces(
    state: FlowState, ground: Ground, dt: Float[Tensor, "b"], physics: Physics, grad: FlowState
) -> BackToFaces:
    """Continuity, limiter, outlets and momentum in reverse; arguments as of :func:`step_vjp`."""
    t = dt.to(state.h.dtype)[:, None, None]
    t_dx, still, g_h = t / ground.dx, t == 0, grad.h
    # held level: dh'/dh = 0
    if ground.level is not None:
        g_h = torch.where((ground.level > -torch.inf) & ~still, 0, g_h)
    qx, qy = face_fluxes(state, ground, t, physics)
    out = outflow(state.h, ground, physics)
    # continuity: h' = h - dt/dx (qx'[j] - qx'[j-1] + qy'[i] - qy'[i-1] + out'), so
    # dL/dqx'[j] = g_qx[j] + dt/dx (g_h[j+1] - g_h[j]), dL/dout' = -dt/dx g_h, dL/dh = g_h
    lx = torch.where(still, 0, grad.qx) + t_dx * (g_h[:, :, 1:] - g_h[:, :, :-1])
    ly = torch.where(still, 0, grad.qy) + t_dx * (g_h[:, 1:] - g_h[:, :-1])
    g_out = -t_dx * g_h
    g_old = g_h
    if physics.limiter:
        g_old, lx, ly, g_out = _limiter_vjp(state.h, (qx, qy, out), t_dx, (g_h, lx, ly, g_out))
    # outlet: out = drain h^(5/3), so dout/dh = 5/3 out / h
    if ground.drain is not None:
        wet = state.h > physics.h_dry
        safe = torch.where(wet, state.h, 1)
        g_old = g_old + torch.where(wet, g_out * 5 / 3 * out / safe, 0)
    w = water_depth(state.h, ground) + ground.z
    x = _x_vjp(w, state.qx, state.qy, ground, t, physics, lx)
    y = _x_vjp(w.mT, state.qy.mT, state.qx.mT, transposed(ground), t, physics, ly.mT)
    keep = [torch.where(still, old, 0) for old in (grad.qx, grad.qy)]
    old = FlowState(g_old, keep[0] + x.along + y.across.mT, keep[1] + x.across + y.along.mT)
    return BackToFaces(old, x, y)


def _limiter_vjp(
    h: Tensor, flows: tuple[Tensor, Tensor, Tensor], t_dx: Tensor, grads: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives with respect to depth, unlimited faces and outflow, from those of the limited.

    With U the cell that the water of a face leaves, and leaving = sum of all outgoing |q| + out:

        wanted = dt/dx leaving,  share = min(1, h / wanted),  q' = share[U] q,  out' = share out

        dL/dshare = sum over outgoing faces of g_q' q, + g_out' out
        dL/dh    += dL/dshare / wanted                        where share < 1
        dL/dleaving = -dL/dshare / wanted share dt/dx         where share < 1
        dL/dq     = share[U] g_q' + sign(q) dL/dleaving[U],  dL/dout = share g_out' + dL/dleaving
    """
    (qx, qy, out), (g_h, lx, ly, g_out) = flows, grads
    share = supply(h, qx, qy, out, t_dx)
    east, south, flow_grad_x, flow_grad_y = qx > 0, qy > 0, lx * qx, ly * qy
    g_share = g_out * out + pad(torch.where(east, flow_grad_x, 0), (0, 1))
    g_share = g_share + pad(torch.where(east, 0, flow_grad_x), (1, 0))
    g_share = g_share + pad(torch.where(south, flow_grad_y, 0), (0, 0, 0, 1))
    g_share = g_share + pad(torch.where(south, 0, flow_grad_y), (0, 0, 1, 0))
    short = share < 1
    # h / share would give ``wanted`` but for dry cells, whose share is 0: it is recomputed
    leaving = pad(qx.clamp(min=0), (0, 1)) + pad((-qx).clamp(min=0), (1, 0)) + out
    leaving = leaving + pad(qy.clamp(min=0), (0, 0, 0, 1)) + pad((-qy).clamp(min=0), (0, 0, 1, 0))
    g_h_share = g_share / torch.where(short, t_dx * leaving, 1)
    g_leaving = torch.where(short, -g_h_share * share * t_dx, 0)
    lx = lx * torch.where(east, share[:, :, :-1], share[:, :, 1:])
    ly = ly * torch.where(south, share[:, :-1], share[:, 1:])
    lx = lx + torch.where(east, g_leaving[:, :, :-1], -g_leaving[:, :, 1:])
    ly = ly + torch.where(south, g_leaving[:, :-1], -g_leaving[:, 1:])
    return g_h + torch.where(short, g_h_share, 0), lx, ly, g_out * share + g_leaving


def _x_vjp(
    w: Tensor, qx: Tensor, qy: Tensor, ground: Ground, t: Tensor, physics: Physics, g: Tensor
) -> FaceGradient:
    """Derivative of the momentum equation on the faces between columns.

    With l, r the cells left and right of a face, c the theta-weighted discharge and f the friction
    factor, 1 without a subgrid:

        hf = max(w_l, w_r) - max(z_l, z_r),  r = g dt n^2 f / hf^(7/3)
        N = c - g dt hf (w_r - w_l) / dx,  Q^2 = qx^2 + qt^2 + eps,  F = 1 + r Q
        M^2 = N^2 + (qt F)^2 + eps,  s = sqrt(1 + 4 r M),  q = 2 N / (1 + s)

        dq/d(rM) = -2 q / ((1 + s) s) = B,  dq/dM = B r
        dq/dN = 2 / (1 + s) + B r N / M,  dq/dF = B r qt^2 F / M,  dq/dQ = dq/dF r
        dq/dlog r = r (B M + dq/dF Q),  dlog r/dhf = -7/3 / hf,  dN/dhf = -g dt (w_r - w_l) / dx
        dq/dqt = B r F^2 qt / M + dq/dQ qt / Q,  dq/dqx = dq/dQ qx / Q   (c is gathered from dq/dN)
        dN/d(w_r - w_l) = -g dt hf / dx
    """
    gt, dx, (depth, friction) = physics.gravity * t, ground.dx, flow_shape(w, ground)
    hf, slope = depth.clamp(min=physics.h_min), (w[:, :, 1:] - w[:, :, :-1]) / dx
    n = ground.manning
    if isinstance(n, Tensor):
        n = (n[:, :, 1:] + n[:, :, :-1]) / 2
    qt, r = across(qy), gt * n**2 * friction / (hf * hf * cube_root(hf))
    push = centred(qx, physics.theta) - gt * hf * slope
    old = torch.sqrt(qx**2 + qt**2 + physics.eps)
    factor = 1 + r * old
    norm = torch.sqrt(push**2 + (qt * factor) ** 2 + physics.eps)
    s = torch.sqrt(1 + 4 * r * norm)
    g = torch.where(depth > physics.h_dry, g, 0) if physics.h_dry > 0 else g
    g_rm = -4 * g * push / ((1 + s) ** 2 * s)
    g_m = g_rm * r / norm  # over M, for dM/dN = N / M
    g_push = 2 * g / (1 + s) + g_m * push
    g_factor = g_m * qt**2 * factor
    g_old = g_factor * r / old  # over Q, for dQ/dqx = qx / Q and dQ/dqt = qt / Q
    g_log_r = r * (g_rm * norm + g_factor * old)
    g_hf = -(7 / 3) / hf * g_log_r - g_push * gt * slope
    g_hf = torch.where(depth >= physics.h_min, g_hf, 0)
    along = _centred_vjp(g_push, physics.theta) + g_old * qx
    crossing = _across_vjp((g_m * factor**2 + g_old) * qt)
    return FaceGradient(g_hf, -g_push * gt * hf / dx, g_log_r, along, crossing)


def level_vjp(
    w: Float[Tensor, "b n m"], by_highest: Float[Tensor, "b n _m"], by_fall: Float[Tensor, "b n _m"]
) -> Float[Tensor, "b n m"]:
    """Derivatives with respect to levels, from those to max(w_l, w_r) and to w_r - w_l."""
    right = _share_of_right(w[:, :, :-1], w[:, :, 1:])
    to_right, to_left = by_highest * right + by_fall, by_highest * (1 - right) - by_fall
    return pad(to_right, (1, 0)) + pad(to_left, (0, 1))


def _share_of_right(left: Tensor, right: Tensor) -> Tensor:
    """Derivative of max(left, right) with respect to ``right``: 1, 0, or 1/2 at a tie."""
    return (right > left).to(left.dtype) + 0.5 * (right == left).to(left.dtype)


def _centred_vjp(g: Tensor, theta: float) -> Tensor:
    """Transpose of :func:`centred`, which is itself: its weights are symmetric, ends included.

    c[j] = theta q[j] + (1 - theta)/2 (q[j-1] + q[j+1])
    """
    return centred(g, theta)


def _across_vjp(g: Tensor) -> Tensor:
    """Transpose of :func:`across`, qt = (sum of the four faces around) / 4."""
    wide = pad(g, (1, 1)) / 4
    columns = wide[:, :, 1:] + wide[:, :, :-1]
    return columns[:, 1:] + columns[:, :-1]
