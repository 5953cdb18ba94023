"""One step of the local-inertial shallow-water equations in plain torch: the definition.

Bates et al. 2010 (doi 10.1016/j.jhydrol.2010.03.027) with the theta weighting of de Almeida et al.
2012 (doi 10.1029/2011WR011570) on a staggered grid of square cells. Every faster engine of this
folder is tested against these functions. Any float dtype, any device, differentiable.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.terrain.solver.soil import Soil
from models.terrain.solver.subgrid import (
    FaceShape,
    Subgrid,
    depth_over_lowest,
    face_shape,
    mean_depth,
    storage_slope,
)
from models.terrain.spec.solver import AUTHORS_ALPHA, AUTHORS_THETA, THETA, alpha_max

SCHEME = 2  # of the equations below; stored fine floods are keyed by it
REFERENCE_OUTFLOW_SLOPE = 0.2  # of the authors' code; q = g h 0.2 is no discharge by its unit
DT_CAP_S = 10.0
DT_CAP_PER_M = 0.2  # dt <= dx / 5 s: inflow on dry ground must not jump


class Physics(NamedTuple):
    """Constants of the scheme.

    Attributes:
        gravity: m/s2.
        theta: weight of a face's own discharge against the mean of its neighbours, 0..1.
        alpha: Courant number; stable up to sqrt(theta / 2). None: 0.9 of that.
        h_min: least flow depth in the formulas, m.
        eps: under the root of the discharge's norm, m4/s2.
        h_dry: no flow over a face below this flow depth, m; 0 is the authors' scheme.
        limiter: scale outflow so that no cell gives more than it holds.
        froude: largest |q| over hf sqrt(g hf); None for no cap.
        cfl: ``bates``: dt = alpha dx / sqrt(g h); ``reference``: alpha dx / (g + h), the authors'.
        h_floor: least depth that the time step assumes, m.
        dt_max: longest step in s; None: 10 s or dx / 5, the smaller.
        authors_terms: friction of the old discharge and outlets that give g h 0.2, the authors'.
    """

    gravity: float = 9.8
    theta: float = THETA
    alpha: float | None = None
    h_min: float = 1e-7
    eps: float = 1e-8
    h_dry: float = 1e-5
    limiter: bool = True
    froude: float | None = None
    cfl: Literal["bates", "reference"] = "bates"
    h_floor: float = 0.01
    dt_max: float | None = None
    authors_terms: bool = False

    @property
    def courant(self) -> float:
        """``alpha``, or the default that keeps water of any depth at rest."""
        return alpha_max(self.theta) if self.alpha is None else self.alpha


def authors_physics(h_floor: float = 0.1) -> Physics:
    """The authors' scheme: no dry rule, no limiter, their time step, friction and outflow."""
    return Physics(
        theta=AUTHORS_THETA,
        alpha=AUTHORS_ALPHA,
        h_dry=0.0,
        limiter=False,
        cfl="reference",
        h_floor=h_floor,
        authors_terms=True,
    )


class Ground(NamedTuple):
    """What stays constant during a simulation: the bed and its properties.

    Attributes:
        z: bed in metres [b, ny, nx]; in float32 its mean should be near 0. With a subgrid the
            lowest fine height of each cell.
        manning: roughness in s/m^(1/3), a number or [b, ny, nx].
        dx: side of a cell in metres.
        drain: sum over a cell's open edges of sqrt(slope)/n [b, ny, nx]; None without outlets.
        level: water level held in a cell, m [b, ny, nx]; -inf where free; None: free everywhere.
        subgrid: storage of the cells and conveyance of the faces; None: the bed is level in a cell.
        soil: takes water up between steps, of one sample; None: none goes in.
    """

    z: Tensor
    manning: Tensor | float
    dx: float
    drain: Tensor | None = None
    level: Tensor | None = None
    subgrid: Subgrid | None = None
    soil: Soil | None = None


class FlowState(NamedTuple):
    """Mean depth h [b, ny, nx] in m; discharges qx [b, ny, nx-1], qy [b, ny-1, nx] in m2/s."""

    h: Tensor
    qx: Tensor
    qy: Tensor


class Exchange(NamedTuple):
    """Depth that crosses the borders of each cell's grid in a step, m/s [b, ny, nx].

    Attributes:
        outlets: leaves through outlets.
        held: leaves through held levels; negative where they give water.
    """

    outlets: Tensor
    held: Tensor


def dry(z: Float[Tensor, "b ny nx"]) -> FlowState:
    """No water, at rest."""
    return FlowState(torch.zeros_like(z), torch.zeros_like(z[:, :, 1:]), torch.zeros_like(z[:, 1:]))


def dt_cap(dx: float, physics: Physics) -> float:
    """Longest step in s, whatever the depth."""
    if physics.dt_max is not None:
        return physics.dt_max
    return float("inf") if physics.cfl == "reference" else min(DT_CAP_S, DT_CAP_PER_M * dx)


def water_depth(h: Float[Tensor, "b ny nx"], ground: Ground) -> Float[Tensor, "b ny nx"]:
    """Depth over the bed in m; with a subgrid over the lowest fine height."""
    return h if ground.subgrid is None else depth_over_lowest(h, ground.subgrid)


def wet_share(h: Float[Tensor, "b ny nx"], ground: Ground) -> Tensor | float:
    """Share of each cell that is under water; 1 without a subgrid."""
    return 1.0 if ground.subgrid is None else 1 / storage_slope(h, ground.subgrid)


def stable_step(h: Float[Tensor, "b ny nx"], dx: float, physics: Physics) -> Float[Tensor, "b"]:
    """Step in s from the deepest water of each sample; float64; carries no gradient."""
    return step_for(h.detach().amax((1, 2)).double(), dx, physics)


def step_for(deepest: Float[Tensor, "b"], dx: float, physics: Physics) -> Float[Tensor, "b"]:
    """Step in s for water of this greatest depth in m."""
    deepest = deepest.clamp(min=physics.h_floor)
    if physics.cfl == "reference":
        step = physics.courant * dx / (physics.gravity + deepest)
    else:
        step = physics.courant * dx / (physics.gravity * deepest).sqrt()
    return step.clamp(max=dt_cap(dx, physics))


def step(
    state: FlowState,
    ground: Ground,
    dt: Float[Tensor, "b"],
    source: Tensor | float,
    physics: Physics,
) -> tuple[FlowState, Exchange]:
    """Fluxes from the old state, then continuity with the new fluxes.

    Args:
        state: of all samples.
        ground: bed, roughness, outlets.
        dt: s, one per sample; 0 leaves a sample unchanged.
        source: rain and inflow in m/s, [b, ny, nx] or a number.
        physics: constants.

    Returns:
        The new state, and what crossed the edges of the grid.
    """
    t = dt.to(state.h.dtype)[:, None, None]
    qx, qy = face_fluxes(state, ground, t, physics)
    out = outflow(state.h, ground, physics)
    if physics.limiter:
        share = supply(state.h, qx, qy, out, t / ground.dx)
        qx = qx * torch.where(qx > 0, share[:, :, :-1], share[:, :, 1:])
        qy = qy * torch.where(qy > 0, share[:, :-1], share[:, 1:])
        out = out * share
    gone = out / ground.dx
    h = state.h + t * (source - gone) - t / ground.dx * divergence(qx, qy)
    if physics.limiter:
        h = h + (-h.detach()).clamp(min=0)  # rounding below zero; carries no gradient
    exchanged = torch.zeros_like(gone)
    if ground.level is not None:
        held = torch.where((ground.level > -torch.inf) & (t > 0), held_depth(ground), h)
        exchanged = torch.where(t > 0, (h - held) / t.clamp(min=1e-30), 0)
        h = held
    still = t == 0
    fluxes = torch.where(still, state.qx, qx), torch.where(still, state.qy, qy)
    return FlowState(h, *fluxes), Exchange(gone, exchanged)


def held_depth(ground: Ground) -> Float[Tensor, "b ny nx"]:
    """Mean depth in m of cells at the level that is held in them; 0 where none is."""
    assert ground.level is not None  # noqa: S101  # guaranteed by the callers
    above = ground.level - ground.z
    return above.clamp(min=0) if ground.subgrid is None else mean_depth(above, ground.subgrid)


def face_fluxes(
    state: FlowState, ground: Ground, t: Float[Tensor, "b 1 1"], physics: Physics
) -> tuple[Float[Tensor, "b ny faces_x"], Float[Tensor, "b faces_y nx"]]:
    """New discharge in m2/s through x and y faces, before the limiter.

    Args:
        state: before the step.
        ground: bed, roughness.
        t: dt in s.
        physics: constants.
    """
    w = water_depth(state.h, ground) + ground.z
    x = _x_fluxes(w, state.qx, state.qy, ground, t, physics)
    y = _x_fluxes(w.mT, state.qy.mT, state.qx.mT, transposed(ground), t, physics).mT
    return x, y


def transposed(ground: Ground) -> Ground:
    """The ground with rows and columns exchanged, for its faces alone."""
    n, grid = ground.manning, ground.subgrid
    if grid is not None:
        grid = grid._replace(x=grid.y.mT)
    return Ground(ground.z.mT, n.mT if isinstance(n, Tensor) else n, ground.dx, subgrid=grid)


def flow_shape(w: Tensor, ground: Ground) -> FaceShape:
    """Flow depth and friction factor of the faces between columns at water levels ``w``."""
    level = torch.maximum(w[:, :, 1:], w[:, :, :-1])
    if ground.subgrid is not None:
        return face_shape(level, ground.subgrid.x)
    z = ground.z
    return FaceShape(level - torch.maximum(z[:, :, 1:], z[:, :, :-1]), 1.0)


def _x_fluxes(
    w: Tensor, qx: Tensor, qy: Tensor, ground: Ground, t: Tensor, physics: Physics
) -> Tensor:
    """New discharge through the faces between columns [b, ny, nx-1]."""
    gt, (depth, factor) = physics.gravity * t, flow_shape(w, ground)
    hf = depth.clamp(min=physics.h_min)
    slope = (w[:, :, 1:] - w[:, :, :-1]) / ground.dx
    n = ground.manning
    if isinstance(n, Tensor):
        n = (n[:, :, 1:] + n[:, :, :-1]) / 2
    r = gt * n**2 * factor / (hf * hf * cube_root(hf))
    push = centred(qx, physics.theta) - gt * hf * slope
    q = push / drag(push, qx, across(qy), r, physics)
    if physics.froude is not None:
        most = physics.froude * hf * (physics.gravity * hf).sqrt()
        q = torch.minimum(torch.maximum(q, -most), most)
    return torch.where(depth > physics.h_dry, q, 0) if physics.h_dry > 0 else q


def drag(push: Tensor, own: Tensor, crossing: Tensor, r: Tensor, physics: Physics) -> Tensor:
    """The factor 1 + r |q| by which friction divides the discharge of a face.

    Friction acts on the new discharge vector q = (along, across): q (1 + r |q|) = (N, T), where N
    is the push along the face and T the push that would keep the discharge across it, qt, under
    the friction of the old one. The norm of both sides is a quadratic for |q|:

        T = qt (1 + r |q_old|),  |q_old|^2 = own^2 + qt^2 + eps
        r |q|^2 + |q| = M,  M^2 = N^2 + T^2 + eps
        1 + r |q| = (1 + sqrt(1 + 4 r M)) / 2

    A steady flow in any direction is a solution, and the result is positive however large r is.
    The authors' scheme uses the old norm, 1 + r |q_old|.

    Args:
        push: theta-weighted discharge less g dt hf slope, m2/s; N.
        own: old discharge of the face, m2/s.
        crossing: mean old discharge across it, m2/s; qt.
        r: g dt n^2 / hf^(7/3), s/m2.
        physics: constants.
    """
    old = 1 + r * torch.sqrt(own**2 + crossing**2 + physics.eps)
    if physics.authors_terms:
        return old
    norm = torch.sqrt(push**2 + (crossing * old) ** 2 + physics.eps)
    return (1 + torch.sqrt(1 + 4 * r * norm)) / 2


def centred(q: Float[Tensor, "b n m"], theta: float) -> Float[Tensor, "b n m"]:
    """Theta-weighted discharge along the last axis; an end face replaces its missing neighbour."""
    wide = torch.cat([q[:, :, :1], q, q[:, :, -1:]], 2)
    return theta * q + (1 - theta) / 2 * (wide[:, :, :-2] + wide[:, :, 2:])


def across(qy: Float[Tensor, "b n m"]) -> Float[Tensor, "b _n _m"]:
    """Mean discharge along y at x faces, over the four faces around; missing ones count as 0."""
    rows = pad(qy, (0, 0, 1, 1))
    rows = rows[:, 1:] + rows[:, :-1]
    return (rows[:, :, 1:] + rows[:, :, :-1]) / 4


def outflow(
    h: Float[Tensor, "b ny nx"], ground: Ground, physics: Physics
) -> Float[Tensor, "b ny nx"]:
    """Discharge through a cell's open edges in m2/s: Manning's normal depth, h^(5/3) sqrt(s)/n.

    With a subgrid the water of the cell's wet part, of depth h s, flows over the share 1 / s of its
    width, where s is the slope of the storage table: h (h s)^(2/3) sqrt(slope)/n.
    """
    if ground.drain is None:
        return torch.zeros_like(h)
    if physics.authors_terms:
        return torch.where(ground.drain > 0, physics.gravity * REFERENCE_OUTFLOW_SLOPE * h, 0)
    wet = h > physics.h_dry
    deep = h if ground.subgrid is None else h * storage_slope(h, ground.subgrid)
    root = cube_root(torch.where(wet, deep, 1))
    return torch.where(wet, ground.drain * h * root * root, 0)


def cube_root(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Cube root of positive numbers; torch.pow's last bit depends on the memory position."""
    return torch.exp(torch.log(x) / 3)


def supply(
    h: Float[Tensor, "b ny nx"],
    qx: Float[Tensor, "b ny faces_x"],
    qy: Float[Tensor, "b faces_y nx"],
    out: Float[Tensor, "b ny nx"],
    t_dx: Float[Tensor, "b 1 1"],
) -> Float[Tensor, "b ny nx"]:
    """Limiter ratio min(1, h dx / (dt sum of outgoing |q|)) of each cell.

    Args:
        h: depth, m.
        qx: discharge through x faces before the limiter, m2/s.
        qy: through y faces.
        out: through outlets.
        t_dx: dt / dx, s/m.
    """
    east, south = qx.clamp(min=0), qy.clamp(min=0)
    west, north = (-qx).clamp(min=0), (-qy).clamp(min=0)
    leaving = pad(east, (0, 1)) + pad(west, (1, 0)) + pad(south, (0, 0, 0, 1))
    wanted = t_dx * (leaving + pad(north, (0, 0, 1, 0)) + out)
    short = wanted > h
    return torch.where(short, h / torch.where(short, wanted, 1), 1)


def divergence(
    qx: Float[Tensor, "b ny faces_x"], qy: Float[Tensor, "b faces_y nx"]
) -> Float[Tensor, "b ny nx"]:
    """Outflow minus inflow through a cell's inner faces, m2/s; edges are closed."""
    return (pad(qx, (0, 1)) - pad(qx, (1, 0))) + (pad(qy, (0, 0, 0, 1)) - pad(qy, (0, 0, 1, 0)))
