"""Built-in sets: the same images every time, and a clear word where the package is missing."""

import re
import sys
from importlib.metadata import metadata

import numpy as np
import pytest

from app.local.install import DISTRIBUTION
from models.core.errors import INSTALL_SAMPLES, DataError, DataMissingError
from models.data import samples
from models.data.builtin import BUILTIN


def test_digits_are_what_the_list_promises():
    pytest.importorskip("sklearn", reason="extra samples")
    actual = samples.images("digits")
    counts = BUILTIN["digits"].counts
    size = tuple(counts[name] for name in ("height", "width", "channels"))
    assert actual.train.images.shape == (counts["train"], *size)
    assert actual.test.images.shape == (counts["test"], *size)
    assert len(set(actual.train.labels)) == counts["classes"] == len(actual.classes)
    assert actual.train.images.dtype == np.uint8
    assert (actual.train.images.min(), actual.train.images.max()) == (0, 255)
    share = np.bincount(actual.test.labels) / np.bincount(
        np.concatenate([actual.train.labels, actual.test.labels])
    )
    assert np.abs(share - 360 / 1797).max() < 1 / 170
    np.testing.assert_array_equal(actual.test.images, samples.images("digits").test.images)


def test_the_elevation_is_what_the_list_promises():
    counts = BUILTIN["jacksboro_dem"].counts
    assert samples.heights_of("jacksboro_dem").shape == (counts["rows"], counts["columns"])


def test_photos_are_colour_pictures():
    pytest.importorskip("skimage", reason="extra samples")
    assert len(samples.PHOTOS) == BUILTIN["photos"].counts["images"]
    for index in range(len(samples.PHOTOS)):
        picture = samples.photo(index)
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
    with pytest.raises(DataError, match="images 0 to 6, not 7"):
        samples.photo(7)


@pytest.mark.parametrize("package", ["sklearn", "skimage"])
def test_missing_package_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    read = {"sklearn": lambda: samples.images("digits"), "skimage": lambda: samples.photo(0)}
    with pytest.raises(DataMissingError, match=package) as caught:
        read[package]()
    assert "'.[worker,samples]'" in caught.value.hint


def test_the_hint_is_a_command_that_this_distribution_understands():
    """It is on no index, so only a path can be installed; its extras are those of pyproject."""
    extras = re.search(r"'\.\[([a-z,]+)\]'", INSTALL_SAMPLES)
    assert set(extras[1].split(",")) <= set(metadata(DISTRIBUTION).get_all("Provides-Extra"))


def test_unknown_set_is_refused():
    with pytest.raises(DataError, match="there is 'digits'"):
        samples.images("photos")
