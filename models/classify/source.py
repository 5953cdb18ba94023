"""Images to classify, one after the other, with their names and classes as far as known."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from models.classify.spec import ClassifyPredict
from models.core.errors import SpecError
from models.core.run import Run
from models.data import files, samples, sets
from models.data.builtin import BUILTIN
from models.data.sets import Picture


class ImageSource(NamedTuple):
    """Images of one part of a set.

    Attributes:
        count: of images.
        pictures: name and pixels of each, decoded one after the other.
        labels: int64 [count], empty without labels.
        classes: names by label; empty without labels.
    """

    count: int
    pictures: Iterable[Picture]
    labels: Int64[np.ndarray, "_n"]
    classes: list[str]


@contextmanager
def open_source(spec: ClassifyPredict, run: Run) -> Generator[ImageSource, None, None]:
    """The images that a spec names.

    Raises:
        SpecError: if the set has no such part.
        DataError: if the file is damaged.
        DataMissingError: if a built-in set is not available to the worker.
    """
    name = spec.data.dataset
    if name == "photos":
        pictures = ((f"photos {k}", samples.photo(k)) for k in range(len(samples.PHOTOS)))
        yield ImageSource(len(samples.PHOTOS), pictures, sets.NO_LABELS, [])
    elif name in BUILTIN:
        arrays = samples.images(name)
        _check_part(spec, ["train", "test"])
        images, labels = getattr(arrays, spec.split)
        part = sets.of_array(images, labels, name)
        yield ImageSource(part.count, part.pictures(), part.labels, arrays.classes)
    else:
        with files.open_images(run.input(spec.data), spec.data.read) as opened:
            if opened.labelled:
                _check_part(spec, list(opened.parts))
            part = opened.part(spec.split)
            yield ImageSource(part.count, part.pictures(), part.labels, opened.classes)


def _check_part(spec: ClassifyPredict, parts: list[str]) -> None:
    if spec.split not in parts:
        raise SpecError(
            f"split is {spec.split!r}; {spec.data.dataset} has the parts {', '.join(parts)}",
            pointer="/split",
        )
