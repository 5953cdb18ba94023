"""Rasters mean what they say: units, voids, orientation, degrees, maps; outputs tell the same."""

import json
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import rasterio
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from rasterio import Affine

from models.catalog import JobSpec
from models.core.errors import DataError, SpecError
from models.data import ascii_grid, elevation, heights
from models.stored import load_entry
from models.terrain.dem import rasters
from models.terrain.figures import floods, maps
from models.terrain.solver.voids import Voids
from models.terrain.spec.water import Inflow

CASES = Path(__file__).parents[2] / "data" / "terrain"
PLAIN = CASES / "plain.tif"
SHA, MAP_SHA = "0" * 64, "1" * 64
TERRAIN = {"dataset": "mine", "sha256": SHA}
LEFT_M3 = 19_744.0  # of the plain case: default water, 900 s
RAIN = [{"type": "rain", "mm_per_h": 36.0}]


def variant(path, change=None, **profile):
    """The plain raster with other heights or another profile; scales, units and tags too."""
    with rasterio.open(PLAIN) as raster:
        z, base = raster.read(1), raster.profile
    z = z if change is None else change(z)
    band = {name: profile.pop(name) for name in ("units", "scales", "offsets") if name in profile}
    base.update(dtype=z.dtype.name, height=z.shape[0], width=z.shape[1], **profile)
    with rasterio.open(path, "w", **base) as raster:
        raster.write(z, 1)
        for name, value in band.items():
            setattr(raster, name, (value,))
    return path


def with_void(value, rows=slice(20, 25), columns=slice(20, 25)):
    def change(z):
        z = z.copy()
        z[rows, columns] = value
        return z

    return change


@pytest.fixture
def flood(new_run):
    """Run a job on a file, and on a map; gives the folder, the result and the warnings."""

    def flood(path, kind="terrain.simulate", terrain=TERRAIN, map_path=None, **fields):
        run = new_run()
        (run.dir / "inputs").mkdir(exist_ok=True)
        for source, name in ((path, SHA), (map_path, MAP_SHA)):
            if source is not None:
                (run.dir / "inputs" / name).write_bytes(Path(source).read_bytes())
        if kind == "terrain.simulate":
            fields = {"outputs": 1, "animation": False, "duration_s": 60.0} | fields
        spec = TypeAdapter(JobSpec).validate_python({"kind": kind, "terrain": terrain, **fields})
        load_entry(spec)(spec, run)
        lines = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
        result = next(line["values"] for line in lines if line["type"] == "result")
        return run.dir, result, [line["message"] for line in lines if line.get("code")]

    return flood


def heights_of(path, **options):
    return rasters.read(path, options.get("cell_size_m"), "x", options.get("nodata"))


# -- what heights are ------------------------------------------------------------------------


def test_plain_scaled_and_feet_are_one_terrain(tmp_path, flood):
    """Scale and offset, a foot of either kind, centimetres: the heights and the flood agree."""
    plain = heights_of(PLAIN)
    assert plain.notes == ()
    feet = {"us survey foot": 1200 / 3937, "ft": 0.3048, "cm": 0.01}
    files = [CASES / "scale-offset.tif"]
    for k, (unit, metres) in enumerate(feet.items()):
        scaled = variant(
            tmp_path / f"{k}.tif", lambda z, m=metres: (z / m).astype("f4"), units=unit
        )
        files.append(scaled)
    for path in files:
        made = heights_of(path)
        np.testing.assert_allclose(made.z, plain.z, atol=0.006)
        assert len(made.notes) == 1
    for path in (PLAIN, *files[:2]):
        folder, result, _ = flood(path, duration_s=900.0)
        assert result["left_m3"] == pytest.approx(LEFT_M3, rel=2e-3)
    assert "0.3048006096 m a unit" in json.loads((folder / "report.json").read_text())["assumed"][0]


@pytest.mark.parametrize(("code", "metres"), [(8228, 0.3048), (6360, 1200 / 3937), (5703, 1.0)])
def test_unit_of_the_vertical_system(code, metres, tmp_path):
    """Heights of a compound system, and what is written of them, which is in metres."""
    crs = f"EPSG:32633+{code}"
    path = variant(tmp_path / "x.tif", lambda z: (z / metres).astype("f4"), crs=crs)
    made = heights_of(path)
    np.testing.assert_allclose(made.z, heights_of(PLAIN).z, atol=1e-4)
    rasters.write(tmp_path / "y.tif", made.z, made, rasters.BandInfo("height", "m"))
    np.testing.assert_array_equal(heights_of(tmp_path / "y.tif").z, made.z)


def test_heights_beside_coordinates_in_feet(tmp_path):
    """Without a unit of their own they are metres, which is shown."""
    made = heights_of(variant(tmp_path / "x.tif", crs="EPSG:2263"))
    assert made.dx == pytest.approx(10 * 1200 / 3937)
    assert "heights are taken as metres" in made.notes[0]
    both = heights_of(variant(tmp_path / "y.tif", crs="EPSG:2263", units="ft"))
    assert not any("taken as metres" in note for note in both.notes)


def test_systems_without_a_projection(tmp_path):
    axes = 'AXIS["x",EAST],AXIS["y",NORTH]'
    site = f'LOCAL_CS["site",LOCAL_DATUM["d",0],UNIT["foot",0.3048],{axes}]'
    assert heights_of(variant(tmp_path / "x.tif", crs=site)).dx == pytest.approx(3.048)
    with pytest.raises(DataError, match="neither projected nor geographic nor local"):
        heights_of(variant(tmp_path / "y.tif", crs="EPSG:4978"))


def test_units_that_disagree():
    vertical = 'VERT_CS["heights",VERT_DATUM["sea",2005],UNIT["foot",0.3048],AXIS["Up",UP]]'
    assert heights.unit_m("", vertical) == 0.3048
    with pytest.raises(DataError, match="correct one of the two"):
        heights.unit_m("metre", vertical)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (with_void(-9999), {}, r"value -9999 at row 20, column 20 .* -500 to 9000 m.*`nodata`"),
        (with_void(np.float32(-3.4028235e38)), {}, r"-3.40282347e\+38 at row 20.*`nodata`"),
        (with_void(-32768), {}, "value -32768"),
        (with_void(9001), {}, "value 9001"),
        (with_void(np.inf), {}, "NaN or infinite"),
        (None, {"units": "furlong"}, "'furlong' is no unit of length"),
        (None, {"scales": 0.0}, "scale is 0"),
        (None, {"scales": 100.0}, "-500 to 9000"),
        # scaled, the mark of a void would be a plausible height: 0.01 m
        (lambda z: with_void(-9999)((z * 100 - 1e4).astype("i2")),
         {"scales": 0.01, "offsets": 100.0}, "value -9999"),
    ],
)  # fmt: skip
def test_values_that_are_no_heights_are_refused(change, options, match, tmp_path):
    with pytest.raises(DataError, match=match):
        elevation.check(variant(tmp_path / "x.tif", change, **options), None)


@pytest.mark.parametrize("value", [-9999.0, -32768.0, np.float32(-3.4028235e38), 0.0])
def test_nodata_by_option_equals_declared(value, tmp_path):
    """Also as -3.4e38, which nobody writes in full."""
    bare = variant(tmp_path / "a.tif", with_void(value))
    given = heights_of(bare, nodata=-3.4e38 if value < -1e30 else float(value))
    declared = heights_of(variant(tmp_path / "b.tif", with_void(value), nodata=float(value)))
    assert given.missing.sum() == 25
    assert np.array_equal(given.missing, declared.missing)
    assert np.array_equal(given.z, declared.z)
    assert "have no height" in given.notes[0]


# -- ASCII grids -----------------------------------------------------------------------------

COUNT = np.arange(1.0, 13).reshape(3, 4)


@pytest.mark.parametrize("path", sorted((CASES / "ascii").glob("*.asc")), ids=lambda p: p.stem)
def test_ascii_cases(path):
    refused = {"m-short-row": "row 3 of 3 has 3 values", "n-extra-row": "row 4",
               "r-dxdy-differ": "10 x 12 m; they must be square"}  # fmt: skip
    if path.stem in refused:
        with pytest.raises(DataError, match=refused[path.stem]):
            heights_of(path)
        return
    made, expected = heights_of(path), COUNT.copy()
    if path.stem == "j-decimal-comma":
        expected[0] = 1.5, 2.25, 3.1, 4
    first_missing = path.stem in ("h-first-nan", "i-nodata-null", "q-nodata-exp", "s-nodata-float")
    assert made.missing.sum() == made.missing[0, 0] == first_missing
    np.testing.assert_allclose(made.z[~made.missing], expected[~made.missing], rtol=1e-6)
    corner = (499_995.0, 4_000_025.0) if path.stem == "b-center" else (500_000.0, 4_000_030.0)
    assert (made.transform.c, made.transform.f, made.dx) == (*corner, 10.0)


def asc(path, body, head="ncols 3\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 10\n"):
    path.write_bytes((head + body).encode())
    return path


@pytest.mark.parametrize(
    ("body", "row"),
    [
        ("1.10D+02 1e2 1.2d2\r\n130 140 150\r\n", [110, 100, 120]),
        ("110 100 120\r130 140 150", [110, 100, 120]),
        ("110\n100 120 130\n140 150\n", [110, 100, 120]),
        ("110,5 100 120\n130 140 150\n", [110.5, 100, 120]),
        ("110,250 100,5 120\n130 140 150\n", [110.25, 100.5, 120]),
    ],
)
def test_ascii_numbers_that_are_read(body, row, tmp_path):
    made = heights_of(asc(tmp_path / "x.asc", body))
    np.testing.assert_allclose(made.z, [row, [130, 140, 150]])


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("1,234.5 2 3\n4 5 6\n", "row 1.*'1,234.5' is no number"),
        ("1 2 3\n4 1,234,567 6\n", "row 2.*'1,234,567' is no number"),
        ("1,234 2 3\n4 5 6\n", "row 1: '1,234': thousands or decimals"),
        ("1,5 2.5 3\n4 5 6\n", "thousands or decimals"),
        ("1 2\n3 4 5 6\n", "row 1 of 2 has 2 values, ncols is 3"),
        ("1 2 3\n4 5\n", "row 2 of 2 has 2 values"),
        ("1 2 3\n", "row 2"),
        ("1 2 3\n4 5 six\n", "row 2.*'six'"),
        ("1 2 3\n4 5 1_0\n", "row 2.*'1_0'"),
        ("1;2;3\n4;5;6\n", "row 1"),
        ("1 2 inf\n4 5 6\n", "NaN or infinite"),
        ("-9999 2 3\n4 5 6\n", "`nodata`"),
    ],
)
def test_ascii_numbers_that_are_refused(body, match, tmp_path):
    with pytest.raises(DataError, match=match):
        elevation.check(asc(tmp_path / "x.asc", body), None)


@pytest.mark.parametrize("missing", ["ncols", "nrows", "yllcorner", "cellsize"])
def test_ascii_header_entries_are_needed(missing, tmp_path):
    lines = ["ncols 3", "nrows 2", "xllcorner 0", "yllcorner 0", "cellsize 10"]
    head = "\n".join(line for line in lines if missing not in line) + "\n"
    with pytest.raises(DataError, match=missing):
        elevation.check(asc(tmp_path / "x.asc", "1 2 3\n4 5 6\n", head), None)


def test_long_lines_are_read_in_pieces(tmp_path, monkeypatch):
    """Numbers cut by the end of a piece are whole."""
    monkeypatch.setattr(ascii_grid, "PIECE", 16)
    z = np.random.default_rng(0).normal(100, 5, (7, 9)).round(3)
    head = "ncols 9\nnrows 7\nxllcorner 0\nyllcorner 0\ncellsize 10\n"
    made = heights_of(asc(tmp_path / "x.asc", " ".join(map(str, z.ravel())), head))
    np.testing.assert_allclose(made.z, z.astype("f4"))


# -- orientation and cell size -----------------------------------------------------------------


def test_south_up_is_turned(tmp_path, flood):
    """The same ground under the same coordinates, whichever way rows and columns run."""
    plain = heights_of(PLAIN)
    t = plain.transform
    south = variant(
        tmp_path / "s.tif", lambda z: z[::-1], transform=Affine(10, 0, t.c, 0, 10, t.f - 480)
    )
    west = variant(tmp_path / "w.tif", lambda z: z[:, ::-1],
                   transform=Affine(-10, 0, t.c + 480, 0, -10, t.f))  # fmt: skip
    for path in (south, west):
        made = heights_of(path)
        assert np.array_equal(made.z, plain.z)
        assert made.transform == t
        assert "were turned" in made.notes[0]
    folder, result, _ = flood(south, duration_s=900.0)
    assert result["left_m3"] == pytest.approx(LEFT_M3, rel=2e-3)
    with rasterio.open(folder / "max_depth.tif") as raster:
        assert raster.transform == t


def test_edges_by_compass():
    for name, side in {"north": "top", "west": "left", "top": "top"}.items():
        assert Inflow(type="inflow", edge=name, discharge_m3_s=1.0).edge == side
    with pytest.raises(ValidationError, match="'left', 'right', 'top' or 'bottom'"):
        Inflow(type="inflow", edge="up", discharge_m3_s=1.0)


def test_degrees_keep_system_and_cell_size(tmp_path, flood):
    """Through downsample and back, as an artifact that tells its cell size itself."""
    grid = {"crs": "EPSG:4326", "transform": Affine(0.0002777, 0, 12, 0, -0.0002777, 46)}
    path = variant(tmp_path / "x.tif", **grid)
    with pytest.raises(DataError, match=r"in degrees.*about 21\.48 m wide and 30\.91 m high"):
        elevation.check(path, None)
    folder, result, _ = flood(
        path, "terrain.downsample", {**TERRAIN, "cell_size_m": 25.0}, factor=4
    )
    assert result["cell_size_m"] == 100.0
    with rasterio.open(folder / "coarse.tif") as raster:
        assert raster.crs.to_epsg() == 4326
        assert raster.transform.almost_equals(grid["transform"] @ Affine.scale(4, 4))
    again = heights_of(folder / "coarse.tif")
    assert (again.dx, again.crs.to_epsg()) == (100.0, 4326)
    assert "taken as squares of 100 m" in again.notes[0]


def test_degrees_without_a_system_are_not_metres(tmp_path):
    """An ASCII grid at 12 E 46 N with cells of 0.0002777: not a terrain of 11 mm."""
    head = "ncols 3\nnrows 2\nxllcorner 12\nyllcorner 46\ncellsize 0.0002777\n"
    path = asc(tmp_path / "x.asc", "1 2 3\n4 5 6\n", head)
    with pytest.raises(DataError, match="seems to be in degrees"):
        elevation.check(path, None)
    assert elevation.check(path, 25.0)["cell_size_m"] == 25.0


def test_cells_that_are_not_square_need_a_size(tmp_path):
    path = variant(tmp_path / "x.tif", transform=Affine(10, 0, 0, 0, -12, 600))
    assert heights_of(path, cell_size_m=11.0).dx == 11.0
    with pytest.raises(DataError, match="must be square"):
        heights_of(path, cell_size_m=100.0)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
def test_one_row_is_refused_early(shape, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(shape))
    with pytest.raises(DataError, match="2 rows and 2 columns or more"):
        elevation.check(tmp_path / "x.npy", 10.0)


def test_built_in_terrain_has_a_cell_size(new_run):
    spec = TypeAdapter(JobSpec).validate_python(
        {"kind": "terrain.simulate", "terrain": {"dataset": "jacksboro_dem"}}
    )
    made = rasters.load(spec.terrain, new_run(), 0)
    assert made.dx == 83.0
    assert "squares of 83 m" in made.notes[0]


# -- maps --------------------------------------------------------------------------------------


def rough(z):
    return np.full_like(z, 0.05)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (rough, {"crs": "EPSG:32632"}, "EPSG:32632, the terrain EPSG:32633"),
        (rough, {"transform": Affine(10, 0, 500_010, 0, -10, 4_000_000)}, "cells are elsewhere"),
        (rough, {"transform": Affine(5, 0, 500_000, 0, -5, 4_000_000)}, "cells of 5 m"),
        (lambda z: rough(z)[1:], {}, r"\(47, 48\) cells, the terrain \(48, 48\)"),
        (
            lambda z: with_void(-1)(rough(z)),
            {"nodata": -1},
            "25 cells of the terrain have no value",
        ),
        (lambda z: with_void(np.nan)(rough(z)), {}, "manning_map.*NaN"),
        (lambda z: rough(z) * 100, {}, "0.001 to 1 are allowed"),
    ],
)
def test_maps_of_other_cells_are_refused(change, options, match, tmp_path, flood):
    path = variant(tmp_path / "map.tif", change, **options)
    ref = {"dataset": "rough", "sha256": MAP_SHA}
    with pytest.raises((SpecError, DataError), match=match):
        flood(PLAIN, map_path=path, manning_map=ref)


def test_maps_that_fit(tmp_path, flood):
    """Scaled, south-up, with a unit of its own, with a vertical system: the same flood."""
    ref = {"dataset": "rough", "sha256": MAP_SHA}
    t = heights_of(PLAIN).transform
    _, plain, _ = flood(PLAIN, duration_s=300.0)
    maker = {
        "units": "s/m^(1/3)",
        "scales": 0.01,
        "transform": Affine(10, 0, t.c, 0, 10, t.f - 480),
    }
    path = variant(tmp_path / "map.tif", lambda z: np.full(z.shape, 5, "u1"), **maker)
    _, result, _ = flood(PLAIN, map_path=path, duration_s=300.0, manning_map=ref)
    assert result["volume_m3"] == pytest.approx(plain["volume_m3"], rel=1e-4)


# -- cells without a height ----------------------------------------------------------------------


def test_rain_does_not_fall_on_voids(tmp_path, flood):
    """What enters is the rain on the known cells; none of it is hidden under nodata."""
    path = variant(tmp_path / "x.tif", with_void(-9999), nodata=-9999.0)
    _, result, warnings = flood(path, water=RAIN, duration_s=100.0)
    assert result["entered_m3"] == pytest.approx(
        (48 * 48 - 25) * 100 * 36e-3 * 100 / 3600, rel=1e-4
    )
    assert result["hidden_m3"] == 0.0
    assert result["balance_error"] < 1e-5
    assert any("25 cells of mine have no height" in text for text in warnings)


def pit(z):
    """A bowl with a void in its middle."""
    rows, columns = np.indices(z.shape)
    bowl = 100 + 0.5 * np.hypot(rows - 24, columns - 24)
    return with_void(-9999, slice(22, 27), slice(22, 27))(bowl.astype("f4"))


def test_a_void_is_a_wall_or_an_opening(tmp_path, flood):
    """Water collects around a wall; it leaves by an opening. Neither holds any of it."""
    path, fields = variant(tmp_path / "x.tif", pit, nodata=-9999.0), {"duration_s": 1800.0}
    _, wall, _ = flood(path, water=RAIN, **fields)
    _, opened, _ = flood(path, water=RAIN, nodata_cells="open", **fields)
    assert wall["left_m3"] == 0.0
    assert wall["volume_m3"] == pytest.approx(wall["entered_m3"], rel=1e-5)
    assert opened["left_m3"] > 0.5 * opened["entered_m3"]
    assert opened["balance_error"] < 1e-5
    assert opened["hidden_m3"] < 5e-3 * opened["entered_m3"]


def test_water_on_voids_is_refused(tmp_path, flood):
    left = with_void(-9999, slice(0, 48), slice(0, 3))
    path = variant(tmp_path / "x.tif", left, nodata=-9999.0)
    water = [{"type": "inflow", "edge": "west", "discharge_m3_s": 1.0}]
    with pytest.raises(SpecError, match=r"water\.0 \(inflow\): none of its 48 cells has a height"):
        flood(path, water=water)
    half = variant(tmp_path / "y.tif", with_void(-9999, slice(0, 24), slice(0, 3)), nodata=-9999.0)
    _, result, warnings = flood(half, water=water)
    assert result["hidden_m3"] == 0.0
    assert any("24 of its 48 cells" in text for text in warnings)


def test_coarse_voids_are_cells_without_any_height():
    missing = np.zeros((8, 8), bool)
    missing[:5, :4] = True
    assert Voids(missing, "wall").on((2, 2)).tolist() == [[True, False], [False, False]]


def test_comparison_and_downsampling_tell_of_voids(tmp_path, flood):
    path = variant(
        tmp_path / "x.tif", with_void(-9999, slice(16, 32), slice(16, 32)), nodata=-9999.0
    )
    tune = {"water": [RAIN], "steps": 2, "duration_s": 60.0}
    for kind, fields in {
        "terrain.downsample": {"factor": 4, "tune": tune},
        "terrain.compare": {"factor": 4, "methods": ["mean"], "duration_s": 60.0, "water": RAIN},
    }.items():  # fmt: skip
        folder, _, warnings = flood(path, kind, **fields)
        assert any("256 cells of mine have no height" in text for text in warnings)
    with rasterio.open(folder / "depth" / "mean.tif") as raster:
        assert raster.read(1, masked=True).mask.sum() == 16


# -- outputs -----------------------------------------------------------------------------------


def test_rasters_are_cloud_optimised(tmp_path):
    z = np.random.default_rng(0).normal(100, 5, (1100, 700)).astype("f4")
    ground = rasters.from_heights(z, 2.0, "x")
    rasters.write(
        tmp_path / "x.tif", z, ground, rasters.BandInfo("depth of water", "m"), time_s=5.0
    )
    with rasterio.open(tmp_path / "x.tif") as raster:
        layout = raster.tags(ns="IMAGE_STRUCTURE")
        assert (layout["LAYOUT"], layout["PREDICTOR"], layout["COMPRESSION"]) == (
            "COG",
            "3",
            "DEFLATE",
        )
        assert raster.profile["tiled"]
        assert raster.overviews(1) == [2, 4]
        assert (raster.descriptions, raster.units) == (("depth of water",), ("m",))
        assert np.array_equal(raster.read(1), z)
    assert heights_of(tmp_path / "x.tif").notes == ()


def test_depths_are_a_netcdf_stack(flood):
    folder, result, _ = flood(PLAIN, outputs=3)
    with h5netcdf.File(folder / "depth.nc") as file:
        depth, time = file.variables["depth"], file.variables["time"]
        assert depth.dimensions == ("time", "y", "x")
        assert time[:].tolist() == [20.0, 40.0, 60.0]
        assert depth.attrs["standard_name"] == "flood_water_thickness"
        assert file.variables[depth.attrs["grid_mapping"]].attrs["crs_wkt"].startswith("PROJCS")
        assert (file.variables["x"][0], file.variables["y"][0]) == (500_005.0, 3_999_995.0)
        last = depth[2]
    with rasterio.open(folder / "depth" / "t00000060.tif") as raster:
        assert np.array_equal(raster.read(1), last)
    assert last.sum(dtype=np.float64) * 100 == pytest.approx(result["volume_m3"], rel=1e-6)


def test_progress_ends_with_the_files(flood):
    folder, _, _ = flood(PLAIN)
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    steps = [line["step"] / line["total_steps"] for line in lines if line["type"] == "progress"]
    last_file = max(k for k, line in enumerate(lines) if line["type"] == "artifact")
    before = [line for line in lines[:last_file] if line["type"] == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert before[-1]["step"] < before[-1]["total_steps"]


def test_pictures_show_the_wet_part_in_coordinates():
    wet = np.zeros((1000, 1000), bool)
    wet[400:410, 700:740] = True
    part = maps.wet_part(wet)
    assert part == maps.View(382, 428, 682, 758)
    ground = rasters.from_heights(np.zeros((1000, 1000), "f4"), 2.0, "x")
    placed = ground._replace(transform=Affine(2, 0, 5e5, 0, -2, 4e6), georeferenced=True)
    assert maps.base_map(placed, part).extent == (501_364, 501_516, 3_999_144, 3_999_236)
    assert maps.base_map(ground, part).extent == (1364, 1516, 856, 764)  # y from the upper edge
    assert maps.wet_part(np.zeros((5, 5), bool)) == maps.View(0, 5, 0, 5)


def test_extents_differ_in_lightness(tmp_path):
    """Hit, miss and false alarm are told apart in grey too."""
    grey = [np.dot([int(c[k : k + 2], 16) for k in (1, 3, 5)], [0.299, 0.587, 0.114])
            for _, c in floods.EXTENTS]  # fmt: skip
    assert min(np.diff(sorted(grey))) > 25
    base = maps.BaseMap(np.zeros((8, 8)), 10.0, np.zeros((8, 8), bool))
    truth = np.zeros((8, 8))
    truth[2:5, 2:5] = 1
    floods.extents(tmp_path / "e.png", base, truth, [floods.Panel("x", truth)], 0.1, "t")
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.size[0] > 300
