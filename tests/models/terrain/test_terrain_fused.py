"""The compiled engine: equal to the reference step, its volumes, its gradient."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.core.errors import SpecError
from models.terrain.solver.cpu import loop
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.cpu.rollout import BoundaryConditions, rollout
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.scheme import Ground, Physics, authors_physics, dry
from models.terrain.solver.time_stepping import Clock, UnstableError, advance
from tests.models.terrain.flood_cases import flood, hills, puddles

SINGLE = torch.float32


def both(ground, forcing, physics, until, start=None, threads=1):
    """End of the compiled engine and of the reference."""
    engine = FusedFlood(ground, forcing, physics, start, threads)
    assert engine.advance(until)
    begin = dry(ground.z) if start is None else start
    state, clock = advance(begin, Clock.start(1), ground, forcing, physics, until)
    return engine, state, clock


# Sizes around those of a tile, one cell wide included.
@pytest.mark.parametrize("size", [(33, 175), (64, 20), (1, 40), (40, 1), (2, 2)])
@pytest.mark.parametrize("physics", [Physics(), Physics(limiter=False), Physics(froude=0.5)])
def test_equals_the_reference(size, physics):
    """Property 6 in float32: 1e-5 after the same steps, every boundary at work."""
    z = hills(max(size[0], 4), max(size[1], 4), dtype=SINGLE)[:, : size[0], : size[1]].contiguous()
    drain, level = torch.zeros_like(z), torch.full_like(z, -torch.inf)
    drain[:, -1, -1], level[:, 0, -1] = 0.5, 0.2
    rain_map = torch.rand(size)
    forcing = Forcing((Inlet(constant(2.0), (0,), (0,)),), constant(1e-4), rain_map)
    ground = Ground(z, 0.02 + 0.05 * torch.rand_like(z), 5.0, drain, level)
    start = dry(z)._replace(h=puddles(z, deepest=0.5).h)
    engine, state, clock = both(ground, forcing, physics, 60.0, start)
    assert engine.totals.steps == int(clock.steps)
    for a, b in zip(engine.state, state, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert engine.totals.entered == pytest.approx(float(clock.entered), rel=1e-5)
    assert engine.totals.left == pytest.approx(float(clock.left), rel=1e-4, abs=1e-3)


@pytest.mark.slow
def test_equals_the_reference_after_two_thousand_steps():
    """Property 6: 1e-5 after 2000 steps, a flood that dries up again, dry tiles left out."""
    ground, forcing = flood(100, 40, dtype=SINGLE)
    forcing = forcing._replace(rain=None)
    physics = Physics(dt_max=0.3)
    engine, state, clock = both(ground, forcing, physics, 600.0)
    assert clock.steps == 2000
    assert (state.h == 0).float().mean() > 0.2
    torch.testing.assert_close(engine.depth, state.h, rtol=0, atol=1e-5)


def test_volume_and_lake():
    """Properties 1, 2 and 5 on the compiled engine."""
    ground, forcing = flood(70, 60, dtype=SINGLE)
    engine = FusedFlood(ground, forcing, Physics())
    engine.advance(500.0)
    entered, left = engine.totals.entered, engine.totals.left
    volume = engine.depth.sum(dtype=torch.float64) * ground.dx**2
    assert abs(volume - entered + left) <= 1e-6 * entered
    assert engine.depth.min() >= 0
    z = hills(40, 40, height=4.0, dtype=SINGLE)
    start = dry(z)._replace(h=(0.3 - z).clamp(min=0))
    engine = FusedFlood(Ground(z, 0.03, 5.0), Forcing(), Physics(), start)
    engine.advance(1e9, max_steps=1000)
    assert (engine.depth - start.h).abs().max() <= 2e-5


@pytest.mark.slow
def test_threads_do_not_change_a_bit():
    ground, forcing = flood(90, 200, dtype=SINGLE)
    ends = []
    for threads in (1, 2):
        engine = FusedFlood(ground, forcing, Physics(), threads=threads)
        engine.advance(120.0)
        ends.append(engine.state)
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


def test_peaks_and_arrivals():
    ground, forcing = flood(40, 50, dtype=SINGLE)
    engine = FusedFlood(ground, forcing._replace(rain=None), Physics(), wet_m=0.05)
    seen, first = torch.zeros(40, 50), torch.full((40, 50), torch.inf)
    while not engine.advance(200.0, max_steps=1):
        depth, t = engine.depth[0], engine.totals.t
        first = torch.where((depth > 0.05) & first.isinf(), t, first)
        seen = torch.maximum(seen, depth)
    seen = torch.maximum(seen, engine.depth[0])
    first = torch.where((engine.depth[0] > 0.05) & first.isinf(), 200.0, first)
    assert torch.equal(engine.peak, seen)
    torch.testing.assert_close(engine.arrival, first.float())


def test_refusals():
    ground, forcing = flood(12, 12, dtype=SINGLE)
    with pytest.raises(ValueError, match="h_dry > 0"):
        FusedFlood(ground, forcing, authors_physics())
    with pytest.raises(UnstableError, match=r"blew up in step \d+"):
        FusedFlood(ground, forcing, Physics(alpha=50.0, limiter=False, dt_max=1e3)).advance(1e5)
    with pytest.raises(SpecError, match="froude"):
        rollout(ground.z, [BoundaryConditions(ground, forcing)], Physics(froude=1.0), [1.0])
    ground.z[0, 3, 3] = np.nan
    with pytest.raises(UnstableError):
        FusedFlood(ground, forcing, Physics()).advance(100.0)


def reference_gradient(z, ground, forcing, physics, times, weights):
    """Autograd through the reference in float64."""
    bed = z.double().requires_grad_()
    fields = {
        name: field.double() if torch.is_tensor(field) else field
        for name, field in ground._asdict().items()
    }
    state, clock, loss = dry(bed), Clock.start(len(z)), 0.0
    for until, weight in zip(times, weights, strict=True):
        state, clock = advance(
            state, clock, Ground(**(fields | {"z": bed})), forcing, physics, until
        )
        loss = loss + (state.h * weight).sum()
    return torch.autograd.grad(loss, bed)[0]


@pytest.mark.parametrize("physics", [Physics(), Physics(limiter=False)])
@pytest.mark.parametrize("span", [None, 7])
def test_gradient_equals_autograd(physics, span, monkeypatch):
    """Property 9 in float32 against float64 autograd: two samples, two times, all boundaries."""
    z = hills(60, 24, batch=2, dtype=SINGLE)
    drain, level = torch.zeros_like(z[:1]), torch.full_like(z[:1], -torch.inf)
    drain[:, 20:30, -1], level[:, 3:6, -1] = 0.5, 0.3
    ground = Ground(z, 0.02 + 0.05 * torch.rand_like(z[:1]), 5.0, drain, level)
    forcing = Forcing((Inlet(constant(20.0), (29, 30, 31), (0, 0, 0)),), constant(2e-5))
    weights = torch.randn(2, 2, 60, 24, generator=torch.Generator().manual_seed(0))
    bed = z.clone().requires_grad_()
    ground = ground._replace(manning=ground.manning[:1])
    boundaries = [BoundaryConditions(ground, forcing)] * 2
    depths = rollout(bed, boundaries, physics, [20.0, 50.0], span)
    (depths * weights).sum().backward()
    times = [20.0, 50.0]
    expected = reference_gradient(z, ground, forcing, physics, times, weights.double())
    assert (bed.grad - expected).norm() <= 2e-4 * expected.norm()


def test_spans_do_not_change_the_gradient(monkeypatch):
    """Checkpointed or on one tape: bit-identical, since the second run repeats the first."""
    ground, forcing = flood(30, 30, dtype=SINGLE)
    gradients = []
    for span, tape_bytes in ((None, 2**29), (None, 2**18), (16, 2**29)):
        monkeypatch.setattr("models.terrain.solver.cpu.rollout.WHOLE_TAPE_BYTES", tape_bytes)
        bed = ground.z.clone().requires_grad_()
        rollout(
            bed, [BoundaryConditions(ground, forcing)], Physics(), [100.0], span
        ).sum().backward()
        gradients.append(bed.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_backward_can_be_called_again():
    """Another flood has reused the tape's memory in between; the gradient is the same."""
    ground, forcing = flood(30, 30, dtype=SINGLE)
    bed = ground.z.clone().requires_grad_()
    depth = rollout(bed, [BoundaryConditions(ground, forcing)], Physics(), [100.0]).sum()
    (first,) = torch.autograd.grad(depth, bed, retain_graph=True)
    other = ground.z.clone().requires_grad_()
    rollout(other, [BoundaryConditions(ground, forcing)], Physics(), [50.0]).sum().backward()
    (second,) = torch.autograd.grad(depth, bed)
    assert torch.equal(first, second)


@pytest.mark.slow
def test_a_recorded_step_is_the_code_of_a_step(tmp_path):
    """A literal argument has a type of its own: every step would be compiled once more for it."""
    program = "from tests.models.terrain.test_terrain_fused import record_a_step; record_a_step()"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "['int64']"


def record_a_step():
    """Write for which types of the last argument a step was compiled."""
    ground, forcing = flood(12, 12, torch.float32)
    bed = ground.z.clone().requires_grad_()
    rollout(bed, [BoundaryConditions(ground, forcing)], Physics(), [5.0])
    sys.stdout.write(f"{[str(types[-1]) for types in loop.advance_alone.overloads]}")
