"""Water that goes into the ground: against solutions, on both engines, in balances and files."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.integrate import solve_ivp

from models.catalog import JobSpec
from models.core.errors import SpecError
from models.stored import load_entry
from models.terrain.learning import coarse_floods
from models.terrain.solver.forcing import Forcing, constant
from models.terrain.solver.scheme import Ground, Physics, dry
from models.terrain.solver.soil import Soil
from models.terrain.solver.subgrid import subgrid_of
from models.terrain.solver.time_stepping import BoundaryConditions
from tests.models.terrain.flood_cases import flood, hills, open_flood, puddles

ENGINES = ["reference", "compiled"]
MM_H = 1 / 3.6e6
SHA = "3" * 64


def even(value, shape=(6, 8)):
    return torch.full(shape, value)


def pond(engine, soil, depth=0.05, rain=None, physics=None):
    """Level ground under water, closed."""
    z = torch.zeros(1, 6, 8)
    ground = Ground(z, 0.05, 50.0, soil=soil)
    begin = dry(z)._replace(h=torch.full_like(z, depth))
    return open_flood(engine, ground, Forcing(rain=rain), physics or Physics(), begin)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pond_falls_by_the_rate_and_never_below_the_ground(engine):
    made = pond(engine, Soil(even(100 * MM_H)))
    for t in (100.0, 900.0):
        made.advance(t, 10**6)
        assert made.depth.numpy() == pytest.approx(0.05 - 100 * MM_H * t, rel=2e-6)
    made.advance(2000.0, 10**6)
    assert float(made.depth.max()) == 0
    assert made.volume == 0
    assert made.totals.infiltrated == pytest.approx(0.05 * 48 * 2500, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rain", [40, 120])
def test_rain_runs_off_only_above_the_rate(engine, rain):
    """What falls in a step goes in with the next one, so the last step's is left."""
    made = pond(engine, Soil(even(100 * MM_H)), 0.0, constant(rain * MM_H))
    made.advance(1200.0, 10**6)
    fallen, area = rain * MM_H * 1200, 48 * 2500
    left = max(rain - 100, 0) * MM_H * 1200
    assert made.totals.entered == pytest.approx(fallen * area)
    assert abs(made.volume / area - left) < min(rain, 100) * MM_H * 10.5
    assert made.totals.entered == pytest.approx(made.volume + made.totals.infiltrated, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_green_and_ampt_against_the_differential_equation(engine):
    """The head falls as the pond does; the front begins infinitely fast."""
    k, psi, deficit, h0 = 30 * MM_H, 0.11, 0.3, 0.2
    soil = Soil(even(k), even(psi * deficit), even(deficit))
    made = pond(engine, soil, h0)

    def squared(_, f2):  # of the sum: its rate is finite at 0
        f = np.sqrt(np.maximum(f2, 0))
        return 2 * k * (f + (psi + h0 - f) * deficit)

    times = [2.0, 60.0, 600.0, 3600.0]
    exact = np.sqrt(solve_ivp(squared, (0, 3600), [0.0], t_eval=times, rtol=1e-10, atol=1e-16).y[0])
    for t, depth in zip(times, exact, strict=True):
        made.advance(t, 10**6)
        assert made.totals.infiltrated / (48 * 2500) == pytest.approx(depth, rel=2e-3)
    assert made.volume + made.totals.infiltrated == pytest.approx(h0 * 48 * 2500, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_ground_that_takes_nothing_changes_no_bit(engine):
    states = []
    for soil in (None, Soil(even(0.0, (24, 30)), even(0.1, (24, 30)), even(0.3, (24, 30)))):
        ground, forcing = flood()
        if engine == "compiled":
            ground = ground._replace(z=ground.z.float(), drain=ground.drain.float())
        made = open_flood(engine, ground._replace(soil=soil), forcing, Physics())
        made.advance(60.0, 10**6)
        states.append(made)
    assert all(torch.equal(a, b) for a, b in zip(states[0].state, states[1].state, strict=True))
    assert torch.equal(states[0].peak, states[1].peak)
    assert states[0].totals == states[1].totals


@pytest.mark.parametrize("kind", ["constant", "green_ampt"])
def test_engines_agree_on_hills_with_a_held_level(kind):
    """Maps of the ground, inflow, rain, an outlet, a lake; every drop is counted."""
    g = torch.Generator().manual_seed(5)
    rates = torch.rand(24, 30, generator=g) * 200 * MM_H
    made = []
    for engine in ENGINES:
        level = torch.full((1, 24, 30), -torch.inf)
        level[:, :, 0] = 0.5
        soil = Soil(rates) if kind == "constant" else Soil(rates, even(0.03, (24, 30)),
                                                           even(0.3, (24, 30)))  # fmt: skip
        ground, forcing = flood(level=level)
        ground = ground._replace(
            z=ground.z.float(), drain=ground.drain.float(), soil=soil.without(level[0] > -1e9)
        )
        begin = puddles(ground.z, deepest=0.3)
        one = open_flood(engine, ground, forcing, Physics(), begin)
        first = one.volume
        one.advance(120.0, 10**6)
        totals = one.totals
        gained = totals.entered - totals.left - totals.infiltrated
        assert one.volume - first == pytest.approx(gained, rel=1e-5, abs=1e-6 * totals.entered)
        assert totals.infiltrated > 40
        made.append(one)
    assert float((made[0].depth - made[1].depth).abs().max()) < 2e-5
    torch.testing.assert_close(made[0].infiltrated, made[1].infiltrated, rtol=1e-3, atol=1e-6)
    assert not made[1].infiltrated[:, 0].any()


def test_on_a_subgrid_the_wet_part_takes_water():
    """Engines agree, and a cell that is wet in part takes less than a full one."""
    z = hills(48, 48, dtype=torch.float32)
    lowest, grid, _ = subgrid_of(z[0], 8)
    begin = dry(lowest)._replace(h=torch.full_like(lowest, 0.05))
    made = []
    for engine in ENGINES:
        ground = Ground(lowest, 0.05, 16.0, subgrid=grid, soil=Soil(even(100 * MM_H, (6, 6))))
        one = open_flood(engine, ground, Forcing(), Physics(), begin)
        first = one.volume
        one.advance(120.0, 10**6)
        assert one.volume + one.totals.infiltrated == pytest.approx(first, rel=1e-6)
        made.append(one)
    assert float((made[0].depth - made[1].depth).abs().max()) < 1e-5
    assert made[0].totals.infiltrated == pytest.approx(made[1].totals.infiltrated, rel=1e-4)
    assert made[0].totals.infiltrated < 0.9 * 100 * MM_H * 120 * lowest.numel() * 256


def test_infiltration_has_no_derivative():
    ground, forcing = flood(dtype=torch.float32)
    ground = ground._replace(soil=Soil(even(1e-6, (24, 30))))
    with pytest.raises(SpecError, match="infiltration has no derivative"):
        coarse_floods.depths(ground.z, [BoundaryConditions(ground, forcing)], Physics(), [9.0])


BASE = {"kind": "terrain.simulate", "terrain": {"synthetic": {"rows": 24, "columns": 32}}}
BASE |= {"water": [{"type": "rain", "mm_per_h": 90.0}], "duration_s": 600.0, "outputs": 2}
MAP = {"dataset": "soil", "sha256": SHA, "cell_size_m": 5.0}


def flooded(run, infiltration):
    spec = TypeAdapter(JobSpec).validate_python(
        BASE | {"infiltration": infiltration, "animation": False}
    )
    load_entry(spec)(spec, run)
    return list(csv.DictReader((run.dir / "volume.csv").read_text().splitlines()))


def test_a_job_leaves_what_went_into_the_ground(new_run):
    """Half of the terrain takes all of the rain, the other half none."""
    run, rates = new_run(), np.zeros((24, 32), np.float32)
    rates[:12] = 500
    (run.dir / "inputs").mkdir()
    with (run.dir / "inputs" / SHA).open("wb") as file:
        np.save(file, rates)
    rows = flooded(run, {"type": "constant", "map": MAP})
    assert float(rows[-1]["balance_error"]) < 1e-6
    report = json.loads((run.dir / "report.json").read_text())["result"]
    with rasterio.open(run.dir / "infiltrated.tif") as raster:
        gone = raster.read(1)
    assert gone[12:].max() == 0
    assert gone[:12].min() > 0.9 * 90 * MM_H * 600
    assert report["infiltrated_m3"] == pytest.approx(float(gone.sum(dtype=float)) * 25, rel=1e-5)


def test_without_infiltration_no_file_names_it(new_run):
    run = new_run()
    rows = flooded(run, None)
    assert "infiltrated_m3" not in rows[0]
    assert not (run.dir / "infiltrated.tif").exists()


AMPT = {"type": "green_ampt", "conductivity_mm_per_h": 10, "suction_head_m": 0.1,
        "moisture_deficit": 0.3}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"infiltration": {"type": "constant"}}, "give mm_per_h or map"),
     ({"infiltration": {**AMPT, "suction_head_map": MAP}}, "give suction_head_m or suction_head"),
     ({"infiltration": {**AMPT, "moisture_deficit": 1.5}}, "less than or equal to 1"),
     ({"kind": "terrain.compare", "infiltration": AMPT}, "no form for a subgrid"),
     ({"infiltration": AMPT, "terrain": {"job": "job_" + "0" * 32, "artifact": "subgrid.nc"}},
      "no form for a subgrid"),
     ({"kind": "terrain.compare", "infiltration": {"type": "constant", "mm_per_h": 5},
       "optimise_steps": 3}, "it has no derivative"),
     ({"kind": "terrain.train", "infiltration": AMPT}, "infiltration")],
)  # fmt: skip
def test_infiltration_that_cannot_be(fields, match):
    spec = {**BASE, **fields}
    if spec["kind"] != "terrain.simulate":
        del spec["outputs"]
    with pytest.raises(ValidationError, match=match):
        TypeAdapter(JobSpec).validate_python(spec)


def test_maps_are_asked_for(new_run):
    spec = TypeAdapter(JobSpec).validate_python(
        BASE | {"infiltration": {"type": "constant", "map": MAP}}
    )
    assert [need.pointer for need in spec.needs()] == ["/infiltration/map"]
