"""Series of datasets: exact volumes, tides, units, refusals; the same on every engine."""

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from models.catalog import JobSpec
from models.core.errors import DataError, SpecError
from models.stored import load_entry
from models.terrain.solver.forcing import Forcing, HeldLevel, Inlet, Series, constant
from models.terrain.solver.inputs import with_series
from models.terrain.solver.scheme import Ground, Physics, dry
from models.terrain.spec.water import Inflow, Level, Rain, SeriesRef
from tests.models.terrain.flood_cases import flood, open_flood

SHA = "1" * 64
ENGINES = ["reference", "compiled", pytest.param("gpu", marks=pytest.mark.gpu)]
SERIES = {"dataset": "gauge", "sha256": SHA}


@pytest.fixture
def run_with(new_run):
    """A run whose series is this text."""

    def run_with(text):
        run = new_run()
        path = run.dir / "inputs" / SHA
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return run

    return run_with


def area(times, values, until):
    """Under a series that brings nothing before its first moment, to a time."""
    grid = np.union1d(np.linspace(times[0], until, 2), [t for t in times if t <= until])
    return np.trapezoid(np.interp(grid, times, values), grid)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_enters_is_what_lies_under_the_series(engine):
    """Moments a second apart, steps of several: nothing is lost between them."""
    ground, _ = flood()
    noisy = np.random.default_rng(0).uniform(0, 30, 900)
    times = (np.arange(900) + 100.5).tolist()
    late = Series((np.nextafter(100.5, 0), *times), (0.0, *noisy.tolist()))
    forcing = Forcing((Inlet(late, (3, 4), (0, 0)),))
    if engine != "reference":
        ground = ground._replace(z=ground.z.float(), drain=ground.drain.float())
    made = open_flood(engine, ground, forcing, Physics())
    made.advance(90.0, 10**6)
    assert made.totals.entered == pytest.approx(0, abs=1e-9)
    made.advance(600.0, 10**6)
    assert made.totals.entered == pytest.approx(area(times, noisy, 600), rel=1e-9)
    assert made.volume == pytest.approx(made.totals.entered - made.totals.left, rel=1e-6)


def test_means_of_a_series_by_hand():
    series = Series((10.0, 20.0, 40.0), (1.0, 3.0, 0.0))
    t, dt = torch.tensor([[0, 5, 12, 15, 38, 50], [5, 10, 4, 10, 10, 3]], dtype=torch.float64)
    by_hand = [1, (5 + 5 * 1.5) / 10, 1.8, (5 * 2.5 + 5 * 2.625) / 10, 0.3 / 10, 0]
    assert series.mean(t, dt).tolist() == pytest.approx(by_hand)
    assert series.mean(t, torch.zeros_like(t)).tolist() == pytest.approx(series.at(t).tolist())
    assert constant(4.0).mean(t, dt).tolist() == [4] * 6


@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_a_tide_rises_and_falls(engine):
    """A basin open to the sea follows a slow tide; all water is counted."""
    z = torch.full((1, 3, 8), -2.0)
    level = torch.full_like(z, -torch.inf)
    level[:, :, 0] = 0.0
    tide = Series((0.0, 600.0, 1200.0), (0.0, 0.3, -0.2))
    forcing = Forcing(levels=(HeldLevel(tide, (0, 1, 2), (0,) * 3),))
    begin = dry(z)._replace(h=-z)
    made = open_flood(engine, Ground(z, 0.05, 10.0, level=level), forcing, Physics(), begin)
    for t, expected in ((300.0, 0.15), (600.0, 0.3), (1200.0, -0.2)):
        made.advance(t, 10**6)
        surface = made.depth[0] - 2
        assert float(surface[:, 0].mean()) == pytest.approx(expected, abs=1e-6)
        assert float((surface - expected).abs().max()) < 0.05
        gained = made.totals.entered - made.totals.left
        assert made.volume - 3 * 8 * 200 == pytest.approx(gained, rel=1e-5)
    assert made.totals.left > 0.9 * 3 * 8 * 100 * 0.5  # of what the flood brought and more


def test_a_file_of_series_floods_as_its_moments_do(run_with):
    """A column in litres and minutes is the inflow in m3/s and s, with nothing before it."""
    base = {"kind": "terrain.simulate", "terrain": {"synthetic": {"rows": 16, "columns": 16}}}
    base |= {"duration_s": 120.0, "outputs": 2, "animation": False}
    moments = [{"time_s": 30, "value": 2}, {"time_s": 90, "value": 4}]
    volumes = []
    for series in (moments, SERIES | {"column": "Q [l/s]"}):
        run = run_with("time_min;Q [l/s];other\n0,5;2000;1\n1,5;4000;2\n")
        water = [{"type": "inflow", "edge": "left", "series": series}]
        spec = TypeAdapter(JobSpec).validate_python({**base, "water": water})
        load_entry(spec)(spec, run)
        volumes.append((run.dir / "volume.csv").read_text())
        json.loads((run.dir / "report.json").read_text())
    assert volumes[0] == volumes[1]
    assert float(volumes[0].splitlines()[2].split(",")[2]) == pytest.approx(180 + 4 * 30)


@pytest.mark.parametrize(
    ("item", "text", "match"),
    [
        (Inflow, "time_s,a,b\n0,1,2\n", "has the columns a, b; name one by column"),
        (Inflow, "time_s,level_m\n0,1\n", r"water\.0\.series: the column 'level_m' is in m"),
        (Inflow, "time_s,value\n0,-1\n", "0 to 1e\\+07 m3_s are allowed"),
        (Level, "time_s,value\n60,1\n", "the first level is at 60 s"),
        (Rain, "time_s,value\n0,99999\n", "0 to 10000 mm_h"),
    ],
)
def test_files_that_do_not_fit(item, text, match, run_with):
    ref = SeriesRef(**SERIES)
    edge = {} if item is Rain else {"edge": "left"}
    water = item(type=item.__name__.lower(), series=ref, **edge)
    with pytest.raises(SpecError, match=match):
        with_series([water], run_with(text))


@pytest.mark.parametrize(("column", "warned"), [("value", True), ("inflow_cfs", False)])
def test_a_unit_that_is_assumed_is_told(column, warned, run_with):
    run = run_with(f"time_s,{column}\n0,1\n60,2\n")
    water = Inflow(type="inflow", edge="left", series=SeriesRef(**SERIES))
    with_series([water], run)
    told = (run.dir / "events.jsonl").read_text()
    assert ("taken as m3_s" in told) == warned


def test_a_column_that_is_not_there_and_a_broken_file(run_with):
    water = Rain(type="rain", series=SeriesRef(**SERIES, column="x"))
    with pytest.raises(SpecError, match="has no column 'x'; it has value"):
        with_series([water], run_with("time_s,value\n0,1\n"))
    with pytest.raises(DataError, match=r"water\.0\.series: the file is empty"):
        with_series([water], run_with(""))


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ({"type": "level", "edge": "left"}, "give level_m or series"),
        ({"type": "level", "edge": "left", "series": [{"time_s": 9, "value": 1}]}, "at 9 s"),
        ({"type": "level", "edge": "left", "level_m": 1, "before": "hold"}, "needs a series"),
    ],
)
def test_levels_that_cannot_work(item, match):
    spec = {"kind": "terrain.simulate", "terrain": {"synthetic": {}}, "water": [item]}
    with pytest.raises(ValidationError, match=match):
        TypeAdapter(JobSpec).validate_python(spec)


def test_levels_that_change_have_no_derivative():
    tide = {"type": "level", "edge": "left", "series": [{"time_s": 0, "value": 1}]}
    for fields in (
        {"kind": "terrain.train", "water": [tide]},
        {"kind": "terrain.downsample", "terrain": {"synthetic": {}}, "tune": {"water": [[tide]]}},
        {"kind": "terrain.compare", "terrain": {"synthetic": {}}, "water": [tide],
         "optimise_steps": 1},
    ):  # fmt: skip
        with pytest.raises(ValidationError, match="has no derivative here"):
            TypeAdapter(JobSpec).validate_python(fields)
