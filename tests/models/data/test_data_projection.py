"""Rasters in degrees on square cells of metres: heights stay where they are on the ground."""

import numpy as np
import pytest
import rasterio
from rasterio import CRS, Affine, warp

from models.core.errors import DataError
from models.data import files
from models.terrain.dem import rasters

UTM_33 = CRS.from_epsg(32633)
PLACE = Affine(1e-3, 0, 13.2, 0, -1e-3, 52.6)  # near Berlin; cells 68 m wide and 111 m high
SHAPE = (60, 80)


def hills(east, north):
    """Smooth heights by metres of the zone."""
    return 100 + 30 * np.sin(np.asarray(east) / 900) + 20 * np.cos(np.asarray(north) / 700)


def on_ground(crs, into, transform, shape):
    """Coordinates of the centres of cells in another system, row by row."""
    row, column = np.indices(shape)
    x, y = transform @ (column.ravel() + 0.5, row.ravel() + 0.5)
    there = warp.transform(crs, into, x, y)
    return [np.reshape(each, shape) for each in there]


def away_from_hills(terrain):
    """Differences to the true heights within; at the edges some centres lie outside of others."""
    east, north = on_ground(UTM_33, UTM_33, terrain.transform, terrain.z.shape)
    return np.abs(terrain.z - hills(east, north))[1:-1, 1:-1]


@pytest.fixture
def write(tmp_path):
    def write(values, crs="EPSG:4326", transform=PLACE, **fields):
        path = tmp_path / "dem.tif"
        profile = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "transform": transform}
        rows, columns = values.shape
        with rasterio.open(
            path, "w", width=columns, height=rows, crs=crs, **profile, **fields
        ) as file:
            file.write(values, 1)
        return path

    return write


def ground(shape=SHAPE, transform=PLACE):
    return hills(*on_ground(CRS.from_epsg(4326), UTM_33, transform, shape)).astype(np.float32)


def read(path, cell_size_m=None, project="utm", nodata=None):
    return rasters.read(path, cell_size_m, "dem", nodata, project)


def test_heights_stay_where_they_are_on_the_ground(write):
    terrain = read(write(ground()))
    assert terrain.crs == UTM_33
    assert not terrain.missing.any()
    assert (terrain.transform.a, terrain.transform.e) == (terrain.dx, -terrain.dx)
    assert 68 < terrain.dx < 111
    assert away_from_hills(terrain).max() < 0.3  # a shift by one cell is 3 m off
    area = terrain.z.size * terrain.dx**2
    assert area == pytest.approx(SHAPE[0] * SHAPE[1] * 67.8 * 111.2, rel=0.06)


@pytest.mark.parametrize("west", [190.0, -170.0, 179.96, -180.04])
def test_longitudes_may_turn_round_the_earth(write, west):
    """Counted from 0 to 360 or from -180; across 180 degrees east."""
    terrain = read(write(np.full(SHAPE, 7, np.float32), transform=Affine.translation(west, 10.0)
                         @ Affine.scale(1e-3, -1e-3)))  # fmt: skip
    assert terrain.crs in [CRS.from_epsg(32601), CRS.from_epsg(32602), CRS.from_epsg(32660)]
    assert min(terrain.z.shape) > 50
    np.testing.assert_array_equal(terrain.z, 7)


def test_cells_are_of_the_size_that_is_asked_for(write):
    path = write(ground())
    fine, coarse = read(path, 50.0), read(path, 400.0)
    assert (fine.dx, coarse.dx) == (50.0, 400.0)
    assert away_from_hills(fine).max() < 0.5
    assert away_from_hills(coarse).max() < 2
    noise = np.random.default_rng(0).normal(0, 10, SHAPE).astype(np.float32)
    spread = read(write(noise), 400.0).z.std()
    assert spread < 10 / 3  # a mean of 20 cells, not one of them


def test_a_void_stays_a_void_and_spreads_no_value(write):
    values = np.full(SHAPE, 50, np.float32)
    values[20:30, 30:50] = -9999
    terrain = read(write(values, nodata=-9999))
    share = terrain.missing.mean() / (200 / values.size)
    assert share == pytest.approx(1, rel=0.15)
    np.testing.assert_allclose(terrain.z, 50, rtol=1e-6)
    undeclared = read(write(values), nodata=-9999)
    np.testing.assert_array_equal(undeclared.missing, terrain.missing)


def test_the_upload_tells_what_was_done(write):
    counts = files.check(write(ground()), "elevation", {"project": "EPSG:25833"})
    assert counts["rows"] > 50
    assert 68 < counts["cell_size_m"] < 111
    (note,) = counts["contents"]["notes"]
    assert "projected from EPSG:4326 to EPSG:25833" in note
    assert "cut off" in note


def test_an_ascii_grid_in_degrees_is_taken_as_wgs_84(tmp_path):
    path = tmp_path / "dem.asc"
    head = "ncols 80\nnrows 60\nxllcorner 13.2\nyllcorner 52.54\ncellsize 0.001\n"
    path.write_text(head + "\n".join(" ".join(map(str, row)) for row in ground()))
    terrain = read(path)
    assert terrain.crs == UTM_33
    assert any("WGS 84" in note for note in terrain.notes)


@pytest.mark.parametrize(
    ("place", "crs", "project", "message"),
    [
        (PLACE, "EPSG:4326", "EPSG:4258", "is not in metres"),
        (PLACE, "EPSG:4326", "EPSG:2263", "is not in metres"),
        (PLACE, "EPSG:4326", "EPSG:999999", "no reference system is called"),
        (Affine(0.3, 0, 0, 0, -0.3, 52), "EPSG:4326", "utm", "12 degrees wide at most"),
        (Affine(1e-3, 0, 13, 0, -1e-3, 89), "EPSG:4326", "utm", "UTM is for -80 to 84"),
        (Affine(5, 0, 4e5, 0, -5, 5e6), None, "utm", "does not name its reference system"),
    ],
)
def test_what_cannot_be_projected_is_refused(write, place, crs, project, message):
    path = write(np.ones(SHAPE, np.float32), crs, place)
    with pytest.raises(DataError, match=message):
        files.check(path, "elevation", {"project": project})


def test_more_cells_than_a_raster_may_have_are_refused_before_they_are_made(write):
    with pytest.raises(DataError, match=r"options\.cell_size_m: \d+ x \d+ cells of 0\.1 m"):
        files.check(write(ground()), "elevation", {"project": "utm", "cell_size_m": 0.1})


def test_a_file_without_coordinates_is_refused(tmp_path):
    np.save(tmp_path / "dem.npy", ground())
    with pytest.raises(DataError, match="no coordinates that could be projected"):
        files.check(tmp_path / "dem.npy", "elevation", {"project": "utm"})


def test_without_a_projection_degrees_are_refused_with_the_way_out(write):
    with pytest.raises(DataError, match=r"give options\.project, such as utm"):
        files.check(write(ground()), "elevation", {})
