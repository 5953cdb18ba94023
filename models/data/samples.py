"""Reads the built-in sets from the packages of the extra ``samples``."""

from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib import cbook
from PIL import Image

from models.core.errors import DataError, DataMissingError
from models.data.arrays import ImageArrays, Labelled, held_out

DIGITS_TEST = 360
PHOTOS = ("chelsea", "coffee", "rocket", "camera", "china", "flower", "grace_hopper")


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
    bunch = _package("sklearn.datasets", name).load_digits()
    labels = bunch.target.astype(np.int64)
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
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
    name = PHOTOS[index]
    if name in ("china", "flower"):
        return _package("sklearn.datasets", "photos").load_sample_image(f"{name}.jpg")
    if name == "grace_hopper":
        with Image.open(str(cbook.get_sample_data(f"{name}.jpg", asfileobj=False))) as opened:
            return np.asarray(opened.convert("RGB"))
    picture = getattr(_package("skimage.data", "photos"), name)()
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def _package(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise DataMissingError(
            f"the built-in dataset {name!r} needs the package {module.partition('.')[0]}",
            hint="install sextant[samples] where the worker is",
        ) from error


def heights_of(name: str) -> Float32[np.ndarray, "ny nx"]:
    """A built-in elevation in metres: ``jacksboro_dem`` of matplotlib, 344 x 403 cells.

    Its cells are 3 arc-seconds, at its latitude 74 m wide and 93 m high.

    Raises:
        DataError: if ``name`` is no built-in elevation.
    """
    if name != "jacksboro_dem":
        raise DataError(f"{name!r} is no built-in elevation; there is 'jacksboro_dem'")
    path = cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)
    with np.load(str(path), allow_pickle=False) as archive:
        return archive["elevation"].astype(np.float32)
