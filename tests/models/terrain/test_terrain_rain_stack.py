"""Rain in time and space: its water on every engine, units, times, positions, refusals."""

import csv

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from rasterio import CRS, Affine
from rasterio.warp import transform

from models.catalog import JobSpec
from models.core.errors import DataError, SpecError
from models.stored import load_entry
from models.terrain.dem.rasters import from_heights
from models.terrain.solver.engines import scenario_of
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.rain_stack import FineRain, GridRain
from models.terrain.solver.scheme import Physics
from models.terrain.spec.floods import TerrainSimulate
from models.terrain.spec.stacks import RainStack
from tests.models.terrain.flood_cases import flood, open_flood
from tests.models.terrain.stack_cases import rain_over, write_stack

SHA = "2" * 64
STACK = {"dataset": "radar", "sha256": SHA}
ENGINES = ["reference", "compiled"]
UTM, BRITISH = CRS.from_epsg(32633), CRS.from_epsg(27700)
TIMES = np.array([30.0, 100.0, 103.0, 240.0, 400.0])


@pytest.fixture
def run_of(new_run):
    """A run whose stack is that of :func:`write_stack`."""

    def run_of(*args, **given):
        run = new_run()
        (run.dir / "inputs").mkdir(exist_ok=True)
        write_stack(run.dir / "inputs" / SHA, *args, **given)
        return run

    return run_of


def storm(frames=5, ny=3, nx=4, seed=0):
    """Rates in mm/h that vary in time and space, some of them 0."""
    rates = np.random.default_rng(seed).uniform(0, 80, (frames, ny, nx))
    return np.where(rates < 15, 0, rates)


def mapped(ny=24, nx=30, dx=10.0, crs=UTM, left=5e5, top=6e6):
    """A terrain with coordinates."""
    plain = from_heights(np.zeros((ny, nx)), dx, "terrain")
    return plain._replace(crs=crs, transform=Affine(dx, 0, left, 0, -dx, top), georeferenced=True)


def centres(count, side, first):
    return first + side * (np.arange(count) + 0.5)


def on_flood(engine, fine_rain):
    """The flood of ``flood_cases`` under a stack alone, closed."""
    ground, _ = flood()
    ground = ground._replace(drain=None)
    if engine == "compiled":
        ground = ground._replace(z=ground.z.float())
    stack = GridRain(fine_rain, torch.from_numpy)
    return open_flood(engine, ground, Forcing(stack=stack), Physics())


@pytest.mark.parametrize("between", ["step", "linear"])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_falls_is_what_the_stack_says(engine, between, run_of):
    """Coarse cells that the terrain's do not divide, moments shorter than a step."""
    x, y = centres(4, 78.0, 5e5 - 5), centres(3, 85.0, 6e6 - 250)[::-1]
    run = run_of(TIMES, storm(), x, y, crs_wkt=UTM.to_wkt())
    ref = RainStack(**STACK, between=between)
    made = on_flood(engine, FineRain(ref, mapped(), run, "stack", None))
    # the part of each of its cells that lies over the terrain, m2
    east = np.clip(x + 39, None, 5e5 + 300) - np.clip(x - 39, 5e5, None)
    south = np.clip(y + 42.5, None, 6e6) - np.clip(y - 42.5, 6e6 - 240, None)
    area = np.clip(south, 0, None)[:, None] * np.clip(east, 0, None)
    assert area.sum() == pytest.approx(240 * 300)
    for until in (20.0, 101.0, 520.0):
        made.advance(until, 10**6)
        expected = (rain_over(TIMES, storm(), until, between) * area).sum() / 3.6e6
        assert made.totals.entered == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert made.volume == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_engines_agree_and_chunks_do_not_matter(run_of):
    x, y = centres(4, 75.0, 0.0), centres(3, 80.0, 0.0)[::-1]
    ref = RainStack(**STACK, between="linear")
    depths = []
    for engine, chunk in (("reference", 10**6), ("compiled", 10**6), ("compiled", 7)):
        run = run_of(TIMES, storm(), x, y)
        made = on_flood(engine, FineRain(ref, from_heights(np.zeros((24, 30)), 10.0, "z"), run,
                                         "stack", None))  # fmt: skip
        while not made.advance(400.0, chunk):
            pass
        depths.append(made.depth)
    assert float((depths[0] - depths[1]).abs().max()) < 1e-5
    assert torch.equal(depths[1], depths[2])


def rate_at(run, fine, t=0.0, share=None, **ref):
    """Rates in mm/h on a terrain at a time."""
    rain = GridRain(
        FineRain(RainStack(**STACK, **ref), fine, run, "stack", share), torch.from_numpy
    )
    piece = rain.at(t)
    at = torch.tensor([t], dtype=torch.float64)
    return 3.6e6 * sum(float(one.weight.at(at)) * one.rate.double() for one in piece.fields).numpy()


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("mm/h", 1), ("mm hr-1", 1), ("mm s-1", 3600), ("kg m-2 s-1", 3600), ("m s**-1", 3.6e6),
     ("kg/m2/s", 3600), ("cm d-1", 10 / 24), ("inches per hour", 25.4), ("mm.day^-1", 1 / 24)],
)  # fmt: skip
def test_units_of_rates(unit, factor, run_of):
    grid = centres(2, 20.0, 0.0), centres(2, 20.0, 0.0)[::-1]
    run = run_of([0.0, 60.0], np.full((2, 2, 2), 2e-3), *grid, units=unit)
    made = rate_at(run, from_heights(np.zeros((4, 4)), 10.0, "z"))
    assert made == pytest.approx(np.full((4, 4), 2e-3 * factor), rel=1e-6)


def test_times_of_a_file_begin_the_flood_and_packed_values_are_unpacked(run_of):
    """Dates count from the first; an integer with scale and offset; rows from south to north."""
    packed = np.arange(12, dtype=np.int16).reshape(3, 2, 2)
    run = run_of(
        [10, 15, 20], packed, centres(2, 0.02, 0.0), centres(2, 0.02, 0.0), fillvalue=np.int16(-1),
        time_units="minutes since 2024-05-01 06:00:00", xy_units="km",
        attributes={"scale_factor": 0.5, "add_offset": 1.0},
    )  # fmt: skip
    fine = from_heights(np.zeros((2, 2)), 20.0, "z")
    by_hand = packed[:, ::-1] * 0.5 + 1
    for t, k in ((0.0, 0), (299.0, 0), (300.0, 1), (899.0, 2)):
        assert rate_at(run, fine, t) == pytest.approx(by_hand[k])
    assert not rate_at(run, fine, 900.0).any()
    halfway = rate_at(run, fine, 150.0, between="linear")
    assert halfway == pytest.approx((by_hand[0] + by_hand[1]) / 2)
    assert not rate_at(run, fine, 600.5, between="linear").any()


def test_bounds_tell_when_a_field_falls_and_what_an_amount_is(run_of):
    grid = centres(2, 20.0, 0.0), centres(2, 20.0, 0.0)[::-1]
    bounds = [[0.0, 0.25], [0.5, 1.0]]
    run = run_of(
        [0.25, 1.0], np.full((2, 2, 2), 3.0), *grid, bounds=bounds, units="mm", time_units="h",
        attributes={"cell_methods": "time: sum"},
    )  # fmt: skip
    fine = from_heights(np.zeros((4, 4)), 10.0, "z")
    by_hand = {0.0: 12, 899.0: 12, 900.0: 0, 1799.0: 0, 1800.0: 6, 3600.0: 0}
    for t, rate in by_hand.items():
        assert rate_at(run, fine, t) == pytest.approx(np.full((4, 4), rate))


def test_a_stack_in_degrees_lies_where_the_terrain_is(run_of):
    """Each cell takes the value at its centre, through the reference systems."""
    fine = mapped(40, 50, 100.0, BRITISH, 4e5, 3e5)
    lon, lat = transform(BRITISH, CRS.from_epsg(4326), [4e5, 4.05e5], [2.96e5, 3e5])
    x, y = centres(40, 0.01, min(lon) - 0.1) + 360, centres(40, 0.01, min(lat) - 0.1)[::-1]
    field = np.add.outer(100 * y, x)[None]
    made = rate_at(run_of([0.0], field, x, y, xy_units="degrees_north"), fine)
    i, j = 7, 33
    at = transform(BRITISH, CRS.from_epsg(4326), [4e5 + 100 * j + 50], [3e5 - 100 * i - 50])
    assert abs(made[i, j] - (100 * at[1][0] + at[0][0] + 360)) <= 0.506
    assert len(np.unique(made)) > 20


def test_finer_stacks_keep_their_water_and_maps_multiply_them(run_of):
    field = np.random.default_rng(1).uniform(0, 9, (1, 12, 12))
    run = run_of([0.0], field, centres(12, 5.0, 0.0), centres(12, 5.0, 0.0)[::-1])
    fine = from_heights(np.zeros((6, 6)), 10.0, "z")
    means = field[0].reshape(6, 2, 6, 2).mean((1, 3))
    assert rate_at(run, fine) == pytest.approx(means, rel=1e-6)
    share = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6)
    assert rate_at(run, fine, share=share) == pytest.approx(means * share, rel=1e-6)


NAN = np.full((1, 2, 2), np.nan)
EVEN = centres(2, 20.0, 0.0)
WRONG = {
    "amount": ({"units": "mm"}, SpecError, "an amount whose time is not told"),
    "temperature": ({"units": "K"}, SpecError, "give a rate of rain"),
    "gap": ({"rates": NAN}, SpecError, r"4 of its cells .* have no value at 0 s"),
    "negative": ({"rates": -np.ones((1, 2, 2))}, SpecError, "rates from -1 to -1 mm/h"),
    "elsewhere": ({"x": EVEN + 1000}, SpecError, "does not cover terrain"),
    "uneven": ({"x": np.array([0.0, 10, 50]), "rates": np.ones((1, 2, 3))}, DataError, "evenly"),
    "falling times": ({"times": [5, 4], "rates": np.ones((2, 2, 2))}, DataError, "must rise"),
    "epoch": ({"time_units": "fortnights since 2000-01-01"}, DataError, "hours since"),
    "system": ({"crs_wkt": UTM.to_wkt()}, SpecError, "has a reference system and terrain has none"),
    "mixed": ({"crs_wkt": UTM.to_wkt(), "xy_units": "degrees_north"}, DataError, "does not fit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_stacks_that_cannot_fall(name, run_of):
    given, error, match = WRONG[name]
    args = {"times": [0.0], "rates": np.ones((1, 2, 2)), "x": EVEN, "y": EVEN[::-1]} | given
    run = run_of(**args)
    fine = from_heights(np.zeros((4, 4)), 10.0, "terrain")
    with pytest.raises(error, match=match):
        FineRain(RainStack(**STACK), fine, run, "water.0.stack", None)


def test_a_stack_over_a_finer_terrain_in_another_system_is_refused(run_of):
    fine = mapped(4, 4, 1000.0, BRITISH, 4e5, 3e5)
    run = run_of([0.0], np.ones((1, 300, 300)), centres(300, 0.001, -2.1),
                 centres(300, 0.001, 52.4)[::-1], xy_units="degrees_north")  # fmt: skip
    with pytest.raises(SpecError, match="smaller than the terrain's"):
        FineRain(RainStack(**STACK), fine, run, "stack", None)


BASE = {"kind": "terrain.simulate", "terrain": {"synthetic": {"rows": 32, "columns": 32}}}


def test_a_job_rains_by_a_stack(run_of):
    """On cells of 100 m over a terrain of 5 m, some of it missing; the balance closes."""
    run = run_of([0, 5], storm(2, 2, 2), centres(2, 100.0, 0.0), centres(2, 100.0, 0.0)[::-1],
                 time_units="min")  # fmt: skip
    water = [{"type": "rain", "stack": STACK}]
    spec = TypeAdapter(JobSpec).validate_python(
        {**BASE, "water": water, "duration_s": 700.0, "outputs": 2, "animation": False}
    )
    assert [need.pointer for need in spec.needs()] == ["/water/0/stack"]
    load_entry(spec)(spec, run)
    rows = list(csv.DictReader((run.dir / "volume.csv").read_text().splitlines()))
    area = np.outer([60, 100], [100, 60])
    expected = (storm(2, 2, 2).sum(0) * 300 * area).sum() / 3.6e6
    assert float(rows[-1]["entered_m3"]) == pytest.approx(expected, rel=1e-6)
    assert float(rows[-1]["balance_error"]) < 1e-6
    told = (run.dir / "events.jsonl").read_text()
    assert "cells of 100 x 100 laid on the terrain by area" in told


def test_coarse_grids_get_the_same_water(run_of):
    run = run_of([0.0], storm(1), centres(4, 50.0, 0.0), centres(3, 60.0, 0.0)[::-1])
    water = [{"type": "rain", "stack": STACK}]
    spec = TerrainSimulate.model_validate({**BASE, "water": water})
    scenario = scenario_of(spec, from_heights(np.zeros((32, 32)), 5.0, "z"), 0.05, run)
    rates = []
    for shape, dx in (((32, 32), 5.0), ((8, 8), 20.0)):
        stack = scenario.boundary_conditions(torch.zeros(1, *shape), 0.0, dx).forcing.stack
        rates.append(float(stack.at(0.0).fields[0].rate.double().mean()))
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)


@pytest.mark.parametrize(
    ("item", "match"),
    [({"stack": STACK, "mm_per_h": 1.0}, "one of the three"),
     ({"stack": STACK, "before": "hold"}, "needs a series"), ({}, "give mm_per_h")],
)  # fmt: skip
def test_rain_is_one_thing(item, match):
    with pytest.raises(ValidationError, match=match):
        TypeAdapter(JobSpec).validate_python({**BASE, "water": [{"type": "rain", **item}]})


def test_a_stack_has_no_derivative():
    rain = {"type": "rain", "stack": STACK}
    with pytest.raises(ValidationError, match="a stack of rain has no derivative"):
        TypeAdapter(JobSpec).validate_python({"kind": "terrain.train", "water": [rain]})
