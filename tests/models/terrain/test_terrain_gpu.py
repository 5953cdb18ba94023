"""The GPU engine: the reference step, its gradient, batches; parts that a CPU can check."""

import pytest
import torch

from models.terrain.learning.coarse_floods import depths
from models.terrain.learning.losses import clip_per_sample
from models.terrain.solver.cpu.rollout import rollout
from models.terrain.solver.forcing import Forcing, Inlet, Series, constant
from models.terrain.solver.gpu.engine import GpuFlood, can_run
from models.terrain.solver.gpu.layout import LEFT, PAD, Tuning, boundary_tables, build_layout
from models.terrain.solver.gpu.rollout import GpuTape
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry
from models.terrain.solver.time_stepping import BoundaryConditions, Clock, advance
from tests.models.terrain.flood_cases import flood, hills, puddles

SINGLE = torch.float32


def rough_case(batch=2, ny=37, nx=90):
    """Every boundary the engine knows, limiter at work, ground as rough as stays reproducible."""
    ground, forcing = flood(ny, nx, SINGLE, batch=batch)
    n = 0.02 + 0.05 * torch.rand(ground.z.shape, generator=torch.Generator().manual_seed(0))
    return ground._replace(manning=n), forcing, dry(ground.z)._replace(h=puddles(ground.z).h)


def there(ground):
    moved = {k: v.cuda() for k, v in ground._asdict().items() if isinstance(v, torch.Tensor)}
    return ground._replace(**moved)


@pytest.mark.gpu
@pytest.mark.parametrize("tuning", [Tuning(), Tuning(8, 32, 4, log=True, lazy=False)])
@pytest.mark.parametrize("physics", [Physics(dt_max=0.3), Physics(limiter=False, dt_max=0.3)])
def test_equals_the_reference(physics, tuning):
    """Property 6 in float32: 2e-5 after 500 steps; the same steps, entered and left volumes."""
    ground, forcing, start = rough_case()
    state, clock = advance(start, Clock.start(2), ground, forcing, physics, 150.0)
    begin = FlowState(*(field.cuda() for field in start))
    engine = GpuFlood(there(ground), [forcing] * 2, physics, begin, tuning=tuning)
    assert engine.advance(150.0)
    for a, b in zip(engine.state, state, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=2e-5)
    for k, totals in enumerate(engine.totals):
        assert totals.steps == int(clock.steps[k]) >= 500
        assert totals.entered == pytest.approx(float(clock.entered[k]), rel=1e-6)
        assert totals.left == pytest.approx(float(clock.left[k]), rel=1e-4, abs=1e-3)


@pytest.mark.gpu
def test_own_steps_are_those_of_the_reference():
    """Properties 6 and 15: the device computes the reference's steps, inflow within them too."""
    ground = Ground(torch.zeros(2, 25, 40), 0.03, 10.0)
    forcing = Forcing((Inlet(constant(500.0), (12,), (12,)),), constant(1e-4))
    state, clock = advance(dry(ground.z), Clock.start(2), ground, forcing, Physics(), 60.0)
    engine = GpuFlood(there(ground), [forcing] * 2, Physics())
    engine.advance(60.0)
    assert [totals.steps for totals in engine.totals] == clock.steps.tolist()
    torch.testing.assert_close(engine.depth.cpu(), state.h, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_batch_equals_single_runs():
    """Property 11: bit for bit, each sample with its own steps."""
    ground, forcing, _ = rough_case(3)
    whole = GpuFlood(there(ground), [forcing] * 3, Physics())
    whole.advance(100.0)
    one = Ground(ground.z[1:2], ground.manning[1:2], ground.dx, ground.drain[1:2])
    alone = GpuFlood(there(one), [forcing], Physics())
    alone.advance(100.0)
    assert torch.equal(whole.depth[1], alone.depth[0])


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [None, 32])
def test_gradient_equals_autograd(steps):
    """Property 9 in float32: 2e-4 of float64 autograd, on one tape and over several."""
    ground, forcing, _ = rough_case(2, 20, 24)
    physics, times = Physics(dt_max=0.5), [20.0, 40.0]
    weight = torch.randn(2, *ground.z.shape, generator=torch.Generator().manual_seed(1))
    bed = ground.z.double().requires_grad_()
    wide = ground._replace(manning=ground.manning.double(), drain=ground.drain.double())
    state, clock, depths_at_times = dry(bed), Clock.start(2), []
    for until in times:
        state, clock = advance(state, clock, wide._replace(z=bed), forcing, physics, until)
        depths_at_times.append(state.h)
    (expected,) = torch.autograd.grad((torch.stack(depths_at_times) * weight).sum(), bed)
    tape = GpuTape(there(ground), [forcing] * 2, physics, steps)
    bed = ground.z.cuda().requires_grad_()
    (gradient,) = torch.autograd.grad((tape(bed, times) * weight.cuda()).sum(), bed)
    assert (gradient.cpu() - expected).norm() <= 2e-4 * expected.norm()


def test_layout_has_walls_around_every_cell():
    """Padding for the widest stencil; tiles cover the grid; rows begin at 128 bytes."""
    for ny, nx in ((1, 1), (5, 40), (32, 33), (125, 125)):
        layout = build_layout(2, ny, nx)
        assert layout.down * layout.tile[0] >= ny
        assert layout.across * layout.tile[1] >= nx
        assert layout.rows >= PAD + layout.down * layout.tile[0] + PAD
        assert layout.pitch >= LEFT + layout.across * layout.tile[1]
        assert layout.pitch % 32 == 0
        assert layout.inner(torch.zeros(layout.shape)).shape == (2, ny, nx)


def test_boundary_tables_keep_all_water():
    """The gains of an inlet sum to its discharge; cells of several inlets are counted."""
    forcings = [
        Forcing((Inlet(constant(7.0), (0, 1, 2), (0, 0, 0)),)),
        Forcing((Inlet(Series((0.0, 5.0, 9.0), (0.0, 4.0, 2.0)), (3,), (4,)),), constant(1e-5)),
    ]
    layout, dx = build_layout(2, 6, 7), 5.0
    drain = torch.zeros(2, 6, 7)
    drain[1, 5, 6] = 0.5
    tables = boundary_tables(drain, forcings, layout, dx)
    shares = torch.where(tables.cells >= 0, tables.gain, 0).sum(1) * dx * dx
    torch.testing.assert_close(shares, torch.ones(2, dtype=torch.float64))
    assert tables.values[1, 0].tolist() == [1e-5] * 4
    twice = Forcing((*forcings[0].inlets, Inlet(constant(1.0), (1,), (0,))))
    assert boundary_tables(None, [twice], layout, dx).shared[0, :5].tolist() == [1, 2, 1, 2, 0]
    assert tables.values[1, 1].tolist() == [0, 4, 2, 2]
    assert (tables.moments[:, :, 1:] > tables.moments[:, :, :-1]).all()
    assert tables.drains.sum(1).tolist()[0] == 0
    assert layout.inner(tables.drain)[1, 5, 6] == 0.5


def test_unsupported_features_are_refused():
    """Held levels, rain maps, Froude caps and the authors' scheme go to the CPU."""
    ground, forcing = flood(8, 8, SINGLE)
    assert can_run(ground, forcing, Physics())
    assert not can_run(ground._replace(level=ground.z), forcing, Physics())
    assert not can_run(ground, forcing._replace(rain_map=ground.z[0]), Physics())
    assert not can_run(ground, forcing, Physics(froude=1.0))
    assert not can_run(ground, forcing, Physics(h_dry=0.0))


def test_tiny_floods_are_those_of_the_compiled_engine():
    """The reference step, used where compiling would take longer: same depths, same gradient."""
    ground, forcing = flood(12, 14, SINGLE)
    boundary = BoundaryConditions(ground._replace(z=torch.zeros_like(ground.z)), forcing)
    weight = torch.randn(12, 14, generator=torch.Generator().manual_seed(3))
    results = []
    for way in (lambda z: depths(z, [boundary], Physics(), [30.0], by_reference=True),
                lambda z: rollout(z, [boundary], Physics(), [30.0])):  # fmt: skip
        bed = ground.z.clone().requires_grad_()
        depth = way(bed)
        results.append((depth.detach(), *torch.autograd.grad((depth[0, 0] * weight).sum(), bed)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    assert (results[0][1] - results[1][1]).norm() <= 1e-3 * results[1][1].norm()


def test_one_wild_sample_does_not_drown_the_others():
    """No derivative above twice the median norm, none that is not finite; directions stay."""
    grad = hills(4, 4, batch=5)
    grad[1] *= 1e8
    grad[2, 0, 0] = torch.nan
    made = clip_per_sample(grad)
    norms = made.flatten(1).norm(dim=1)
    assert torch.isfinite(made).all()
    most = grad.flatten(1).norm(dim=1)[[0, 3, 4]].max()  # the median, with one infinite
    assert norms[1] == pytest.approx(2 * float(most))
    assert (made[2] == 0).all()
    torch.testing.assert_close(made[1] / made[1].norm(), grad[1] / grad[1].norm())
    torch.testing.assert_close(made[0], grad[0])
