"""A set of images before it is decoded: its parts, the labels of each, its classes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from models.core.errors import DataError
from models.data import parts
from models.data.archives import Place
from models.data.contents import Contents
from models.data.parts import TRAIN

Picture = tuple[str, UInt8[np.ndarray, "h w c"]]  # its name in messages, its pixels
NO_LABELS = np.empty(0, dtype=np.int64)


class PictureFile(NamedTuple):
    """An encoded picture: its name in messages, and its place in the file of the set or itself."""

    name: str
    at: Place | bytes


Files = Callable[[Sequence[int]], Iterable[PictureFile]]


class ImagePart(NamedTuple):
    """Images of one part.

    Attributes:
        count: of its images.
        labels: int64 [count], classes from 0; empty for photographs.
        read: decodes the images at some positions, in rising order of position.
        files: the images at some positions as they are encoded, likewise; None where they are not.
    """

    count: int
    labels: Int64[np.ndarray, "_n"]
    read: Callable[[Sequence[int]], Iterable[Picture]]
    files: Files | None = None

    def pictures(self) -> Iterable[Picture]:
        """All images, decoded one after the other."""
        return self.read(range(self.count))

    def picked(self, positions: Sequence[int]) -> list[UInt8[np.ndarray, "_h _w _c"]]:
        """The images at some positions, in the order asked for."""
        rising = sorted(set(positions))
        by_position = dict(zip(rising, (image for _, image in self.read(rising)), strict=True))
        return [by_position[position] for position in positions]


class ImageSet(NamedTuple):
    """An open set.

    Attributes:
        parts: by ``train``, ``validation``, ``test``; photographs have ``train`` alone.
        classes: names by label; empty for photographs.
        contents: what was taken and left out, and why.
    """

    parts: dict[str, ImagePart]
    classes: list[str]
    contents: Contents

    @property
    def labelled(self) -> bool:
        """Whether the images have classes; photographs have none."""
        return bool(self.classes)

    def part(self, name: str) -> ImagePart:
        """A part by name; that of photographs whatever the name.

        Raises:
            KeyError: if the set has no such part.
        """
        return self.parts[name] if self.labelled else self.parts[TRAIN]


def labelled(brought: dict[str, ImagePart], classes: list[str], contents: Contents) -> ImageSet:
    """A set of labelled images; a test part is chosen if none was brought.

    Args:
        brought: parts by name; one under "" if none is named.
        classes: names by label.
        contents: takes note of the choice.

    Raises:
        DataError: if a class is written differently in training and other parts.
    """
    labels = {name: part.labels for name, part in brought.items()}
    views = {
        role: _view(brought[source], positions)
        for role, (source, positions) in parts.chosen(labels, contents).items()
    }
    used = np.unique(np.concatenate([part.labels for part in views.values()]))
    trained = np.unique(views[TRAIN].labels)
    if unseen := [classes[label] for label in used if label not in trained]:
        _check_spelling(unseen, [classes[label] for label in trained])
        contents.notes.append(f"no training image is of class {', '.join(unseen[:10])}")
    if empty := len(classes) - len(used):
        contents.notes.append(f"{empty} of {len(classes)} classes have no image")
    return ImageSet(views, classes, contents)


def _check_spelling(unseen: Sequence[str], trained: Sequence[str]) -> None:
    """Refuse a class of the test images that is one of training, written otherwise.

    Raises:
        DataError: naming both.
    """
    plain = {name.strip().casefold(): name for name in trained}
    for name in unseen:
        if other := plain.get(name.strip().casefold()):
            raise DataError(
                f"the class {name!r} has no training image, but {other!r} has: they differ in case "
                "or spaces alone",
                hint="write the name of the class alike in all parts",
            )


def _view(part: ImagePart, positions: Int64[np.ndarray, "m"]) -> ImagePart:
    def read(wanted: Sequence[int]) -> Iterator[Picture]:
        yield from part.read(positions[list(wanted)].tolist())

    encoded = part.files and _files(part.files, positions)
    return ImagePart(len(positions), part.labels[positions], read, encoded)


def _files(all_files: Files, positions: Int64[np.ndarray, "m"]) -> Files:
    return lambda wanted: all_files(positions[list(wanted)].tolist())


def photographs(part: ImagePart, contents: Contents) -> ImageSet:
    """Pictures without classes, each of its own size."""
    contents.split, contents.label = "photographs have no parts", "no class folders: no labels"
    return ImageSet({TRAIN: part}, [], contents)


def of_array(
    images: UInt8[np.ndarray, "n h w c"], labels: Int64[np.ndarray, "n"], name: str
) -> ImagePart:
    """A part that lies in memory already.

    Args:
        images: of all its images.
        labels: of each.
        name: names the array in errors.
    """

    def read(wanted: Sequence[int]) -> Iterator[Picture]:
        for position in wanted:
            yield f"{name} {position}", images[position]

    return ImagePart(len(labels), labels, read)
