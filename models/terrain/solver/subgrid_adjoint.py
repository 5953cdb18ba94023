"""Hand-written derivative of one step on a subgrid: the definition.

As :mod:`models.terrain.solver.adjoint`, with respect to what is learned of the faces in place of
the bed. Compiled in :mod:`models.terrain.solver.cpu.subgrid_adjoint`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.terrain.solver.adjoint import FaceGradient, back_to_faces, level_vjp
from models.terrain.solver.scheme import FlowState, Ground, Physics, water_depth
from models.terrain.solver.subgrid import FaceChange, FaceTables, deep_share, storage_slope


class FaceSlopes(NamedTuple):
    """How the shape of faces follows its level and the changes [b, ny, nx].

    Attributes:
        depth: slope of the flow depth by the level.
        log_friction: slope of the logarithm of the friction factor by the level, 1/m.
        film: slope of that logarithm by the change ``film``; by ``deep`` it is 1 - film.
    """

    depth: Tensor
    log_friction: Tensor
    film: Tensor


def subgrid_step_vjp(
    state: FlowState, ground: Ground, dt: Float[Tensor, "b"], physics: Physics, grad: FlowState
) -> tuple[FlowState, FaceChange, FaceChange]:
    """Derivatives with respect to the old state and to changes of the faces, at no change.

    A held level fills its cell by its table, whatever is learned.

    Args:
        state: before the step; h [b, ny, nx], qx [b, ny, nx-1], qy [b, ny-1, nx].
        ground: tables, roughness, outlets and held levels of the step.
        dt: s; a sample with 0 passes ``grad`` through unchanged.
        physics: constants, without a Froude cap and the authors' terms.
        grad: derivative with respect to the state after the step; shapes of ``state``.

    Returns:
        The derivatives with respect to ``state``, to the x faces and to the y faces.
    """
    grid = ground.subgrid
    assert grid is not None  # noqa: S101  # guaranteed by the callers
    back = back_to_faces(state, ground, dt, physics, grad)
    w = water_depth(state.h, ground) + ground.z
    x_w, x = _levels_vjp(w, grid.x, back.x)
    y_w, y = _levels_vjp(w.mT, grid.y.mT, back.y)
    h = back.state.h + (x_w + y_w.mT) * storage_slope(state.h, grid)
    return back.state._replace(h=h), x, y.mT


def _levels_vjp(w: Tensor, faces: FaceTables, grad: FaceGradient) -> tuple[Tensor, FaceChange]:
    """Derivatives to the levels of cells and to the changes, through the tables of the faces.

    With f the friction factor and level = max(w_l, w_r) - shift:

        dL/dlevel = dL/dhf dhf/dlevel + dL/dlog r dlog f/dlevel,  dL/dshift = -dL/dlevel
    """
    slopes = face_slopes(torch.maximum(w[:, :, 1:], w[:, :, :-1]), faces)
    by_level = grad.hf * slopes.depth + grad.log_r * slopes.log_friction
    film = grad.log_r * slopes.film
    return level_vjp(w, by_level, grad.fall), FaceChange(-by_level, film, grad.log_r - film)


def face_slopes(level: Float[Tensor, "b ny nx"], faces: FaceTables) -> FaceSlopes:
    """The slopes of :func:`models.terrain.solver.subgrid.face_shape`.

    Between entries k and k + 1, with share s of the way, w the weights of deep water and m entries
    a metre; above the table with the last entry n, whose depth is hb_n:

        hf = max(hb_k + s (hb_{k+1} - hb_k), level - mean),  dhf/dlevel = m (hb_{k+1} - hb_k) or 1
        f = f_k + s (f_{k+1} - f_k),                         df/dlevel = m (f_{k+1} - f_k)
        df/dfilm = (1 - s) f_k (1 - w_k) + s f_{k+1} (1 - w_{k+1})
        above: f = far - (far - f_n) (hb_n / hf)^2,          df/dlevel = 2 (far - f) / hf,
        dlog f/dfilm = 1 - w_n
    """
    last = faces.depth.shape[-1] - 1
    per_m = last / faces.span
    x = ((level - faces.sill) * per_m).clamp(0, last)
    k = x.long().clamp(max=last - 1)
    both, s = torch.stack([k, k + 1], -1), x - k
    hb, f = faces.depth.gather(-1, both), faces.friction.gather(-1, both)
    linear, whole = torch.lerp(hb[..., 0], hb[..., 1], s), faces.depth[..., -1]
    depth = torch.maximum(linear, level - faces.mean)
    by_level = torch.where(level - faces.mean > linear, 1, per_m * (hb[..., 1] - hb[..., 0]))
    above = level > faces.sill + faces.span
    fall = (faces.far - faces.friction[..., -1]) * (whole / torch.where(above, depth, 1)) ** 2
    friction = torch.where(above, faces.far - fall, torch.lerp(f[..., 0], f[..., 1], s))
    rise = torch.where(above, 2 * fall / depth, per_m * (f[..., 1] - f[..., 0]))
    thin = f * (1 - deep_share(hb))
    film = torch.lerp(thin[..., 0], thin[..., 1], s) / friction
    return FaceSlopes(by_level, rise / friction, torch.where(above, 1 - deep_share(whole), film))
