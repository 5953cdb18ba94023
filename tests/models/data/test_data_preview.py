"""The small picture of a dataset: some of its images, or a hillshade."""

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine

from models.data import files, preview


def stack(path, per_class=20, side=12):
    """Three classes one after the other, each of one grey."""
    labels = np.repeat([0, 1, 2], per_class)
    images = np.broadcast_to((40 + 80 * labels)[:, None, None], (len(labels), side, side))
    with path.open("wb") as file:
        np.savez(file, x_train=images.astype(np.uint8), y_train=labels,
                 x_test=images[:5].astype(np.uint8), y_test=labels[:5])  # fmt: skip
    return path


def test_images_are_spread_over_the_training_part(tmp_path):
    picture = tmp_path / "preview.jpg"
    found = files.check(stack(tmp_path / "content"), "npz", {}, picture)
    assert found["contents"]["classes"] == {"0": 20, "1": 20, "2": 20}
    shown = np.asarray(Image.open(picture))
    assert shown.shape == (96, 960, 3)
    middles = shown[48, 48::96, 0].astype(int)
    np.testing.assert_allclose(np.unique(middles // 20), [2, 6, 10])


@pytest.mark.parametrize("shape", [(40, 30, 1), (3, 500, 3), (200, 1, 4)])
def test_a_picture_of_any_form_becomes_a_square(shape):
    assert preview.square(np.zeros(shape, np.uint8)).size == (96, 96)


def test_a_terrain_is_lit_from_the_north_west(tmp_path):
    """A ridge from south to north: its western slope is brighter; no height is pale."""
    column = np.mgrid[0:60, 0:900][1]
    z = (450 - np.abs(column - 450)).astype(np.float32)
    z[:20, :100] = -9999
    with rasterio.open(
        tmp_path / "content", "w", driver="GTiff", count=1, height=60, width=900,
        dtype="float32", crs="EPSG:28356", nodata=-9999,
        transform=Affine(2.0, 0, 0, 0, -2.0, 0),
    ) as raster:  # fmt: skip
        raster.write(z, 1)
    files.check(tmp_path / "content", "elevation", {}, tmp_path / "preview.jpg")
    shown = np.asarray(Image.open(tmp_path / "preview.jpg"))
    assert shown.shape == (20, 300)
    assert shown[15, 80] > shown[15, 220] + 40
    assert shown[2, 10] > 230


def test_a_single_row_has_a_picture_too(tmp_path):
    preview.write_heights(tmp_path / "preview.jpg", np.arange(5.0)[None], 1.0)
    with Image.open(tmp_path / "preview.jpg") as picture:
        assert picture.size == (5, 1)
