"""Reads the built-in sets from files of the packages of the extra ``samples``.

The files alone: importing scikit-learn takes a second, reading its digits a hundredth of one.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from models.core.errors import DataError, DataMissingError
from models.data.arrays import ImageArrays, Labelled, held_out

DIGITS, DIGITS_TEST = "sklearn/datasets/data/digits.csv.gz", 360
PHOTOS = (
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "skimage/data/camera.png",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
ELEVATION = "matplotlib/mpl-data/sample_data/jacksboro_fault_dem.npz"


def images(name: str) -> ImageArrays:
    """A built-in set of labelled images.

    ``digits``: 1,797 handwritten digits of 8 x 8, one channel; grey levels 0..16 scaled to
    0..255; 360 held out for testing, the same share of each class, always the same ones.

    Raises:
        DataMissingError: if scikit-learn is not installed.
        DataError: if ``name`` is no built-in set of labelled images.
    """
    if name != "digits":
        raise DataError(f"{name!r} is no built-in set of labelled images; there is 'digits'")
    rows = np.loadtxt(_file(DIGITS, name), delimiter=",", dtype=np.int64)
    labels = rows[:, -1]
    grey = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    test = held_out(labels, DIGITS_TEST)
    return ImageArrays(
        Labelled(grey[~test], labels[~test]),
        Labelled(grey[test], labels[test]),
        [str(digit) for digit in range(10)],
    )


def photo(index: int) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph: 0 cat (chelsea), 1 coffee, 2 rocket, 3 camera (grey as RGB) of scikit-image.

    4 temple (china) and 5 flower are of scikit-learn, 6 portrait (grace_hopper) of matplotlib.

    Raises:
        DataMissingError: if scikit-image or scikit-learn is not installed.
        DataError: if there is no such index.
    """
    if not 0 <= index < len(PHOTOS):
        raise DataError(f"photos has images 0 to {len(PHOTOS) - 1}, not {index}")
    with Image.open(_file(PHOTOS[index], "photos")) as opened:
        return np.asarray(opened.convert("RGB"))


def _file(path: str, name: str) -> Path:
    """The file of a built-in set, whose path begins with the package that it comes with."""
    package, _, rest = path.partition("/")
    package_spec = find_spec(package)
    if package_spec is None:
        raise DataMissingError.without_package(f"the built-in dataset {name!r}", package)
    return Path(str(package_spec.origin)).parent / rest


def heights_of(name: str) -> Float32[np.ndarray, "ny nx"]:
    """A built-in elevation in metres: ``jacksboro_dem`` of matplotlib, 344 x 403 cells.

    Its cells are 3 arc-seconds, at its latitude 74 m wide and 93 m high.

    Raises:
        DataError: if ``name`` is no built-in elevation.
    """
    if name != "jacksboro_dem":
        raise DataError(f"{name!r} is no built-in elevation; there is 'jacksboro_dem'")
    with np.load(_file(ELEVATION, name), allow_pickle=False) as archive:
        return archive["elevation"].astype(np.float32)
