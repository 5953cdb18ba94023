"""The four kinds from GeoTIFF to GeoTIFF: georeference, nodata, refusals, baselines."""

import contextlib
import json

import h5py
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from rasterio import Affine

from models.catalog import JobSpec
from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.stored import load_entry, load_stored
from models.terrain import compare, measures
from models.terrain.dem import rasters, subgrid_file
from models.terrain.dem.pooling import BASELINES, d8_accumulation, pad_to_multiple
from models.terrain.dem.synthetic import generate
from models.terrain.figures import animation, floods
from models.terrain.learning import net
from models.terrain.solver.boundary import Extent, covered, resolve_water
from models.terrain.solver.engines import Scenario, is_tiny
from models.terrain.solver.subgrid import subgrid_of
from models.terrain.spec.solver import Solver
from models.terrain.spec.terrains import Synthetic
from models.terrain.spec.water import Inflow, Valley

SHA = "0" * 64
ORIGIN = Affine(2.0, 0, 500_000, 0, -2.0, 6_000_000)
RASTER = {"dataset": "mine", "sha256": SHA}


def tif(path, z, crs="EPSG:28356", transform=ORIGIN, nodata=-9999.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=z.shape[0], width=z.shape[1], dtype="float32",
        crs=crs, transform=transform, nodata=nodata,
    ) as raster:  # fmt: skip
        raster.write(z.astype(np.float32), 1)


def heights(ny=45, nx=70):
    made = Synthetic(rows=ny, columns=nx, cell_size_m=2.0)
    z = generate(made, 0).numpy() + 900
    z[:9, :9] = -9999
    return z


@pytest.fixture
def run_spec(new_run):
    """Run a spec on an uploaded raster; gives the folder and the result."""

    def run_spec(z=None, **fields):
        run = new_run()
        if z is not None:
            tif(run.dir / "inputs" / SHA, z)
        spec = TypeAdapter(JobSpec).validate_python({"terrain": RASTER, **fields})
        load_entry(spec)(spec, run)
        lines = map(json.loads, (run.dir / "events.jsonl").read_text().splitlines())
        return run.dir, next(line["values"] for line in lines if line["type"] == "result")

    return run_spec


def test_coarse_raster_keeps_its_georeference(run_spec):
    """Same upper-left corner and CRS, cells times the factor, padding in the tags, nodata kept."""
    folder, result = run_spec(heights(), kind="terrain.downsample", factor=8)
    with rasterio.open(folder / "coarse.tif") as raster:
        assert raster.crs.to_epsg() == 28356
        assert raster.transform == ORIGIN @ Affine.scale(8, 8)
        assert raster.shape == (6, 9)
        assert raster.tags()["padded_rows"] == "3"
        band = raster.read(1, masked=True)
    assert band.mask.sum() == 1  # only the block that has no known cell
    assert band.mask[0, 0]
    assert result["padded_columns"] == 2
    whole = heights()[16:24, 16:24].mean()
    assert band[2, 2] == pytest.approx(whole, abs=1e-3)


def test_cropping_leaves_whole_cells(run_spec):
    folder, _ = run_spec(heights(), kind="terrain.downsample", factor=8, edges="crop")
    with rasterio.open(folder / "coarse.tif") as raster:
        assert raster.shape == (5, 8)


def test_simulation_leaves_rasters_without_nan(run_spec):
    """Depths on the raster's own grid, masked where it had no height, water in balance."""
    folder, result = run_spec(
        heights(), kind="terrain.simulate", duration_s=120.0, outputs=3,
        water=[{"type": "rain", "mm_per_h": 60.0}, {"type": "outflow", "edge": "right"}],
    )  # fmt: skip
    names = sorted(path.name for path in (folder / "depth").iterdir())
    assert names == ["t00000040.tif", "t00000080.tif", "t00000120.tif"]
    with rasterio.open(folder / "depth" / names[-1]) as raster:
        assert raster.transform == ORIGIN
        band = raster.read(1, masked=True)
    assert band.mask[:9, :9].all()
    assert band.mask.sum() == 81
    assert np.isfinite(band.compressed()).all()
    assert result["balance_error"] < 1e-5
    assert result["entered_m3"] == pytest.approx((45 * 70 - 81) * 4 * 0.060 * 120 / 3600, rel=1e-4)


def test_series_bring_what_lies_under_them(run_spec):
    """Rain and a hydrograph on a named edge, linear between their moments: the exact volume."""
    series = [{"time_s": 0, "value": 0}, {"time_s": 60, "value": 2}, {"time_s": 120, "value": 0}]
    rain = [{"time_s": moment["time_s"], "value": 30 * moment["value"]} for moment in series]
    water = [{"type": "inflow", "edge": "bottom", "length_m": 20.0, "series": series},
             {"type": "rain", "series": rain}]  # fmt: skip
    folder, result = run_spec(
        heights(), kind="terrain.simulate", duration_s=120.0, outputs=4, water=water
    )
    rained = (45 * 70 - 81) * 4 * 0.030 * 120 / 3600
    assert result["entered_m3"] == pytest.approx(120 + rained, rel=1e-3)
    assert len((folder / "volume.csv").read_text().splitlines()) == 5
    with rasterio.open(folder / "arrival.tif") as raster:
        arrival = raster.read(1, masked=True)
    inlet = arrival[-1, 32:38].compressed()
    assert len(inlet) == 6
    assert inlet.max() < 60
    assert arrival.max() > inlet.max()


def test_comparison_counts_from_mean_pooling(run_spec):
    """Mean pooling has ratio 1; free heights are never worse than where they started."""
    folder, result = run_spec(
        terrain={"synthetic": {"rows": 64, "columns": 64, "cell_size_m": 8.0}},
        kind="terrain.compare", duration_s=600.0, factor=8, optimise_steps=5,
    )  # fmt: skip
    ratio = result["error_ratio"]
    assert ratio["mean"] == 1.0
    assert ratio["optimised"] < 1.0
    assert set(ratio) == {*BASELINES, "subgrid", "optimised"}
    with rasterio.open(folder / "depth" / "channel.tif") as raster:
        assert raster.res == (64.0, 64.0)


def test_a_comparison_without_water_says_that_it_tells_nothing(run_spec, monkeypatch):
    titles = []
    for name in ("depths", "extents"):
        monkeypatch.setattr(floods, name, lambda *given: titles.append(given[-1]))
    monkeypatch.setattr(floods, "differences", lambda *_: None)
    monkeypatch.setattr(Run, "figure", lambda *_, **__: None)
    folder, result = run_spec(
        terrain={"synthetic": {"rows": 32, "columns": 32, "cell_size_m": 8.0}}, factor=8,
        kind="terrain.compare", duration_s=10.0, methods=["mean", "min"],
        water=[{"type": "rain", "mm_per_h": 0.0}],
    )  # fmt: skip
    assert set(result["mae_m"].values()) == {0.0}
    assert (result["best"], result["best_hand_made"]) == (None, None)
    assert all(title.startswith("All methods come equally close") for title in titles)
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    assert "dry" in [line.get("code") for line in lines if line["type"] == "event"]


def test_the_best_of_a_comparison_is_none_where_several_share_the_least_error():
    def best(**errors_m: float) -> str | None:
        none = np.zeros((1, 1))
        return compare._best(
            [compare.MethodResult(n, none, none, {"mae_m": e}) for n, e in errors_m.items()]
        )

    assert best(mean=0.2, max=0.1, min=0.3) == "max"
    assert best(mean=0.1, max=0.1, min=0.3) is None
    assert best() is None


def test_a_subgrid_is_written_read_and_flooded(run_spec, new_run, monkeypatch):
    """The tables come back bit for bit, with grid and voids; their flood is that of compare."""
    folder, _ = run_spec(heights(), kind="terrain.downsample", factor=4, method="subgrid")
    terrain = subgrid_file.read(folder / "subgrid.nc", "subgrid.nc")
    fine = pad_to_multiple(torch.from_numpy(rasters.read(folder / "inputs" / SHA, None, "z").z), 4)
    made = subgrid_of(fine, 4)
    assert torch.equal(terrain.subgrid.lowest, made.lowest)
    for a, b in zip([*terrain.subgrid.tables.x, terrain.subgrid.tables.full],
                    [*made.tables.x, made.tables.full], strict=True):  # fmt: skip
        assert torch.equal(a, b)
    with rasterio.open(folder / "coarse.tif") as raster:
        assert raster.transform == terrain.transform
        assert raster.crs == terrain.crs
        assert (raster.read_masks(1) == 0).sum() == terrain.missing.sum() == 4
    water = {"duration_s": 120.0, "water": [{"type": "rain", "mm_per_h": 60.0}]}
    compared, _ = run_spec(
        heights(), kind="terrain.compare", factor=4, methods=["subgrid", "mean"], **water
    )
    run = new_run()
    (run.dir / "inputs").mkdir(exist_ok=True)
    (run.dir / "inputs" / SHA).write_bytes((folder / "subgrid.nc").read_bytes())
    ref = {"job": "job_" + "0" * 32, "artifact": "subgrid.nc", "sha256": SHA}
    spec = TypeAdapter(JobSpec).validate_python(
        {"kind": "terrain.simulate", "terrain": ref, "outputs": 1, "animation": False, **water}
    )
    load_entry(spec)(spec, run)
    with rasterio.open(run.dir / "depth" / "t00000120.tif") as raster:
        depth = raster.read(1, masked=True)
    with rasterio.open(compared / "depth" / "subgrid.tif") as raster:
        np.testing.assert_allclose(
            depth.filled(0), raster.read(1, masked=True).filled(0), atol=1e-3
        )
    rained = 0.060 * 120 / 3600 * (~depth.mask).sum() * 64
    assert float(depth.sum()) * 64 == pytest.approx(rained, rel=0.01)


@pytest.mark.parametrize("damage", ["cut", "no attributes", "not finite"])
def test_a_damaged_subgrid_is_refused(tmp_path, damage):
    path = tmp_path / "subgrid.nc"
    z = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    fine = rasters.from_heights(z, 2.0, "z")
    coarse = rasters.coarsened(fine, z[::4, ::4], 4)
    subgrid_file.write(path, coarse._replace(subgrid=subgrid_of(torch.from_numpy(z), 4)))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    with h5py.File(path, "a") if damage != "cut" else contextlib.nullcontext() as file:
        if damage == "no attributes":
            del file.attrs["subgrid_version"]
        elif damage == "not finite":
            file["x_sill"][0, 0] = np.nan
    with pytest.raises(DataError, match=r"subgrid\.nc"):
        subgrid_file.read(path, "subgrid.nc")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (
            {
                "method": "subgrid",
                "kind": "terrain.downsample",
                "net": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
            },
            "subgrid takes no net",
        ),
        ({"terrain": {"synthetic": {"rows": 40_000, "columns": 40_000}}}, "less than or equal"),
        ({"water": []}, "give at least one item, or start"),
        ({"water": [{"type": "inflow", "edge": "left"}]}, "give discharge_m3_s or series"),
        ({"solver": {"manning": -1.0}}, "greater than 0"),
        ({"terrain": {"file": "x"}}, "of an elevation"),
        (
            {"water": [{"type": "rain", "series": [{"time_s": 5, "value": 1}] * 2}]},
            "the times must rise",
        ),
    ],
)
def test_specs_that_cannot_work(fields, match):
    base = {"kind": "terrain.simulate", "terrain": RASTER}
    with pytest.raises(ValidationError, match=match):
        TypeAdapter(JobSpec).validate_python({**base, **fields})


def test_too_much_work_is_refused_before_it_runs():
    """Work is estimated from the dataset's counts; the way out is named."""
    spec = TypeAdapter(JobSpec).validate_python({"kind": "terrain.simulate", "terrain": RASTER})
    with pytest.raises(SpecError, match=r"1,000,000,000 cells; at most 50,000,000.*terrain\.area"):
        spec.estimate({"mine": {"rows": 40_000, "columns": 25_000, "cell_size_m": 1}})
    with pytest.raises(SpecError, match="cell-steps"):
        spec.model_copy(update={"duration_s": 1e7}).estimate(
            {"mine": {"rows": 5000, "columns": 5000, "cell_size_m": 1}}
        )


def test_training_splits_by_source_and_fits_the_factor():
    for scenes, match in (
        ({"rasters": [RASTER], "test_rasters": [RASTER]}, "split by source"),
        ({"synthetic": {"rows": 100, "columns": 96}}, "multiples of factor 16"),
    ):
        with pytest.raises(ValidationError, match=match):
            TypeAdapter(JobSpec).validate_python({"kind": "terrain.train", "scenes": scenes})


def test_rasters_that_cannot_be_used(tmp_path):
    """Degrees, nodata everywhere, NaN, cells that are not square: the error names the reason."""
    z = np.ones((8, 8))
    cases = {
        "in degrees": {"crs": "EPSG:4326", "transform": Affine(0.1, 0, 5, 0, -0.1, 50)},
        "must be square": {"transform": Affine(2, 0, 0, 0, -3, 0)},
    }
    for match, options in cases.items():
        tif(tmp_path / "x.tif", z, **options)
        with pytest.raises(DataError, match=match):
            rasters.read(tmp_path / "x.tif", None, "x")
    for value, match in ((-9999.0, "no data"), (np.nan, "NaN or infinite")):
        tif(tmp_path / "x.tif", z * 0 + value)
        with pytest.raises(DataError, match=match):
            rasters.read(tmp_path / "x.tif", None, "x")


def test_segment_off_the_edge_is_refused(run_spec):
    water = [{"type": "inflow", "edge": "left", "centre_m": 85.0, "length_m": 20.0,
              "discharge_m3_s": 1.0}]  # fmt: skip
    with pytest.raises(SpecError, match=r"water\.0: the segment from 75 to 95 m is off the left"):
        run_spec(heights(), kind="terrain.simulate", water=water)


def test_segments_cover_the_same_stretch_on_every_grid():
    """Property 13: the number of covered cells times their size is the length, odd counts too."""
    extent = Extent(800.0, 400.0)
    item = Inflow(type="inflow", edge="left", centre_m=400.0, length_m=400.0, discharge_m3_s=1.0)
    for dx in (1.0, 16.0, 25.0):
        rows, columns = covered(item, extent, (round(800 / dx), round(400 / dx)), dx)
        assert abs(len(rows) * dx - 400) <= dx
        assert set(columns) == {0}
        assert abs((np.mean(rows) + 0.5) * dx - 400) <= dx / 2


def test_valley_flows_to_the_lowest_border_cell():
    z = np.add.outer(np.arange(20.0), np.abs(np.arange(30.0) - 11))
    into, out = resolve_water(
        [Valley(type="valley", length_m=4.0)], z, np.zeros(z.shape, bool), 2.0
    )
    assert (into.edge, out.edge) == ("bottom", "top")
    assert out.centre_m == 23.0


def test_baselines_on_a_plane_with_a_ditch():
    """Pools keep a constant; the flow path is burnt in as min does, a wall kept as max does."""
    flat = torch.full((32, 32), 5.0)
    for maker in BASELINES.values():
        torch.testing.assert_close(maker(flat, 8), torch.full((4, 4), 5.0))
    tilted = flat + 0.05 * torch.arange(32.0)
    ditch = 0.05 * torch.arange(64.0) + 0.1 * (torch.arange(64.0)[:, None] - 13).abs()
    burnt, low = BASELINES["channel"](ditch, 4), BASELINES["min"](ditch, 4)
    assert torch.equal(burnt[3, :8], low[3, :8])
    assert (burnt[8:, 4:] > low[8:, 4:]).all()
    wall = tilted.clone()
    wall[:, 13] += 2
    top = BASELINES["max"](wall, 8)[:, 1]
    torch.testing.assert_close(BASELINES["channel"](wall, 8)[:, 1], top)
    assert d8_accumulation(tilted.double().numpy())[:, 0].tolist() == [32.0] * 32


def test_padding_repeats_the_edge():
    z = torch.arange(12.0).view(3, 4)
    assert pad_to_multiple(z, 4)[3].tolist() == z[2].tolist()
    assert pad_to_multiple(z, 3).shape == (3, 6)


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_net_begins_at_mean_pooling(factor):
    """Zero head: the untrained net is the mean pool, at the terrain's own height."""
    z = 300 + torch.randn(2, 64, 96, generator=torch.Generator().manual_seed(0))
    made = net.coarse(net.Downsampler(factor, 16), z)
    expected = torch.nn.functional.avg_pool2d(z, factor)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-3)


def test_net_is_the_papers():
    """11,168,192 parameters at factor 16, width 64, batch norm."""
    made = net.Downsampler(16, 64, "batch")
    assert sum(p.numel() for p in made.parameters()) == 11_168_192


def test_measures_by_hand():
    truth, prediction = np.array([[0.0, 0.2], [1.0, 0.0]]), np.array([[0.2, 0.2], [0.0, 0.0]])
    figures = measures.errors(prediction, truth)
    assert figures["mae_m"] == pytest.approx(0.3)
    assert figures["csi_01"] == pytest.approx(1 / 3)
    assert figures["far_share"] == 0.25
    assert figures["volume_error"] == pytest.approx(-0.8 / 1.2)
    depth = torch.rand(7, 9)
    pooled = measures.pooled(depth, 4)
    assert float(pooled[:1, :2].sum()) * 16 == pytest.approx(float(depth[:4, :8].sum()), 1e-5)
    assert pooled[1, 2] == pytest.approx(float(depth[4:, 8:].mean()))  # what is covered of it


def test_pictures_show_nothing_where_nothing_is_known():
    """Fine or coarse: NaN where no cell has a height, the field elsewhere."""
    missing = np.zeros((8, 12), bool)
    missing[:4, :5] = True
    base_map = floods.BaseMap(np.zeros((8, 12)), 1.0, missing)
    coarse = base_map.known(np.arange(6.0).reshape(2, 3))
    assert np.isnan(coarse).tolist() == [[True, False, False], [False] * 3]
    assert (np.isnan(base_map.known(np.ones((8, 12)))) == missing).all()


def test_one_deep_cell_does_not_pale_all_others(tmp_path):
    """Colours end where nearly all wet cells do, in pictures and in the frames of a flood."""
    depth = np.full((40, 50), 0.5)
    depth[:10], depth[0, 0], depth[20, 20] = 0.0, np.nan, 80.0
    assert floods.full_depth([depth]) == pytest.approx(0.5)
    assert floods.full_depth([np.zeros((4, 4))]) > floods.SHOWN_M
    base_map = floods.BaseMap(np.zeros((40, 50)), 1.0, np.zeros((40, 50), bool))
    animation.write(tmp_path / "flood.gif", base_map, [1.0, 2.0], [0.1 * depth, depth])
    with Image.open(tmp_path / "flood.gif") as made:
        assert made.n_frames == 2
        shades = []
        for frame in range(2):
            made.seek(frame)
            shades.append(made.convert("L").getpixel((320, 400)))
    assert shades[1] < shades[0] - 50, "deeper water is darker"


LATE = [{"time_s": 300, "value": 10}, {"time_s": 600, "value": 10}]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "inflow", "edge": "left"},
        pytest.param({"type": "rain"}, marks=pytest.mark.slow),
        pytest.param({"type": "source", "x_m": 30.0, "y_m": 20.0}, marks=pytest.mark.slow),
    ],
)
def test_a_series_begins_with_nothing_before_it(run_spec, item):
    """Nothing enters before the first moment, all of it after; ``hold`` brings it from 0 s on."""
    fields = {"kind": "terrain.simulate", "duration_s": 900.0, "outputs": 3, "animation": False}
    entered = {}
    for before in ("nothing", "hold"):
        water = [{**item, "series": LATE, "before": before}]
        folder, _ = run_spec(heights(20, 24), water=water, **fields)
        lines = (folder / "volume.csv").read_text().splitlines()[1:]
        entered[before] = [float(line.split(",")[2]) for line in lines]
    full = entered["hold"][2]
    assert entered["nothing"] == pytest.approx([0, full / 3, full * 2 / 3], rel=1e-3)
    assert entered["hold"] == pytest.approx([full / 3, full * 2 / 3, full], rel=1e-6)
    as_sent, _ = run_spec(heights(20, 24), water=[{**item, "series": LATE}], **fields)
    assert float((as_sent / "volume.csv").read_text().splitlines()[1].split(",")[2]) < 1e-9


def waters_of(kind, water):
    """A spec of a kind with this water where the kind has it."""
    base = {"kind": kind, "terrain": {"synthetic": {"rows": 32, "columns": 32}}}
    if kind == "terrain.downsample":
        return base | {"tune": {"water": [[{"type": "valley"}], water]}}, lambda s: s.tune.water[1]
    if kind == "terrain.train":
        return {"kind": kind, "more_water": [water]}, lambda s: s.more_water[0]
    return base | {"water": water}, lambda s: s.water


@pytest.mark.parametrize(
    "kind", ["terrain.simulate", "terrain.compare", "terrain.downsample", "terrain.train"]
)
def test_stored_series_keep_holding_their_first_value(kind):
    """Specs of earlier releases lack ``before``; new ones are stored with it, as sent too."""
    stored, water = waters_of(kind, [{"type": "rain", "series": LATE}])
    spec, warnings = load_stored(stored)
    assert water(spec)[0].before == "hold"
    assert any("begins at 300 s" in warning for warning in warnings)
    new = TypeAdapter(JobSpec).validate_python(stored)
    assert water(new)[0].before == "nothing"
    for dump in (new.model_dump(mode="json", exclude_unset=True), new.model_dump(mode="json")):
        again, warnings = load_stored(dump)
        assert (water(again)[0].before, warnings) == ("nothing", [])
    first = [{"time_s": 0, "value": 1}, *LATE]
    assert load_stored(waters_of(kind, [{"type": "rain", "series": first}])[0])[1] == []


def test_hold_needs_a_series():
    spec = {"kind": "terrain.simulate", "terrain": RASTER}
    water = [{"type": "rain", "mm_per_h": 5.0, "before": "hold"}]
    with pytest.raises(ValidationError, match="before: hold needs a series"):
        TypeAdapter(JobSpec).validate_python({**spec, "water": water})


def test_a_held_level_alone_balances(run_spec):
    """A sea at the left edge: the error counts from what came in."""
    z = np.add.outer(np.zeros(32), 0.15 * np.arange(32.0))
    _, result = run_spec(
        z, kind="terrain.simulate", duration_s=600.0, outputs=2, animation=False,
        water=[{"type": "level", "edge": "left", "level_m": 4.0}],
    )  # fmt: skip
    assert result["entered_m3"] >= result["volume_m3"] > 0
    assert result["balance_error"] < 1e-6


def warnings_of(folder):
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [str(line) for line in lines if "supercritical" in str(line) and "local" in str(line)]


@pytest.mark.slow
def test_supercritical_flow_is_reported(run_spec):
    """A steep slope: most wet cells are beyond what local inertia can do; a flat one has none."""
    shares = {}
    for slope in (0.3, 0.0):
        z = np.add.outer(np.zeros(20), -slope * 2.0 * np.arange(40.0))
        folder, result = run_spec(
            z, kind="terrain.simulate", duration_s=120.0, outputs=2, animation=False,
            solver={"manning": 0.02}, wet_depth_m=0.01,
            water=[{"type": "inflow", "edge": "left", "discharge_m3_s": 8.0},
                   {"type": "outflow", "edge": "right", "slope": 0.3}],
        )  # fmt: skip
        report = json.loads((folder / "report.json").read_text())
        shares[slope] = result["supercritical_share"]
        assert report["result"]["supercritical_share"] == shares[slope]
        assert bool(warnings_of(folder)) == (shares[slope] > 0.05)
    assert shares[0.3] > 0.5 > shares[0.0]


def test_all_floods_of_a_comparison_take_one_engine():
    """Tiny is a matter of the whole job: a small coarse flood beside a large fine one is not."""
    solver = Solver()
    assert is_tiny(26 * 20, 10.0, 120.0, solver)
    assert not is_tiny(26 * 20, 10.0, 120.0, solver, floods=20)
    assert not is_tiny(26 * 20, 10.0, 3600.0, solver)
    z = generate(Synthetic(rows=32, columns=32), 0).numpy()
    for by_reference in (True, False):
        scenario = Scenario([], Extent(160.0, 160.0), solver, 0.1, 10.0, by_reference=by_reference)
        kinds = {type(scenario.open(z[::k, ::k], 5.0 * k)).__name__ for k in (1, 4)}
        assert kinds == {"TorchFlood" if by_reference else "FusedFlood"}
