"""Water at rest stays at rest: the limit of the time step, in the solver and in the specs."""

import json
import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.catalog import JobSpec
from models.stored import load_stored, upgrade
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.scheme import Ground, Physics, dry
from models.terrain.solver.time_stepping import Clock, advance
from models.terrain.spec.solver import Solver, alpha_max

NOISE_M = 1e-4


def lake(depth, dtype=torch.float32, n=40):
    """A flat bed under water of this depth with noise of 0.1 mm, closed on all sides."""
    z = torch.full((1, n, n), -depth, dtype=dtype)  # stages near 0 keep float32's digits
    noise = torch.randn(1, n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = dry(z)._replace(h=(depth + NOISE_M * noise).to(dtype))
    return Ground(z, 0.03, 10.0), state


def unrest(depth, physics, steps=5000):
    """Greatest change of level from the mean after so many steps of the compiled engine, m."""
    ground, start = lake(depth)
    engine = FusedFlood(ground, Forcing(), physics, start)
    engine.advance(1e12, max_steps=steps)
    level = engine.depth.double()
    return float((level - level.mean()).abs().max())


@pytest.mark.parametrize("theta", [0.5, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("depth", [0.2, 3.0, 50.0])
def test_a_lake_with_noise_calms_down(theta, depth):
    """Property 12: at the default Courant number noise of 0.1 mm decays to float32 rounding."""
    physics = Physics(theta=theta, dt_max=1e9)
    assert unrest(depth, physics) <= max(1e-5, 8 * float(np.spacing(np.float32(depth))))


@pytest.mark.parametrize("theta", [0.5, 0.7, 0.8, 0.95])
def test_beyond_the_limit_noise_grows(theta):
    """Property 12: at 1.03 sqrt(theta / 2) noise grows to waves."""
    physics = Physics(theta=theta, alpha=1.03 * math.sqrt(theta / 2), dt_max=1e9)
    assert unrest(3.0, physics) > 100 * NOISE_M


@pytest.mark.slow
def test_the_reference_step_is_as_calm():
    ground, state = lake(10.0, torch.float64, n=16)
    physics = Physics(dt_max=1e9)
    state, _ = advance(state, Clock.start(1), ground, Forcing(), physics, 1e12, max_steps=2000)
    assert float((state.h - 10).abs().max()) < 1e-5
    physics = Physics(alpha=0.7, dt_max=1e9)
    ground, state = lake(10.0, torch.float64, n=16)
    state, _ = advance(state, Clock.start(1), ground, Forcing(), physics, 1e12, max_steps=2000)
    assert float((state.h - 10).abs().max()) > 1


def test_the_spec_and_the_solver_share_their_default():
    assert physics_of(Solver()).courant == Physics().courant == alpha_max(0.8)
    assert physics_of(Solver()).theta == Physics().theta == 0.8
    authors = physics_of(Solver(reference_mode=True))
    assert (authors.theta, authors.courant) == (0.7, 0.7)
    given = physics_of(Solver(reference_mode=True, theta=0.9, alpha=0.5))
    assert (given.theta, given.courant) == (0.9, 0.5)


@pytest.mark.parametrize(
    ("solver", "field"),
    [
        ({"alpha": 0.7}, "alpha"),
        ({"alpha": 0.58}, "0.5692"),
        ({"theta": 0.7, "alpha": 0.55}, "0.5324"),
        ({"theta": 1.0}, "theta"),
        ({"theta": 0.2, "alpha": 0.6, "reference_mode": True}, "alpha"),
    ],
)
def test_unstable_solvers_are_refused(solver, field):
    spec = {"kind": "terrain.simulate", "terrain": {"synthetic": {}}, "solver": solver}
    with pytest.raises(ValidationError, match=field):
        TypeAdapter(JobSpec).validate_python(spec)


SYNTHETIC = {"synthetic": {"rows": 32, "columns": 32}}
STORED = [
    {"kind": "terrain.simulate", "terrain": SYNTHETIC, "solver": {"alpha": 0.7, "theta": 1.0}},
    {"kind": "terrain.compare", "terrain": SYNTHETIC, "solver": {"alpha": 1.0}},
    {"kind": "terrain.train", "solver": {"alpha": 0.7, "theta": 0.7}},
    {
        "kind": "terrain.downsample",
        "terrain": SYNTHETIC,
        "tune": {"water": [[{"type": "valley"}]], "solver": {"alpha": 0.7}},
    },
]


@pytest.mark.parametrize("stored", STORED, ids=lambda spec: spec["kind"])
def test_stored_solvers_are_capped_with_a_warning(stored):
    """Jobs of earlier releases run within the limit, with a warning; stored specs do not change."""
    before = json.dumps(stored)
    spec, warnings = load_stored(stored)
    solver = spec.tune.solver if stored["kind"] == "terrain.downsample" else spec.solver
    assert solver.alpha == alpha_max(solver.own_weight)
    assert any("alpha" in warning and "is used" in warning for warning in warnings)
    assert json.dumps(stored) == before
    assert upgrade(spec.model_dump(mode="json"))[1] == []
