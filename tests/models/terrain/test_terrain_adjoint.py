"""The hand-written derivative of a step: equal to autograd and to finite differences."""

import pytest
import torch

from models.terrain.solver.adjoint import step_vjp
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry, step
from models.terrain.solver.time_stepping import Clock, advance
from tests.models.terrain.flood_cases import flood, hills, puddles

DOUBLE = torch.float64


def case(physics, manning=0.05, level=False):
    """A state, ground and output derivatives; some cells are limited, some have outlets."""
    z = hills(13, 17, height=5.0, batch=2)
    drain = torch.zeros_like(z)
    drain[:, 4:8, -1], drain[:, -1, 3:6] = 0.6, 0.4
    held = torch.full_like(z, -torch.inf)
    held[:, 2:4, 0] = 1.0
    if manning is None:
        manning = 0.02 + 0.05 * torch.rand(z.shape, dtype=DOUBLE)
    ground = Ground(z, manning, 3.0, drain, held if level else None)
    grad = FlowState(*[torch.randn(x.shape, dtype=DOUBLE) for x in puddles(z)])
    return puddles(z, deepest=0.4), ground, grad


@pytest.mark.parametrize(
    ("physics", "options"),
    [
        (Physics(), {}),
        (Physics(limiter=False), {}),
        (Physics(h_dry=0.0), {}),
        (Physics(), {"manning": None}),
        (Physics(), {"level": True}),
    ],
)
def test_equals_autograd(physics, options):
    """Property 9: relative L2 of each part at most 1e-10, limiter at work, one sample at rest."""
    torch.manual_seed(0)
    state, ground, grad = case(physics, **options)
    dt = torch.tensor([0.7, 0.0], dtype=DOUBLE)
    leaves = [x.clone().requires_grad_() for x in (*state, ground.z)]
    after, _ = step(FlowState(*leaves[:3]), ground._replace(z=leaves[3]), dt, 1e-5, physics)
    expected = torch.autograd.grad(list(after), leaves, list(grad), allow_unused=True)
    grad_state, grad_z = step_vjp(state, ground, dt, physics, grad)
    for a, b in zip((*grad_state, grad_z), expected, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() <= 1e-10 * b.norm()


def test_ties_are_shared():
    """On a flat bed with flat water every maximum is a tie; the rule is torch's."""
    z = torch.zeros(1, 5, 6, dtype=DOUBLE)
    h = torch.full_like(z, 0.3)
    state, grad = FlowState(h, *dry(z)[1:]), FlowState(*[torch.randn_like(x) for x in dry(z)])
    leaves = [x.clone().requires_grad_() for x in (*state, z)]
    dt = torch.tensor([0.5], dtype=DOUBLE)
    after, _ = step(FlowState(*leaves[:3]), Ground(leaves[3], 0.05, 3.0), dt, 0.0, Physics())
    expected = torch.autograd.grad(list(after), leaves, list(grad))
    grad_state, grad_z = step_vjp(state, Ground(z, 0.05, 3.0), dt, Physics(), grad)
    for a, b in zip((*grad_state, grad_z), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_gradcheck_of_a_short_run():
    """Property 8: torch's own check, 6 x 6 cells, 5 steps."""
    z = hills(6, 6, height=2.0)
    start = puddles(z, deepest=1.0)._replace(h=0.3 + torch.rand(z.shape, dtype=DOUBLE))

    def run(bed):
        state, dt = start, torch.tensor([0.2], dtype=DOUBLE)
        for _ in range(5):
            state, _ = step(state, Ground(bed, 0.05, 3.0), dt, 0.0, Physics())
        return state

    assert torch.autograd.gradcheck(run, z.requires_grad_(), eps=1e-6, atol=1e-7)


def test_gradient_of_a_hundred_steps_by_differences():
    """Property 8: central differences in float64, relative 1e-7."""
    ground, forcing = flood(14, 16)
    h = 0.4 + 0.2 * torch.rand(ground.z.shape, dtype=DOUBLE)
    start = FlowState(h, *dry(ground.z)[1:])
    physics = Physics(dt_max=0.4)
    weight = torch.randn(ground.z.shape, dtype=DOUBLE)

    def loss(bed):
        state, clock = advance(
            start, Clock.start(1), ground._replace(z=bed), forcing, physics, 40.0
        )
        assert clock.steps == 100
        return (state.h * weight).sum()

    bed = ground.z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(bed), bed)
    direction = torch.randn(ground.z.shape, dtype=DOUBLE)
    direction /= direction.norm()
    step_m = 1e-5
    slope = (loss(ground.z + step_m * direction) - loss(ground.z - step_m * direction)) / 2 / step_m
    along = (gradient * direction).sum()
    assert abs(slope - along) <= 1e-7 * abs(along)
    assert forcing != Forcing()
