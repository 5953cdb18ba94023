"""Floods on a subgrid: levels that change, first water, gauges, maxima, from spec to file."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from pydantic import TypeAdapter
from rasterio import Affine

from models.catalog import JobSpec
from models.core.errors import SpecError
from models.stored import load_entry
from models.terrain.dem import rasters, subgrid_file
from models.terrain.solver.engines import TorchFlood
from models.terrain.solver.forcing import Forcing, HeldLevel, Series
from models.terrain.solver.gauges import Readings, stations
from models.terrain.solver.maxima import Maxima
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry
from models.terrain.solver.start import FirstWater
from models.terrain.solver.subgrid import depth_over_lowest, mean_depth, subgrid_of
from models.terrain.solver.validity import supercritical_share
from models.terrain.spec.places import Gauge
from tests.models.terrain.flood_cases import open_flood

FACTOR = 8
SHA = ["0" * 64, "1" * 64]
REF = {"job": "job_" + "0" * 32, "artifact": "subgrid.nc", "sha256": SHA[0]}


def channel(columns=6, rows=3, bed=0.0):
    """Fine heights: a plain at ``bed`` m, a channel 4 m deep in one row of the middle cells."""
    z = torch.full((rows * FACTOR, columns * FACTOR), bed)
    z[rows // 2 * FACTOR + 3] = bed - 4
    return z


def coarse(z):
    """The coarse terrain of fine heights, cells of 16 m, with its subgrid."""
    fine = rasters.from_heights(z.numpy(), 2.0, "z")
    mean = z.view(z.shape[0] // FACTOR, FACTOR, -1, FACTOR).mean((1, 3)).numpy()
    made = rasters.coarsened(fine, mean, FACTOR)
    return made._replace(subgrid=subgrid_of(z, FACTOR))


def in_channel(depth, q, terrain):
    """Water ``depth`` m deep in the channel, with a discharge of ``q`` m2/s through its faces."""
    lowest = terrain.subgrid.lowest
    state = dry(lowest)
    state.h[:, 1], state.qx[:, 1] = depth / FACTOR, q
    return state


@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_a_tide_on_a_subgrid_holds_the_level_of_the_moment(engine):
    """Mean depths by the tables at the level of each output time; all water is counted."""
    rough = channel() + 0.4 * torch.rand(24, 48, generator=torch.Generator().manual_seed(0))
    lowest, grid, _ = subgrid_of(rough, FACTOR)
    level = torch.full_like(lowest, -torch.inf)
    level[:, :, 0] = -1.0
    tide = Series((0.0, 600.0, 1200.0), (-1.0, 0.3, -5.0))
    forcing = Forcing(levels=(HeldLevel(tide, (0, 1), (0, 0)),))  # the third keeps its level
    ground = Ground(lowest, 0.05, 16.0, level=level, subgrid=grid)
    made = open_flood(engine, ground, forcing, Physics())
    for t, at in ((300.0, -0.35), (600.0, 0.3), (900.0, -2.35), (1200.0, -5.0)):
        made.advance(t, 10**6)
        levels = torch.tensor([at, at, -1.0])[None, :, None].expand(1, 3, 6)
        held = mean_depth(levels - lowest, grid)[0, :, 0]
        torch.testing.assert_close(made.depth[0, :, 0], held, rtol=0, atol=2e-6)
        gained = made.totals.entered - made.totals.left
        assert made.volume == pytest.approx(gained, rel=1e-5)
    assert made.totals.left > 0.2 * made.totals.entered


def test_engines_agree_on_a_tide():
    lowest, grid, _ = subgrid_of(channel(20), FACTOR)
    level = torch.full_like(lowest, -torch.inf)
    level[:, :, 0] = -1.0
    tide = Series((0.0, 200.0, 400.0), (-3.0, 0.5, -2.0))
    forcing = Forcing(levels=(HeldLevel(tide, (0, 1, 2), (0, 0, 0)),))
    ground = Ground(lowest, 0.05, 16.0, level=level, subgrid=grid)
    ends = [open_flood(name, ground, forcing, Physics()) for name in ("reference", "compiled")]
    for made in ends:
        made.advance(400.0, 10**6)
    assert ends[0].totals.steps == ends[1].totals.steps
    torch.testing.assert_close(ends[1].depth, ends[0].depth, rtol=0, atol=2e-5)


def test_first_water_fills_a_subgrid_by_its_tables():
    """A level: the volume of the fine lake to the rounding of tables; a depth: each cell's mean."""
    z = channel(bed=700.0)
    terrain = coarse(z)
    missing = np.zeros((3, 6), bool)
    for at in (697.5, 700.25):
        h = FirstWater(None, np.full((3, 6), at), missing).on(terrain.z, terrain.subgrid).h
        lake = (at - z).clamp(min=0).sum() / FACTOR**2
        assert float(h.sum()) == pytest.approx(float(lake), rel=3e-5)
        surface = terrain.subgrid.lowest + depth_over_lowest(h, terrain.subgrid.tables)
        torch.testing.assert_close(surface[h > 0], torch.full((int((h > 0).sum()),), at))
    depth = np.full((3, 6), 0.3)
    h = FirstWater(depth, None, missing).on(terrain.z, terrain.subgrid).h
    torch.testing.assert_close(h, torch.full((1, 3, 6), 0.3))
    missing[1, 2] = True
    h = FirstWater(None, np.full((3, 6), 700.25), missing).on(terrain.z, terrain.subgrid).h
    assert float(h[0, 1, 2]) == 0 < float(h[0, 1, 1])


def test_gauges_read_level_and_speed_of_the_channel():
    """2 m of water in an eighth of the width: stage by the table, speed by the flow depth."""
    terrain = coarse(channel(bed=700.0))
    local = terrain.subgrid.over(700.0)
    ground = Ground(local.lowest, 0.03, 16.0, subgrid=local.tables)
    state = in_channel(2.0, 0.1, terrain)
    flood = TorchFlood(ground, Forcing(), Physics(), 0.05, state)
    placed = stations(
        [Gauge(name="mid", x_m=40, y_m=24), Gauge(name="dry", x_m=40, y_m=8),
         Gauge(name="line", line_m=[[48, 48], [48, 0]])], terrain,
    )  # fmt: skip
    readings = Readings(placed, 16.0, local)
    readings.take(flood, 0.0)
    stage, depth, speed, flow, *dry_one, line = readings.rows[0]
    assert stage == pytest.approx(698.0, abs=1e-3)
    assert (depth, speed, flow) == pytest.approx((0.25, 0.4, 0.1), rel=1e-3)
    assert dry_one == [700, 0, 0, 0]
    assert line == pytest.approx(1.6, rel=1e-6)


@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_maxima_of_a_channel_are_those_of_its_wet_part(engine):
    """Speed: discharge over flow depth; hazard: depth of the water times (speed + 0.5 m/s)."""
    terrain = coarse(channel())
    ground = Ground(terrain.subgrid.lowest, 0.03, 16.0, subgrid=terrain.subgrid.tables)
    flood = open_flood(engine, ground, Forcing(), Physics(), in_channel(2.0, 0.1, terrain))
    maxima = Maxima((3, 6), 0.05, terrain.subgrid)
    flood.track(maxima)
    inner = [field[1, 1:-1] for field in maxima.fields]
    for field, expected in zip(inner, (0.4, 0.1, 2 * 0.9, 0.0), strict=True):
        torch.testing.assert_close(field, torch.full((4,), expected), rtol=1e-3, atol=1e-6)
    assert all(float(field[[0, 2]].abs().max()) == 0 for field in maxima.fields)


def test_a_face_that_falls_dry_has_no_speed():
    """What remains of a discharge where the flow depth is a film is left out."""
    terrain = coarse(channel())
    state = in_channel(2.0, 0.1, terrain)
    state.h[:, 1, 3:] = 1e-5
    state.h[:, 1, 2] = 1e-3 / FACTOR
    maxima = Maxima((3, 6), 1e-4, terrain.subgrid)
    maxima.update(state, 0.0)
    assert float(maxima.speed[1, 3:].max()) == 0
    assert float(maxima.speed[1, 0]) == pytest.approx(0.4, rel=1e-3)


def test_level_cells_give_the_plain_maxima():
    """Cells of one height under a level surface: the speed of the plain scheme to rounding."""
    z = torch.zeros(24, 48)
    lowest, grid, factor = subgrid_of(z, FACTOR)
    g = torch.Generator().manual_seed(1)
    state = FlowState(torch.full((1, 3, 6), 0.7), torch.rand(1, 3, 5, generator=g),
                      torch.rand(1, 2, 6, generator=g))  # fmt: skip
    plain, made = Maxima((3, 6), 0.05), Maxima((3, 6), 0.05, subgrid_of(z, FACTOR))
    plain.update(state, 0.0)
    made.update(state, 0.0)
    for a, b in zip(plain.fields, made.fields, strict=True):
        torch.testing.assert_close(a[1:-1, 1:-1], b[1:-1, 1:-1], rtol=1e-3, atol=1e-6)
    assert lowest.shape == (1, 3, 6)
    assert grid.full.max() == 0
    assert factor == FACTOR


def test_a_slow_channel_is_not_supercritical():
    """Its Froude number is 0.09; by the mean depth of the cell it would count as 0.26."""
    terrain = coarse(channel())
    state = in_channel(2.0, 0.5, terrain)
    assert supercritical_share(state, 0.05) > 0  # 0.5 m2/s over 0.25 m
    assert supercritical_share(state, 0.05, terrain.subgrid) == 0


@pytest.fixture
def run_spec(new_run):
    """Simulate on the subgrid terrain of ``channel()``, or on its mean heights."""

    def run_spec(z, state=None, *, plain=False, **fields):
        run, terrain = new_run(), coarse(z)
        (run.dir / "inputs").mkdir(exist_ok=True)
        ref = REF
        if plain:
            path, ref = run.dir / "coarse.tif", {**REF, "artifact": "coarse.tif"}
            rasters.write(path, terrain.z, terrain, rasters.BandInfo("height", "m"))
            path.rename(run.dir / "inputs" / SHA[0])
        else:
            subgrid_file.write(run.dir / "inputs" / SHA[0], terrain)
        if state is not None:
            (run.dir / "inputs" / SHA[1]).write_bytes(state)
        spec = TypeAdapter(JobSpec).validate_python({
            "kind": "terrain.simulate", "terrain": ref, "outputs": 1, "animation": False,
            "duration_s": 60.0, **fields,
        })  # fmt: skip
        load_entry(spec)(spec, run)
        lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
        return run.dir, next(line["values"] for line in lines if line["type"] == "result")

    return run_spec


def test_a_lake_on_a_subgrid_from_spec_to_files(run_spec):
    """Level, gauge and raster of the greatest level are those of the fine lake."""
    z = channel(bed=700.0)
    gauges = [{"name": "mid", "x_m": 40, "y_m": 24}]
    folder, result = run_spec(z, start={"level_m": 698.0}, gauges=gauges)
    assert result["start_m3"] == pytest.approx(2 * 4 * 48, rel=1e-4)
    assert result["volume_m3"] == pytest.approx(result["start_m3"], rel=1e-6)
    rows = list(csv.DictReader((folder / "gauges.csv").read_text().splitlines()))
    assert float(rows[-1]["mid stage_m"]) == pytest.approx(698.0, abs=2e-3)
    with rasterio.open(folder / "max_level.tif") as raster:
        level = raster.read(1, masked=True)
        assert raster.transform == Affine(16.0, 0, 0, 0, -16.0, 48.0)
    np.testing.assert_allclose(level[1], 698.0, atol=2e-3)
    assert level.mask[[0, 2]].all()


def test_a_flood_on_a_subgrid_goes_on_from_its_state(run_spec):
    """Two halves are the whole; the same depths on other tables or on none are refused."""
    z = channel()
    water = [{"type": "source", "x_m": 24, "y_m": 24, "discharge_m3_s": 5.0}]
    whole, _ = run_spec(z, water=water, duration_s=120.0, outputs=2)
    half, _ = run_spec(z, water=water, save_state=True)
    state = (half / "state.safetensors").read_bytes()
    start = {"state": {"job": "job_" + "0" * 32, "artifact": "state.safetensors", "sha256": SHA[1]}}
    second, result = run_spec(z, state, water=water, start=start)
    depths = []
    for path in (second / "depth/t00000060.tif", whole / "depth/t00000120.tif"):
        with rasterio.open(path) as raster:
            depths.append(raster.read(1, masked=True).filled(0))
    assert np.abs(depths[0] - depths[1]).max() < 1e-5
    assert result["volume_m3"] == pytest.approx(600, rel=1e-5)
    other = z.clone()
    other[10, 0], other[10, 1] = 1.0, -1.0  # the same mean heights
    with pytest.raises(SpecError, match=r"start\.state: the same depths are other levels"):
        run_spec(other, state, water=water, start=start)
    with pytest.raises(SpecError, match="start on the terrain of the job that left it"):
        run_spec(z, state, plain=True, water=water, start=start)


def test_a_comparison_that_begins_with_a_lake(new_run):
    """Water at 0 s in a channel: the subgrid has its volume and rests, mean heights are dry."""
    run, z = new_run(), channel(rows=4).numpy()
    (run.dir / "inputs").mkdir(exist_ok=True)
    path = run.dir / "fine.tif"
    rasters.write(path, z, rasters.from_heights(z, 2.0, "z"), rasters.BandInfo("height", "m"))
    path.rename(run.dir / "inputs" / SHA[0])
    spec = TypeAdapter(JobSpec).validate_python({
        "kind": "terrain.compare", "terrain": {**REF, "artifact": "fine.tif"}, "water": [],
        "factor": FACTOR, "methods": ["mean", "subgrid"], "start": {"level_m": -2.0},
        "duration_s": 30.0,
    })  # fmt: skip
    load_entry(spec)(spec, run)
    lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
    result = next(line["values"] for line in lines if line["type"] == "result")
    assert result["mae_m"]["subgrid"] < 1e-4 < 0.05 < result["mae_m"]["mean"]
