"""The derivative of floods on a subgrid, by hand and compiled: equal to autograd."""

import pytest
import torch

from models.core.errors import SpecError
from models.terrain.solver.adjoint import step_vjp
from models.terrain.solver.cpu.rollout import rollout, rollout_of_faces
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry, step, water_depth
from models.terrain.solver.subgrid import (
    FaceChange,
    changed,
    face_shape,
    packed,
    tables_of,
    unpacked,
)
from models.terrain.solver.subgrid_adjoint import subgrid_step_vjp
from models.terrain.solver.time_stepping import BoundaryConditions, Clock, advance
from tests.models.terrain.flood_cases import hills, puddles

DOUBLE, SINGLE = torch.float64, torch.float32


def rough_flood(ny, nx, *, height=6.0, rain=5e-5, level=True, batch=1):
    """Inflow, rain, an outlet and a held level on cells of 4 x 4 fine ones; float32."""
    grounds = []
    for k in range(batch):
        z = hills(ny * 4, nx * 4, seed=k, height=height, dtype=SINGLE)
        lowest, grid = tables_of(z, 4)
        drain, held = torch.zeros_like(lowest), torch.full_like(lowest, -torch.inf)
        drain[:, ny // 3 : ny // 2, -1] = 0.5
        if level:
            held[:, 3:6, 0] = lowest[:, 3:6, 0] + 1.3
        n = 0.02 + 0.05 * torch.rand(lowest.shape, generator=torch.Generator().manual_seed(k))
        grounds.append(Ground(lowest, n, 10.0, drain, held, grid))
    inlet = Inlet(constant(40.0), (ny // 2, ny // 2 + 1), (2, 2))
    forcing = Forcing((inlet,), constant(rain) if rain else None)
    return [BoundaryConditions(ground, forcing) for ground in grounds]


def changes(ny, nx, most, batch=1, dtype=SINGLE):
    """Random changes of the x and y faces, from 0 to ``most``, as leaves."""
    g = torch.Generator().manual_seed(3)
    shapes = [(batch, ny, nx - 1)] * 3 + [(batch, ny - 1, nx)] * 3
    return [(most * torch.rand(s, generator=g, dtype=dtype)).requires_grad_() for s in shapes]


def as_stored(grid):
    """The tables as the compiled engine packs them, in float64."""
    x, y = (
        faces._replace(depth=made[0], friction=made[1])
        for faces in (grid.x, grid.y)
        for made in [unpacked(packed(faces.depth, faces.friction))]
    )
    return grid._replace(x=x, y=y).mapped(torch.Tensor.double)


def by_autograd(boundary, leaves, physics, times, weights):
    """The gradient through the reference step in float64, and the depths at the end.

    At the stored tables with the changes: one on top of another adds up.
    """
    ground, now = boundary.ground, [leaf.detach() for leaf in leaves]
    given = changed(ground.subgrid, ground.z, FaceChange(*now[:3]), FaceChange(*now[3:]))
    zeros = [torch.zeros_like(leaf, dtype=DOUBLE).requires_grad_() for leaf in now]
    fields = {k: v.double() for k, v in ground._asdict().items() if torch.is_tensor(v)}
    grid = as_stored(given)
    grid = changed(grid, fields["z"], FaceChange(*zeros[:3]), FaceChange(*zeros[3:]))
    on = ground._replace(**fields, subgrid=grid)
    state, clock, loss = dry(on.z), Clock.start(1), 0.0
    for until, weight in zip(times, weights, strict=True):
        state, clock = advance(state, clock, on, boundary.forcing, physics, until)
        loss = loss + (state.h * weight).sum()
    return torch.autograd.grad(loss, zeros), state.h.detach()


CASES = {
    "all boundaries": (rough_flood(30, 24), Physics(dt_max=2.0), [20.0, 50.0]),
    "a front on dry ground": (rough_flood(20, 26, rain=0, level=False), Physics(), [40.0, 80.0]),
    "without limiter": (rough_flood(20, 26, level=False), Physics(limiter=False), [30.0]),
    "deep": (rough_flood(20, 26, height=1.5, rain=2e-2, level=False), Physics(), [20.0]),
    "two tiles each way": (rough_flood(66, 170), Physics(dt_max=2.0), [30.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_compiled_equals_autograd(name):
    """Property 9 with a subgrid: float32 within 1e-4 of float64, for every kind of change."""
    (boundary,), physics, times = CASES[name]
    ny, nx = boundary.ground.z.shape[1:]
    leaves = changes(ny, nx, 0.3)
    g = torch.Generator().manual_seed(1)
    weights = torch.randn(len(times), 1, ny, nx, generator=g)
    faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
    depths = rollout_of_faces(*faces, [boundary], physics, times)
    (depths * weights).sum().backward()
    expected, end = by_autograd(boundary, leaves, physics, times, weights.double())
    torch.testing.assert_close(depths[-1].double(), end, rtol=0, atol=5e-5)
    if name == "a front on dry ground":
        assert (end == 0).double().mean() > 0.5
    for leaf, exact in zip(leaves, expected, strict=True):
        assert exact.norm() > 1e-3
        assert (leaf.grad - exact).norm() <= 1e-4 * exact.norm()


def test_samples_and_spans_do_not_change_the_gradient():
    """A batch is its single floods, checkpointed or on one tape, bit for bit; also again."""
    both, physics, times = rough_flood(20, 18, batch=2), Physics(), [40.0, 90.0]
    gradients = []
    for span in (None, 7):
        leaves = changes(20, 18, 0.2, batch=2)
        faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
        depths = rollout_of_faces(*faces, both, physics, times, span).sum()
        gradients.append(torch.autograd.grad(depths, leaves, retain_graph=True))
        gradients.append(torch.autograd.grad(depths, leaves))
    for k in (0, 1):
        leaves = [leaf[k : k + 1] for leaf in changes(20, 18, 0.2, batch=2)]
        faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
        alone = rollout_of_faces(*faces, both[k : k + 1], physics, times).sum()
        for single, *whole in zip(torch.autograd.grad(alone, leaves), *gradients, strict=True):
            assert all(torch.equal(single[0], gradient[k]) for gradient in whole)


def test_a_sill_at_the_lowest_height_gets_nothing_from_below():
    """What lowers it further changes no flood."""
    (boundary,) = rough_flood(12, 14)
    leaves = changes(12, 14, 0.0)
    with torch.no_grad():
        leaves[0] -= 100
    faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
    rollout_of_faces(*faces, [boundary], Physics(), [60.0]).square().sum().backward()
    assert leaves[0].grad.abs().max() == 0
    assert leaves[3].grad.abs().max() > 0


@pytest.mark.parametrize(
    ("physics", "held"),
    [(Physics(), True), (Physics(limiter=False), False), (Physics(h_dry=0.0), False)],
)
def test_by_hand_equals_autograd(physics, held):
    """Property 9 in float64, relative 1e-10: partly wet and deep cells, one sample at rest."""
    z = hills(13 * 4, 17 * 4, height=5.0, batch=2)
    lowest, grid = tables_of(z, 4)
    h = torch.cat([puddles(lowest[:1], deepest=0.4).h, puddles(lowest[1:], deepest=6.0).h])
    state = FlowState(h, *puddles(lowest)[1:])
    drain, level = torch.zeros_like(lowest), torch.full_like(lowest, -torch.inf)
    drain[:, 4:8, -1], drain[:, -1, 3:6] = 0.6, 0.4
    level[:, 2:4, 0] = 1.0
    ground = Ground(lowest, 0.05, 3.0, drain, level if held else None, grid)
    for dt in ([0.7, 0.3], [0.7, 0.0]):
        _compare_by_hand(state, ground, torch.tensor(dt, dtype=DOUBLE), physics)


def _compare_by_hand(state, ground, dt, physics):
    g = torch.Generator().manual_seed(0)
    grad = FlowState(*(torch.randn(x.shape, generator=g, dtype=DOUBLE) for x in state))
    old = [x.clone().requires_grad_() for x in state]
    zeros = [torch.zeros_like(q).requires_grad_() for q in (*(state.qx,) * 3, *(state.qy,) * 3)]
    grid = changed(ground.subgrid, ground.z - 1, FaceChange(*zeros[:3]), FaceChange(*zeros[3:]))
    after, _ = step(FlowState(*old), ground._replace(subgrid=grid), dt, 1e-5, physics)
    expected = torch.autograd.grad(list(after), [*old, *zeros], list(grad))
    by_state, x, y = subgrid_step_vjp(state, ground, dt, physics, grad)
    for a, b in zip((*by_state, *x, *y), expected, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() <= 1e-10 * b.norm()


def test_the_cases_reach_above_the_tables_and_partly_wet_cells():
    """The derivatives above are tested where the tables end, too."""
    above, within, partly = (0, 0, 0)
    for name in ("all boundaries", "deep"):
        (boundary,), physics, times = CASES[name]
        ground = boundary.ground
        state, _ = advance(
            dry(ground.z), Clock.start(1), ground, boundary.forcing, physics, times[-1]
        )
        w, faces = ground.z + water_depth(state.h, ground), ground.subgrid.x
        level = torch.maximum(w[:, :, 1:], w[:, :, :-1])
        wet = face_shape(level, faces).depth > 1e-3
        high = level > faces.sill + faces.span
        above, within = above + int((wet & high).sum()), within + int((wet & ~high).sum())
        partly += int(((state.h > 1e-3) & (state.h < ground.subgrid.full)).sum())
    assert min(above, within, partly) > 100


def test_what_has_no_derivative_is_refused():
    """Beds of a subgrid, speeds that are capped, the plain derivative."""
    (boundary,) = rough_flood(12, 14)
    ground, leaves = boundary.ground, changes(12, 14, 0.0)
    with pytest.raises(SpecError, match="a subgrid has no bed to differentiate by"):
        rollout(ground.z, [boundary], Physics(), [1.0])
    faces = FaceChange(*leaves[:3]), FaceChange(*leaves[3:])
    with pytest.raises(SpecError, match="froude"):
        rollout_of_faces(*faces, [boundary], Physics(froude=1.0), [1.0])
    state = dry(ground.z)
    with pytest.raises(ValueError, match="subgrid_step_vjp"):
        step_vjp(state, ground, torch.ones(1), Physics(), state)
