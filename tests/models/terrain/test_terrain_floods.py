"""What a real flood needs: first water, places, gauges, maxima, observations."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from pydantic import TypeAdapter, ValidationError
from rasterio import Affine
from rasterio.warp import transform

from models.catalog import JobSpec
from models.core.errors import SpecError
from models.stored import load_entry
from models.terrain.dem.rasters import Elevation
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gauges import Readings, stations
from models.terrain.solver.inputs import given_or_default, placed
from models.terrain.solver.maxima import Maxima
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry
from models.terrain.solver.start import FirstWater
from models.terrain.spec.places import Gauge
from models.terrain.spec.water import Inflow, Source
from tests.models.terrain.flood_cases import flood, open_flood, puddles

SHA = [f"{k:064d}" for k in range(4)]
CORNER = Affine(10.0, 0, 500_000, 0, -10.0, 6_000_000)
TERRAIN = {"terrain": {"dataset": "dem", "sha256": SHA[0]}, "duration_s": 60.0}
BASE = {"kind": "terrain.simulate", "outputs": 2, "animation": False, **TERRAIN}
ENGINES = ["reference", "compiled", pytest.param("gpu", marks=pytest.mark.gpu)]


def valley(ny=12, nx=16):
    rows, columns = np.mgrid[:ny, :nx]
    return (0.3 * np.abs(rows - ny // 2) - 0.05 * columns + 20).astype(np.float32)


def tif(path, z):
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=z.shape[0], width=z.shape[1], dtype="float32",
        crs="EPSG:28356", transform=CORNER,
    ) as raster:  # fmt: skip
        raster.write(np.asarray(z, np.float32), 1)


@pytest.fixture
def run_spec(new_run):
    """Run a spec on a valley; further inputs by the index of their digest."""

    def run_spec(inputs=(), **fields):
        run = new_run()
        tif(run.dir / "inputs" / SHA[0], valley())
        for k, given in enumerate(inputs, 1):
            path = run.dir / "inputs" / SHA[k]
            if isinstance(given, np.ndarray):
                tif(path, given)
            else:
                path.write_bytes(given)
        spec = TypeAdapter(JobSpec).validate_python(
            {**(BASE if "kind" not in fields else TERRAIN), **fields}
        )
        load_entry(spec)(spec, run)
        lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
        return run.dir, next(line["values"] for line in lines if line["type"] == "result")

    return run_spec


def ground():
    z = valley()
    return Elevation(z, np.zeros(z.shape, bool), 10.0, rasterio.CRS.from_epsg(28356), CORNER,
                     "dem", (), True)  # fmt: skip


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def depth_of(path):
    with rasterio.open(path) as raster:
        return raster.read(1, masked=True).filled(np.nan)


# -- first water ------------------------------------------------------------------------------


def test_a_lake_that_is_there_stays_still(run_spec):
    """A level without further water: all ground below it filled, to rounding."""
    folder, result = run_spec(start={"level_m": 20.5}, water=[])
    expected = np.maximum(20.5 - valley(), 0)
    assert np.abs(depth_of(folder / "depth" / "t00000060.tif") - expected).max() < 2e-5
    assert result["start_m3"] == pytest.approx(expected.sum(dtype=float) * 100, rel=1e-5)
    assert result["entered_m3"] == 0
    assert result["balance_error"] < 1e-9
    arrival = depth_of(folder / "arrival.tif")
    assert (arrival[expected > 0.051] == 0).all()
    assert np.isnan(arrival[expected < 0.049]).all()


@pytest.mark.parametrize("name", ["depth_map", "level_map", "depth_m"])
def test_first_water_by_depth_and_by_maps(run_spec, name):
    depth = np.where(valley() < 20, 0.4, 0.0)
    value = {"depth_map": depth, "level_map": valley() + depth, "depth_m": None}[name]
    given = {"dataset": "m", "sha256": SHA[1]} if value is not None else 0.25
    expected = depth.sum() if value is not None else 0.25 * depth.size
    _, result = run_spec([value] if value is not None else (), start={name: given}, water=[])
    assert result["start_m3"] == pytest.approx(expected * 100, rel=1e-3)
    assert result["volume_m3"] == pytest.approx(result["start_m3"], rel=1e-6)


def test_a_flood_goes_on_from_its_last_state(run_spec):
    """Two halves are the whole, discharges included; a state of other cells is refused."""
    water = [{"type": "source", "x_m": 55, "y_m": 65, "discharge_m3_s": 5.0}]
    whole, _ = run_spec(water=water, duration_s=120.0, outputs=2)
    half, _ = run_spec(water=water, save_state=True)
    state = (half / "state.safetensors").read_bytes()
    ref = {"job": "job_" + "0" * 32, "artifact": "state.safetensors", "sha256": SHA[1]}
    second, result = run_spec([state], water=water, start={"state": ref})
    gap = depth_of(second / "depth/t00000060.tif") - depth_of(whole / "depth/t00000120.tif")
    assert np.abs(gap).max() < 1e-5
    assert result["volume_m3"] == pytest.approx(600, rel=1e-5)
    area = {**TERRAIN["terrain"], "area": {"rows": 8, "columns": 8}}
    with pytest.raises(SpecError, match="start on the terrain of the job that left it"):
        run_spec([state], water=[], start={"state": ref}, terrain=area)


def test_first_water_on_a_coarse_grid_keeps_its_volume_or_its_level():
    z, dry_cells = valley(), np.zeros((12, 16), bool)
    coarse = z.reshape(3, 4, 4, 4).mean((1, 3))
    depth = np.random.default_rng(0).uniform(0, 1, z.shape)
    made = FirstWater(depth, None, dry_cells).on(coarse)
    assert float(made.h.sum()) * 16 == pytest.approx(depth.sum(), rel=1e-6)
    level = FirstWater(None, np.full(z.shape, 20.5), dry_cells).on(coarse).h[0].numpy()
    assert np.allclose(level, np.maximum(20.5 - coarse, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("dx", "fields", "types"),
    [
        (10.0, {}, ["valley"]),
        (400.0, {}, ["rain", *["outflow"] * 4]),
        (400.0, {"start": {"level_m": 1.0}}, []),
        (400.0, {"water": [{"type": "rain", "mm_per_h": 1.0}]}, ["rain"]),
    ],
)
def test_water_that_nobody_named(new_run, dx, fields, types):
    """A valley up to 20 km2 (192 cells), rain and open edges above, nothing beside a start."""
    spec = TypeAdapter(JobSpec).validate_python({**BASE, **fields})
    run = new_run()
    made = given_or_default(spec, ground()._replace(dx=dx), run)
    assert [item.type for item in made] == types
    warned = "default_water" in (run.dir / "events.jsonl").read_text()
    assert warned == (types[:1] == ["rain"] and not fields)


# -- places -----------------------------------------------------------------------------------


def test_water_in_the_coordinates_of_the_terrain():
    point = {"type": "Point", "coordinates": [500_055, 5_999_935]}
    degrees = [k[0] for k in transform("EPSG:28356", "EPSG:4326", [500_055], [5_999_935])]
    lonlat = {"type": "Point", "coordinates": degrees, "crs": "EPSG:4326"}
    line = {"type": "LineString", "coordinates": [[500_003, 5_999_980], [499_999, 5_999_920]]}
    spring = {"type": "source", "discharge_m3_s": 1.0}
    source, same, inflow = placed(
        [Source(**spring, geometry=point), Source(**spring, geometry=lonlat),
         Inflow(type="inflow", edge="left", discharge_m3_s=1.0, geometry=line)],
        ground(),
    )  # fmt: skip
    assert source.centre_m == pytest.approx((55, 65))
    assert same.centre_m == pytest.approx((55, 65), abs=0.01)
    assert (inflow.centre_m, inflow.length_m) == pytest.approx((50, 60))


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ({"type": "source", "geometry": {"type": "Point", "coordinates": [499_000, 5_999_900]}},
         r"water\.0\.geometry: \(499000, 5999900\) is off the terrain, which reaches from x 500000"
         r" to 500160, y 5999880 to 6000000 in EPSG:28356"),
        ({"type": "inflow", "edge": "left", "geometry":
          {"type": "LineString", "coordinates": [[500_150, 5_999_990], [500_150, 5_999_900]]}},
         "up to 150 m from the left edge"),
        ({"type": "inflow", "edge": "left", "geometry":
          {"type": "LineString", "coordinates": [[500_000, 5_999_990], [500_000, 5_990_000]]}},
         "off the terrain"),
        ({"type": "inflow", "edge": "left", "geometry":
          {"type": "LineString", "coordinates": [[500_000, 5_999_990], [500_009, 5_999_990]]}},
         "no length"),
    ],
)  # fmt: skip
def test_places_off_the_terrain(item, match):
    made = {"source": Source, "inflow": Inflow}[item["type"]](**item, discharge_m3_s=1.0)
    with pytest.raises(SpecError, match=match):
        placed([made], ground())


def test_a_terrain_without_coordinates_has_no_places():
    point = {"type": "Point", "coordinates": [5, 5]}
    item = Source(type="source", discharge_m3_s=1.0, geometry=point)
    with pytest.raises(SpecError, match="has no coordinates; give metres from its left"):
        placed([item], ground()._replace(georeferenced=False))


# -- gauges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([[50, 0], [50, 120]], -1),  # down: its left is the east
        ([[50, 120], [50, 0]], 1),
        ([[20, 120], [90, 0]], 1),  # slanted: all that flows goes through the stairs
        ([[0, 40], [160, 40]], 0),
    ],
)
def test_the_discharge_over_a_line_is_that_through_its_stairs(line, expected):
    """Uniform flow to the east of 0.5 m2/s over 120 m: 60 m3/s, whatever the line's angle."""
    z = torch.zeros(1, 12, 16)
    state = dry(z)._replace(h=torch.ones_like(z), qx=torch.full((1, 12, 15), 0.5))
    made = open_flood("compiled", Ground(z, 0.03, 10.0), Forcing(), Physics(), state)
    readings = Readings(stations([Gauge(name="a", line_m=line)], ground()), 10.0)
    readings.take(made, 0.0)
    assert readings.rows[0][0] == pytest.approx(60 * expected, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_point_reads_its_cell(engine):
    z = torch.from_numpy(valley())[None]
    state = puddles(z.double())
    state = FlowState(*(field.float() for field in state))
    made = open_flood(engine, Ground(z, 0.03, 10.0), Forcing(), Physics(), state)
    points = [Gauge(name="a", x_m=0, y_m=0), Gauge(name="b", x_m=160, y_m=120),
              Gauge(name="c", x_m=75, y_m=45)]  # fmt: skip
    readings = Readings(stations(points, ground()), 10.0)
    readings.take(made, 0.0)
    for k, (i, j) in enumerate(((0, 0), (11, 15), (4, 7))):
        stage, depth, speed, flow = readings.rows[0][4 * k : 4 * k + 4]
        h = float(state.h[0, i, j])
        qx, qy = np.pad(state.qx[0], ((0, 0), (1, 1))), np.pad(state.qy[0], ((1, 1), (0, 0)))
        q = np.hypot(qx[i, j] + qx[i, j + 1], qy[i, j] + qy[i + 1, j]) / 2
        assert (stage, depth) == pytest.approx((float(z[0, i, j]) + h, h), rel=1e-6)
        assert flow == pytest.approx(q, rel=1e-5)
        assert speed == pytest.approx(q / h if h > 1e-3 else 0, rel=1e-5)


def test_gauges_of_a_flood(run_spec):
    """A table with the start and the end, a picture; what crosses a line is what a spring gives."""
    gauges = [{"name": "spring", "x_m": 25, "y_m": 65},
              {"name": "out", "line_m": [[120, 120], [120, 0]]}]  # fmt: skip
    water = [{"type": "source", "x_m": 25, "y_m": 65, "discharge_m3_s": 2.0},
             {"type": "outflow", "edge": "right", "slope": 0.005}]  # fmt: skip
    folder, _ = run_spec(gauges=gauges, water=water, duration_s=900.0, gauge_every_s=90.0)
    rows = table(folder / "gauges.csv")
    assert [float(row["time_s"]) for row in rows] == [90.0 * k for k in range(11)]
    assert float(rows[0]["spring depth_m"]) == 0
    assert float(rows[-1]["out discharge_m3_s"]) == pytest.approx(2.0, rel=0.02)
    assert (folder / "gauges.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"gauges": [{"name": "a"}]}, "x_m and y_m, line_m or geometry"),
        ({"gauges": [{"name": "a", "x_m": 1}]}, "give both x_m and y_m"),
        ({"gauges": [{"name": "a", "x_m": 1, "y_m": 1}] * 2}, "two have the same name"),
        ({"gauge_every_s": 61.0}, "gauge_every_s: 61 s; from"),
        ({"start": {"level_m": 1, "depth_m": 1}}, "start: give one of"),
        ({"observed": {}}, "give extent, marks or both"),
        ({"water": []}, "give at least one item, or start"),
    ],
)
def test_floods_that_cannot_work(fields, match):
    with pytest.raises(ValidationError, match=match):
        TypeAdapter(JobSpec).validate_python({**BASE, **fields})


@pytest.mark.parametrize(("gauge", "match"), [
    ({"x_m": 161, "y_m": 5}, r"gauges\.0: \(500161, 5999995\) is off the terrain"),
    ({"line_m": [[1, 1], [2, 2]]}, "shorter than a cell"),
])  # fmt: skip
def test_gauges_that_are_nowhere(gauge, match):
    with pytest.raises(SpecError, match=match):
        stations([Gauge(name="a", **gauge)], ground())


# -- maxima -----------------------------------------------------------------------------------


def test_maxima_by_hand():
    """Cells of the wet part only; speed, h v and h (v + 0.5) of mean face discharges, time."""
    state = FlowState(
        torch.tensor([[[1.0, 0.5, 0.01]]]), torch.tensor([[[0.4, 0.8]]]), torch.zeros(1, 0, 3)
    )
    maxima = Maxima((1, 3), 0.05)
    maxima.update(state, 0.0)
    maxima.update(state._replace(qx=state.qx / 2), 10.0)
    assert maxima.speed[0].tolist() == pytest.approx([0.2, 1.2, 0])
    assert maxima.discharge[0].tolist() == pytest.approx([0.2, 0.6, 0])
    assert maxima.hazard[0].tolist() == pytest.approx([0.7, 0.85, 0])
    assert maxima.wet_s[0].tolist() == [10, 10, 0]


@pytest.mark.parametrize("engine", ["compiled", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_engines_keep_the_maxima_of_their_states(engine):
    land, forcing = flood(40, 200)
    land = land._replace(z=land.z.float(), drain=land.drain.float())
    made = open_flood(engine, land, forcing, Physics())
    actual, expected = Maxima((40, 200), 0.05), Maxima((40, 200), 0.05)
    for t in (40.0, 90.0, 150.0):
        made.advance(t, 10**6)
        made.track(actual)
        expected.update(made.state, t)
    for mine, theirs in zip(actual.fields, expected.fields, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-5, atol=1e-7)
    assert float(expected.speed.max()) > 0.1


def test_rasters_of_a_flood(run_spec):
    """Level is ground plus greatest depth where wet; duration ends with the flood."""
    folder, result = run_spec(water=[{"type": "rain", "mm_per_h": 5000.0}])
    peak, level = depth_of(folder / "max_depth.tif"), depth_of(folder / "max_level.tif")
    wet = peak > 0.05
    assert np.allclose(level[wet], (valley() + peak)[wet], atol=1e-4)
    assert np.isnan(level[~wet]).all()
    duration, arrival = depth_of(folder / "duration.tif"), depth_of(folder / "arrival.tif")
    assert duration.max() <= 60
    assert result["wet_ever_share"] == pytest.approx(wet.mean())
    always = wet & (depth_of(folder / "depth/t00000060.tif") > 0.05)
    assert np.abs(duration + arrival - 60)[always].max() < 32 * 2  # 32 steps between two looks
    for name in ("max_speed.tif", "max_discharge.tif", "max_hazard.tif"):
        assert np.nanmax(depth_of(folder / name)) > 0
    assert (folder / "maxima.png").is_file()


# -- observations -----------------------------------------------------------------------------

MARKS = {"dataset": "marks", "sha256": SHA[2]}


def marked(offset=0.1):
    """Levels over a still lake of 20.5 m: two in it, one on dry land, one off the terrain."""
    rows = [(500_085, 5_999_935, 20.5 - offset), (500_115, 5_999_935, 20.5 - 3 * offset),
            (500_005, 5_999_995, 21.0), (400_000, 5_999_995, 21.0)]  # fmt: skip
    return ("x,y,level_m\n" + "\n".join(",".join(map(str, row)) for row in rows)).encode()


def test_a_flood_against_what_was_seen(run_spec):
    depth = np.maximum(20.5 - valley(), 0)
    extent = (depth > 0.1).astype(np.float32)
    extent[:, :5] = 0
    observed = {"extent": {"dataset": "e", "sha256": SHA[1]}, "marks": MARKS}
    given = [extent, marked()]
    folder, result = run_spec(given, start={"level_m": 20.5}, water=[], observed=observed)
    hits = ((depth > 0.1) & (extent > 0)).sum()
    assert result["observed_csi"] == pytest.approx(hits / (depth > 0.1).sum())
    assert result["observed_hit_rate"] == 1
    assert (result["marks"], result["marks_wet"]) == (3, 2)
    assert result["marks_bias_m"] == pytest.approx(0.2, abs=1e-4)
    assert result["marks_rmse_m"] == pytest.approx(np.sqrt(0.05), abs=1e-4)
    assert (folder / "extent.png").is_file()
    assert len((folder / "marks.csv").read_text().splitlines()) == 4


def test_marks_that_are_all_elsewhere(run_spec):
    text = b"x,y,level_m\n1,2,3\n"
    with pytest.raises(SpecError, match="none is on the terrain, which reaches from"):
        run_spec([valley(), text], observed={"marks": MARKS})


def test_a_comparison_looks_at_peaks_and_observations(run_spec):
    observed = {"extent": {"dataset": "e", "sha256": SHA[1]}, "marks": MARKS}
    extent = (np.maximum(20.5 - valley(), 0) > 0.1).astype(np.float32)
    fields = {"kind": "terrain.compare", "factor": 4, "methods": ["mean", "min"]}
    fields |= {"start": {"level_m": 20.5}, "water": [], "observed": observed}
    folder, result = run_spec([extent, marked()], **fields)
    rows = table(folder / "metrics.csv")
    assert [row["method"] for row in rows] == ["mean", "min"]
    assert float(rows[0]["peak_mae_m"]) < float(rows[1]["peak_mae_m"])
    assert result["best_hand_made"] == "mean"
    assert result["fine"]["observed_csi"] == 1
    assert 0 < float(rows[0]["observed_csi"]) < 1
