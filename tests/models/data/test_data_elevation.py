"""Elevations: three formats, one answer; what has no cell size in metres is refused."""

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from models.core.errors import DataError
from models.data import decode, elevation, files

HEIGHTS = np.random.default_rng(0).normal(100, 5, (6, 9)).astype(np.float32)


def geotiff(path, heights=HEIGHTS, crs="EPSG:28356", cell=(2.0, 2.0), **options):
    heights = np.atleast_3d(heights).transpose(2, 0, 1)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(heights), height=heights.shape[1],
        width=heights.shape[2], dtype=heights.dtype, crs=crs,
        transform=Affine(cell[0], 0, 1000, 0, -cell[1], 2000) if cell else None, **options,
    ) as raster:  # fmt: skip
        raster.write(heights)
    return path


def ascii_grid(path, rows="1 2 3\n4 5 -9999\n"):
    head = "ncols 3\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 2.5\nNODATA_value -9999\n"
    path.write_text(head + rows)
    return path


def test_three_formats(tmp_path):
    path = tmp_path / "content"
    expected = {"rows": 6, "columns": 9, "cell_size_m": 2.0}
    assert files.check(geotiff(path), "elevation", {}) == expected
    with path.open("wb") as file:
        np.save(file, HEIGHTS)
    assert files.check(path, "elevation", {"cell_size_m": 2.0}) == expected
    expected = {"rows": 2, "columns": 3, "cell_size_m": 2.5}
    assert files.check(ascii_grid(path), "elevation", {}) == expected


def test_feet_become_metres(tmp_path):
    actual = elevation.check(geotiff(tmp_path / "content", crs="EPSG:2225"), None)
    assert actual["cell_size_m"] == pytest.approx(2 * 0.3048, rel=1e-5)


def npy(path, values):
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=True)
    return path


def with_nan():
    heights = HEIGHTS.copy()
    heights[3, 3] = np.nan
    return heights


@pytest.mark.parametrize(
    ("make", "size", "match"),
    [
        (lambda p: npy(p, HEIGHTS), None, "cell_size_m is needed"),
        (lambda p: npy(p, HEIGHTS), -1.0, "use 0.001 to 1e"),
        (lambda p: npy(p, with_nan()), 1.0, "NaN or infinite"),
        (lambda p: npy(p, HEIGHTS[None]), 1.0, "2-D array"),
        (lambda p: npy(p, np.array([[{}]], dtype=object)), 1.0, "Python objects"),
        (lambda p: geotiff(p, crs="EPSG:4326", cell=(0.1, 0.1)), None, "in degrees"),
        (lambda p: geotiff(p, cell=(2.0, 3.0)), None, "must be square"),
        (lambda p: geotiff(p, crs=None, cell=None), None, "does not tell its cell size"),
        (lambda p: geotiff(p), 5.0, "the file says 2.0 m"),
        (lambda p: geotiff(p, with_nan()), None, "NaN or infinite"),
        (lambda p: geotiff(p, np.stack([HEIGHTS] * 2, 2)), None, "2 bands"),
        (lambda p: geotiff(p, HEIGHTS * 0 - 9999, nodata=-9999), None, "every cell is nodata"),
        (lambda p: ascii_grid(p, "1 2 3\n"), None, "damaged or cut short"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the writer
def test_refusals(make, size, match, tmp_path):
    with pytest.raises(DataError, match=match):
        elevation.check(make(tmp_path / "content"), size)


@pytest.mark.parametrize("make", [npy, geotiff])
def test_nan_is_declared_by_a_word_that_its_refusal_names(make, tmp_path):
    path = make(tmp_path / "content", with_nan())
    with pytest.raises(DataError, match='give `nodata` as "nan"'):
        elevation.check(path, 2.0)
    assert elevation.check(path, 2.0, "nan")["contents"]["notes"]
    infinite = make(tmp_path / "content", with_nan() + np.inf)
    with pytest.raises(DataError, match="infinite"):
        elevation.check(infinite, 2.0, "nan")


def test_declared_nodata_may_be_nan(tmp_path):
    actual = elevation.check(geotiff(tmp_path / "content", with_nan(), nodata=np.nan), None)
    assert actual["rows"] == 6


@pytest.mark.parametrize("keep", [3, 200])
def test_cut_files_are_refused(keep, tmp_path):
    path = geotiff(tmp_path / "content")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError):
        elevation.check(path, None)


def test_too_many_cells_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(elevation, "PIXELS", 53)
    assert decode.PIXELS == 50_000_000
    with pytest.raises(DataError, match="6 x 9 cells; from 1 to 53"):
        elevation.check(geotiff(tmp_path / "content"), None)
