"""Derivative of one step of :mod:`scheme` by hand, in plain torch: the definition.

Each line undoes one line of the step, last first; ``g_x`` is the derivative of the loss by ``x``.
Ties of a maximum share the derivative half and half, as torch's do.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.terrain.solver.scheme import (
    Ground,
    Physics,
    State,
    across,
    centred,
    cube_root,
    face_fluxes,
    outflow,
    supply,
)


def step_vjp(
    state: State, ground: Ground, dt: Float[Tensor, "b"], physics: Physics, grad: State
) -> tuple[State, Float[Tensor, "b ny nx"]]:
    """Derivatives by the old state and the bed, from those by the new state.

    Args:
        state: before the step.
        ground: of the step.
        dt: s; samples with 0 pass ``grad`` on.
        physics: without Froude cap.
        grad: by the state after the step.

    Returns:
        Derivatives by ``state`` and by ``ground.z``.
    """
    t = dt.to(state.h.dtype)[:, None, None]
    t_dx, still = t / ground.dx, t == 0
    g_h, g_z = grad.h, torch.zeros_like(grad.h)
    if ground.level is not None:
        held = (ground.level > -torch.inf) & ~still
        g_z = torch.where(held & (ground.level > ground.z), -g_h, g_z)
        g_h = torch.where(held, 0, g_h)
    qx, qy = face_fluxes(state, ground, t, physics)
    out = outflow(state.h, ground, physics)
    lx = torch.where(still, 0, grad.qx) + t_dx * (g_h[:, :, 1:] - g_h[:, :, :-1])
    ly = torch.where(still, 0, grad.qy) + t_dx * (g_h[:, 1:] - g_h[:, :-1])
    g_out = -t_dx * g_h
    g_old = g_h
    if physics.limiter:
        g_old, lx, ly, g_out = _limiter_vjp(state.h, (qx, qy, out), t_dx, (g_h, lx, ly, g_out))
    if ground.drain is not None:
        wet = state.h > physics.h_dry
        safe = torch.where(wet, state.h, 1)
        slope = 5 / 3 * out / safe if not physics.authors_outflow else out / safe
        g_old = g_old + torch.where(wet, g_out * slope, 0)
    x = _x_vjp(state.h, state.qx, state.qy, ground, t, physics, lx)
    turned_n = ground.manning.mT if isinstance(ground.manning, Tensor) else ground.manning
    turned = Ground(ground.z.mT, turned_n, ground.dx)
    y = _x_vjp(state.h.mT, state.qy.mT, state.qx.mT, turned, t, physics, ly.mT)
    keep = [torch.where(still, old, 0) for old in (grad.qx, grad.qy)]
    found = State(
        g_old + x.w + y.w.mT, keep[0] + x.along + y.across.mT, keep[1] + x.across + y.along.mT
    )
    return found, g_z + x.w + y.w.mT + x.z + y.z.mT


def _limiter_vjp(
    h: Tensor, flows: tuple[Tensor, Tensor, Tensor], t_dx: Tensor, grads: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives by depth, unlimited faces and outflow from those by the limited ones."""
    (qx, qy, out), (g_h, lx, ly, g_out) = flows, grads
    share = supply(h, qx, qy, out, t_dx)
    east, south, taken_x, taken_y = qx > 0, qy > 0, lx * qx, ly * qy
    g_share = g_out * out + pad(torch.where(east, taken_x, 0), (0, 1))
    g_share = g_share + pad(torch.where(east, 0, taken_x), (1, 0))
    g_share = g_share + pad(torch.where(south, taken_y, 0), (0, 0, 0, 1))
    g_share = g_share + pad(torch.where(south, 0, taken_y), (0, 0, 1, 0))
    short = share < 1
    # share = h / wanted; a cell without water has share 0 and its wanted outflow is worked out anew
    leaving = pad(qx.clamp(min=0), (0, 1)) + pad((-qx).clamp(min=0), (1, 0)) + out
    leaving = leaving + pad(qy.clamp(min=0), (0, 0, 0, 1)) + pad((-qy).clamp(min=0), (0, 0, 1, 0))
    by_wanted = g_share / torch.where(short, t_dx * leaving, 1)
    g_leaving = torch.where(short, -by_wanted * share * t_dx, 0)
    lx = lx * torch.where(east, share[:, :, :-1], share[:, :, 1:])
    ly = ly * torch.where(south, share[:, :-1], share[:, 1:])
    lx = lx + torch.where(east, g_leaving[:, :, :-1], -g_leaving[:, :, 1:])
    ly = ly + torch.where(south, g_leaving[:, :-1], -g_leaving[:, 1:])
    return g_h + torch.where(short, by_wanted, 0), lx, ly, g_out * share + g_leaving


class FaceGradient(NamedTuple):
    """By the water level [b, ny, nx], the bed beyond that, and the discharges along and across."""

    w: Tensor
    z: Tensor
    along: Tensor
    across: Tensor


def _x_vjp(
    h: Tensor, qx: Tensor, qy: Tensor, ground: Ground, t: Tensor, physics: Physics, g: Tensor
) -> FaceGradient:
    """Derivative of the momentum equation on the faces between columns."""
    z, w, gt, dx = ground.z, h + ground.z, physics.gravity * t, ground.dx
    wl, wr, zl, zr = w[:, :, :-1], w[:, :, 1:], z[:, :, :-1], z[:, :, 1:]
    depth = torch.maximum(wr, wl) - torch.maximum(zr, zl)
    hf, slope, n = depth.clamp(min=physics.h_min), (wr - wl) / dx, ground.manning
    if isinstance(n, Tensor):
        n = (n[:, :, 1:] + n[:, :, :-1]) / 2
    qt, p, rough = across(qy), hf * hf * cube_root(hf), gt * n**2
    norm = torch.sqrt(qx**2 + qt**2 + physics.eps)
    push, under = centred(qx, physics.theta) - gt * hf * slope, p + rough * norm
    g = torch.where(depth > physics.h_dry, g, 0) if physics.h_dry > 0 else g
    g_push = g * p / under
    by_under = (
        g * push / (under * under)
    )  # of q = push p / under, by p: x rough norm, by norm: x -p
    g_norm = -by_under * p * rough / norm
    g_hf = by_under * rough * norm * (7 / 3) * p / hf - g_push * gt * slope
    g_hf = torch.where(depth >= physics.h_min, g_hf, 0)
    g_slope = -g_push * gt * hf / dx
    right, bed = _share_of_right(wl, wr), _share_of_right(zl, zr)
    by_w = pad(g_hf * right + g_slope, (1, 0)) + pad(g_hf * (1 - right) - g_slope, (0, 1))
    by_z = pad(-g_hf * bed, (1, 0)) + pad(-g_hf * (1 - bed), (0, 1))
    along = _centred_vjp(g_push, physics.theta) + g_norm * qx
    return FaceGradient(by_w, by_z, along, _across_vjp(g_norm * qt))


def _share_of_right(left: Tensor, right: Tensor) -> Tensor:
    """Derivative of max(left, right) by the right one: 1, 0, or half at a tie."""
    return (right > left).to(left.dtype) + 0.5 * (right == left).to(left.dtype)


def _centred_vjp(g: Tensor, theta: float) -> Tensor:
    """The weights of :func:`scheme.centred` are symmetric, end faces included."""
    return centred(g, theta)


def _across_vjp(g: Tensor) -> Tensor:
    """Each face across takes part in the four means around it."""
    wide = pad(g, (1, 1)) / 4
    columns = wide[:, :, 1:] + wide[:, :, :-1]
    return columns[:, 1:] + columns[:, :-1]
