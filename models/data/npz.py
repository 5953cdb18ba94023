"""Images and labels in an npz file, read without numpy's loader: no pickle, no trusted header."""

import re
from collections.abc import Sequence

import numpy as np

from models.core.errors import DataError
from models.core.spec import ReadOptions
from models.data import sets
from models.data.archives import Archive
from models.data.contents import Contents
from models.data.headers import read_array_header
from models.data.labels import numbered
from models.data.parts import KEYWORDS, grouped
from models.data.pixels import as_pictures
from models.data.sets import ImageSet

CLASSES = "classes"
KEYS = (
    "train_images, train_labels, test_images, test_labels; or images, labels; beside them classes"
)
IMAGES, LABELS = ("images", "image", "imgs", "x", "data"), ("labels", "label", "y", "targets")
NAME = re.compile(
    rf"(?:(?P<before>{'|'.join(KEYWORDS)})_)?(?P<what>{'|'.join(IMAGES + LABELS)})"
    rf"(?:_(?P<after>{'|'.join(KEYWORDS)}))?",
    re.IGNORECASE,
)


def open_npz(archive: Archive, options: ReadOptions) -> ImageSet:
    """Arrays ``train_images`` and so on (or ``x_train``, ``val_images``), or images and labels.

    Images are [n, h, w], [n, h, w, c] or [n, c, h, w] of integers or floats; labels are integers,
    strings or truth values; an array ``classes`` of strings may name the classes.

    Raises:
        DataError: naming the array at fault.
    """
    contents = Contents()
    keys = _keys(archive, contents)
    pairs = _pairs(keys, options)
    contents.taken.update(key for pair in pairs.values() for key in pair)
    names = None
    if CLASSES in keys:
        names = [str(name) for name in _array(archive, CLASSES).ravel()]
    images = as_pictures({pair[0]: _array(archive, pair[0]) for pair in pairs.values()}, contents)
    given = {part: _array(archive, pair[1]) for part, pair in pairs.items()}
    counts = {part: len(images[pair[0]]) for part, pair in pairs.items()}
    title = ", ".join(pair[1] for pair in pairs.values())
    labels, classes = numbered(given, counts, names, title)
    contents.label = f"the arrays {title}: {len(classes)} classes"
    brought = {
        part: sets.of_array(images[pair[0]], labels[part], pair[0]) for part, pair in pairs.items()
    }
    return sets.labelled(brought, classes, contents)


def _keys(archive: Archive, contents: Contents) -> list[str]:
    """Names of the arrays; those that mean nothing here are listed as left out."""
    keys = [name.removesuffix(".npy") for name in contents.visible(archive.names)]
    for key in keys:
        if key != CLASSES and not NAME.fullmatch(key):
            contents.left_out[key, "no array of images, labels or classes"] += 1
    return keys


def _pairs(keys: Sequence[str], options: ReadOptions) -> dict[str, tuple[str, str]]:
    """Names of images and labels, by part; "" where none is named.

    Raises:
        DataError: if images have no labels, or arrays without a part lie beside those of parts.
    """
    matches = {key: match for key in keys if (match := NAME.fullmatch(key))}
    parts = {key: _part(match) for key, match in matches.items()}
    pairs = {}
    for part, members in grouped(parts, parts.values()).items():
        images = [key for key in members if matches[key]["what"].lower() in IMAGES]
        labels = [key for key in members if key not in images]
        if len(images) != 1 or len(labels) != 1:
            raise DataError(f"the npz holds {', '.join(sorted(keys))}; expected {KEYS}")
        pairs[part] = images[0], labels[0]
    if not pairs:
        raise DataError(f"the npz holds {', '.join(sorted(keys))}; expected {KEYS}")
    if options.split == "hold_out" and list(pairs) != [""]:
        raise DataError(
            f"split hold_out: the arrays of an npz are of the parts {', '.join(pairs)}",
            hint="join them to images and labels, or leave split out",
        )
    return pairs


def _part(match: re.Match[str]) -> str | None:
    word = match["before"] or match["after"]
    return KEYWORDS[word.lower()] if word else None


def _array(archive: Archive, key: str) -> np.ndarray:
    """One array, its header checked against the limits before memory is taken."""
    room = archive.room_bytes(f"{key}.npy")
    with archive.open(f"{key}.npy") as stream:
        header = read_array_header(stream, room, key)
        content = bytearray(header.size_bytes)
        if stream.readinto(content) < header.size_bytes:
            raise DataError(f"{key}: cut short; its {header.size_bytes} bytes are not there")
    order = "F" if header.is_fortran else "C"
    return np.frombuffer(content, header.dtype).reshape(header.shape, order=order)
