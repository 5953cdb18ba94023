"""Names, counts and packages of the built-in datasets. Torch-free: the API lists them.

The bytes come from packages of the extra ``samples`` (``models/data/samples.py`` reads them).
"""

from typing import NamedTuple


class Builtin(NamedTuple):
    """A dataset that needs no upload."""

    name: str
    package: str
    description: str
    counts: dict[str, int]


BUILTIN = {
    entry.name: entry
    for entry in (
        Builtin(
            "digits",
            "sklearn",
            "1,797 handwritten digits of scikit-learn, 8 x 8 grey levels, 10 classes",
            {"train": 1437, "test": 360, "classes": 10, "height": 8, "width": 8, "channels": 1},
        ),
        Builtin(
            "photos",
            "skimage",
            "photographs by index: 0 cat (chelsea), 1 coffee, 2 rocket, 3 camera of scikit-image; "
            "4 temple (china), 5 flower of scikit-learn; 6 portrait (grace_hopper) of matplotlib",
            {"images": 7},
        ),
        Builtin(
            "jacksboro_dem",
            "matplotlib",
            "elevation of Jacksboro, Tennessee, in metres, 344 x 403 cells, taken as "
            "squares of 83 m",
            {"rows": 344, "columns": 403, "cell_size_m": 83},
        ),
    )
}
