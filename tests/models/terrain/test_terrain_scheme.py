"""The reference step: conservation, rest, symmetry, positivity, a second implementation, waves."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from models.terrain.solver.forcing import Forcing, Inlet, Series, constant
from models.terrain.solver.scheme import (
    FlowState,
    Ground,
    Physics,
    authors_physics,
    dry,
    dt_cap,
    stable_step,
    step,
)
from models.terrain.solver.time_stepping import Clock, UnstableError, advance
from tests.models.terrain.flood_cases import flood, hills, puddles, step_by_loops, wave_depth

DOUBLE, SINGLE = torch.float64, torch.float32


@pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-12), (SINGLE, 1e-6)])
@pytest.mark.parametrize("physics", [Physics(), authors_physics(0.01), Physics(froude=1.0)])
def test_volume_is_what_entered_less_what_left(dtype, bound, physics):
    """Property 1: mass, with inflow, rain and outlet, whatever the scheme."""
    ground, forcing = flood(dtype=dtype)
    state, clock = advance(dry(ground.z), Clock.start(1), ground, forcing, physics, 400.0)
    volume = state.h.sum(dtype=DOUBLE) * ground.dx**2
    assert clock.left > 0
    assert abs(volume - clock.entered + clock.left) <= bound * clock.entered


def test_held_level_is_accounted_for():
    """Property 1 where a level is held: what it gave or took is in the balance."""
    ground, forcing = flood()
    level = torch.full_like(ground.z, -torch.inf)
    level[:, 5:9, -1] = ground.z.amax() - 0.5
    ground = ground._replace(level=level)
    start = dry(ground.z)
    state, clock = advance(start, Clock.start(1), ground, forcing, Physics(), 200.0)
    volume = state.h.sum() * ground.dx**2
    assert abs(volume - clock.entered + clock.left) <= 1e-12 * volume
    held = (level - ground.z)[:, 5:9, -1].clamp(min=0)
    torch.testing.assert_close(state.h[:, 5:9, -1], held)


@pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-12), (SINGLE, 2e-5)])
def test_lake_at_rest_stays(dtype, bound):
    """Property 2: bumpy bed with dry islands, 1000 steps."""
    z = hills(20, 20, height=4.0, dtype=dtype)
    h = (0.3 - z).clamp(min=0)
    assert 0.1 < (h == 0).float().mean() < 0.9
    state = dry(z)._replace(h=h)
    ground = Ground(z, 0.03, 5.0)
    dt = stable_step(h, 5.0, Physics())
    for _ in range(1000):
        state, _ = step(state, ground, dt, 0.0, Physics())
    assert (state.h - h).abs().max() <= bound


MIRRORS = {
    "transpose": lambda s: FlowState(s.h.mT, s.qy.mT, s.qx.mT),
    "left-right": lambda s: FlowState(s.h.flip(2), -s.qx.flip(2), s.qy.flip(2)),
    "up-down": lambda s: FlowState(s.h.flip(1), s.qx.flip(1), -s.qy.flip(1)),
}


@pytest.mark.parametrize("mirror", MIRRORS)
def test_mirrored_terrain_gives_the_mirrored_flood(mirror):
    """Property 3: transpose and flips."""
    turn = MIRRORS[mirror]
    z = hills(16, 19)
    state = puddles(z)
    other = turn(state)
    grounds = [Ground(x, 0.04, 8.0) for x in (z, turn(dry(z)._replace(h=z)).h)]
    dt = stable_step(state.h, 8.0, Physics())
    for _ in range(30):
        state, _ = step(state, grounds[0], dt, 1e-5, Physics())
        other, _ = step(other, grounds[1], dt, 1e-5, Physics())
    for a, b in zip(turn(state), other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_height_above_the_sea_does_not_matter():
    """Property 4: z + 1000 m gives the same depths to rounding."""
    ground, forcing = flood()
    high = ground._replace(z=ground.z + 1000)
    low_end, _ = advance(dry(ground.z), Clock.start(1), ground, forcing, Physics(), 200.0)
    high_end, _ = advance(dry(high.z), Clock.start(1), high, forcing, Physics(), 200.0)
    torch.testing.assert_close(high_end.h, low_end.h, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
def test_depths_are_never_negative(dtype):
    """Property 5: steep ground, steps beyond the stable one; without the limiter they are."""
    z = hills(20, 20, height=60.0, dtype=dtype)
    state = FlowState(torch.full_like(z, 0.2), *dry(z)[1:])
    without = state
    dt = 3 * stable_step(state.h, 2.0, Physics())
    for _ in range(200):
        state, _ = step(state, Ground(z, 0.02, 2.0), dt, 0.0, Physics())
        assert state.h.min() >= 0
    torch.testing.assert_close(state.h.sum(), torch.full_like(z, 0.2).sum(), rtol=1e-5, atol=0)
    without, _ = step(without, Ground(z, 0.02, 2.0), dt, 0.0, Physics(limiter=False))
    assert without.h.min() < 0


@pytest.mark.parametrize(
    "physics",
    [
        Physics(),
        Physics(froude=0.8),
        Physics(limiter=False),
        Physics(h_dry=0.0),
        Physics(authors_terms=True),
    ],
)
def test_equals_an_implementation_by_loops(physics):
    """Property 6: another implementation, same steps, limiter at work, 1e-11."""
    z = hills(9, 11, height=6.0)
    state = puddles(z, deepest=0.4)
    drain = torch.zeros_like(z)
    drain[:, 3:6, -1] = 0.6
    ground = Ground(z, 0.05, 3.0, drain)
    arrays = [x[0].numpy() for x in state]
    for k in range(60):
        dt = 0.4 + 0.1 * math.sin(k)
        state, _ = step(state, ground, torch.tensor([dt], dtype=DOUBLE), 1e-5, physics)
        arrays = step_by_loops(
            *arrays, z[0].numpy(), dt, 3.0, 0.05, physics, 1e-5, drain[0].numpy()
        )
    for a, b in zip(state, arrays, strict=True):
        np.testing.assert_allclose(a[0].numpy(), b, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_batch_equals_single_runs():
    """Property 11: bit for bit, each sample with its own steps."""
    z = torch.cat([hills(12, 14, seed=s, height=1.0 + s) for s in range(3)])
    forcing = flood(12, 14)[1]
    together, clock = advance(
        dry(z), Clock.start(3), Ground(z, 0.05, 10.0), forcing, Physics(), 300.0
    )
    assert len(set(clock.steps.tolist())) > 1
    for k in range(3):
        one = z[k : k + 1]
        alone, _ = advance(
            dry(one), Clock.start(1), Ground(one, 0.05, 10.0), forcing, Physics(), 300.0
        )
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[k], b[0])


def test_steps_obey_the_courant_number_and_land_on_the_time():
    """Property 10: dt <= alpha dx / sqrt(g h); the authors' step is always shorter."""
    ground, forcing = flood()
    times, depths = [0.0], [0.0]

    def note(state, clock):
        times.append(float(clock.t))
        depths.append(float(state.h.max()))

    physics = Physics(alpha=0.6)
    _, clock = advance(dry(ground.z), Clock.start(1), ground, forcing, physics, 123.4, after=note)
    assert float(clock.t) == 123.4
    for (t0, t1), h in zip(pairwise(times), depths, strict=False):
        assert t1 - t0 <= 0.6 * ground.dx / math.sqrt(9.8 * max(h, 0.01)) * (1 + 1e-12)
    deep = torch.linspace(0.01, 30, 200, dtype=DOUBLE)[:, None, None]
    bates = stable_step(deep, 1.0, Physics(alpha=0.7, dt_max=1e9))
    assert (stable_step(deep, 1.0, authors_physics(0.01)) <= bates / 2).all()


def test_first_steps_on_dry_ground_are_capped():
    assert stable_step(torch.zeros(1, 2, 2), 100.0, Physics()) == dt_cap(100.0, Physics()) == 10
    assert dt_cap(5.0, Physics()) == 1.0


def test_blow_up_reports_its_step():
    """Property 10: an unstable run ends with the number of the step, not with NaN."""
    ground, forcing = flood()
    wild = Physics(alpha=40.0, limiter=False, dt_max=1e3, h_dry=0.0)
    with pytest.raises(UnstableError, match=r"blew up in step \d+ at"):
        advance(dry(ground.z), Clock.start(1), ground, forcing, wild, 1e5)


def test_hydrograph_is_linear_between_its_points():
    series = Series((10.0, 20.0, 40.0), (1.0, 3.0, 0.0))
    t = torch.tensor([0.0, 10, 15, 30, 50], dtype=DOUBLE)
    assert series.at(t).tolist() == [1, 1, 2, 1.5, 0]
    assert constant(4.0).at(t).tolist() == [4] * 5


def wave_error(dx, exact, u=1.0, n=0.03, end=3600.0):
    """RMSE over x < 0.9 ut of a wave that enters a flat channel from the left."""
    nx = int(end * u * 1.1 / dx)
    times = np.linspace(0, end, 2001)[1:]
    inflow = u * exact(0.0, times, u, n)  # q = u h at x = 0
    series = Series((0.0, *times), (0.0, *inflow * dx))
    z = torch.zeros(1, 1, nx, dtype=DOUBLE)
    forcing = Forcing((Inlet(series, (0,), (0,)),))
    state, _ = advance(dry(z), Clock.start(1), Ground(z, n, dx), forcing, Physics(), end)
    x = (np.arange(nx) + 0.5) * dx
    near = x < 0.9 * u * end
    return float(np.sqrt(np.mean((state.h[0, 0].numpy() - exact(x, end, u, n))[near] ** 2)))


def hunter(x, t, u, n):
    """Wave of constant speed of the full equations (Hunter et al. 2005)."""
    return (7 / 3 * n * n * u * u * np.maximum(u * t - x, 0)) ** (3 / 7)


@pytest.mark.slow
def test_travelling_wave_converges_at_first_order():
    """Property 7: analytic local-inertial wave, the error falls by 1.8 to 2.1 per halving."""
    errors = [wave_error(dx, wave_depth) for dx in (50.0, 25.0, 12.5)]
    for coarse, fine in pairwise(errors):
        assert 1.8 <= coarse / fine <= 2.1
    assert errors[0] <= 0.02


def test_travelling_wave_is_near_that_of_the_full_equations():
    """Property 7: against Hunter the missing convection stays visible, within 0.025 m at 50 m."""
    assert 0.005 <= wave_error(50.0, hunter) <= 0.025
