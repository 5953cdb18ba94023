"""Images and labels in an npz file, read without numpy's loader: no pickle, no trusted header."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from models.core.errors import DataError
from models.data.archives import Archive, open_archive
from models.data.arrays import ImageArrays, Labelled, split
from models.data.decode import check_size
from models.data.headers import read_array_header
from models.data.labels import checked_labels, class_names

KEYS = (
    "train_images, train_labels, test_images, test_labels, or images, labels; beside them classes"
)


def read_npz(path: Path) -> ImageArrays:
    """Arrays ``train_images`` and so on, or ``images`` and ``labels`` (then split here).

    Images are uint8 [n, h, w] or [n, h, w, c]; an array ``classes`` of strings may name the
    classes.

    Raises:
        DataError: naming the array at fault.
    """
    with open_archive(path) as archive:
        keys = {name.removesuffix(".npy") for name in archive.names}
        given = _array(archive, "classes") if "classes" in keys else None
        names = None if given is None else [str(name) for name in given.ravel()]
        if {"train_images", "train_labels", "test_images", "test_labels"} <= keys:
            train, test = _part(archive, "train_"), _part(archive, "test_")
        elif {"images", "labels"} <= keys:
            train, test = _part(archive, ""), None
        else:
            raise DataError(f"the npz holds {', '.join(sorted(keys))}; expected {KEYS}")
    if test is None:
        return split(train, class_names(names, int(train.labels.max()), "labels"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"test_images: {test.images.shape[1:]} an image, train_images: {train.images.shape[1:]}"
        )
    highest = int(max(train.labels.max(), test.labels.max()))
    return ImageArrays(train, test, class_names(names, highest, "train_labels, test_labels"))


def _part(archive: Archive, prefix: str) -> Labelled:
    images = _images(_array(archive, f"{prefix}images"), f"{prefix}images")
    name = f"{prefix}labels"
    return Labelled(images, checked_labels(_array(archive, name), len(images), name))


def _images(values: np.ndarray, name: str) -> UInt8[np.ndarray, "n h w c"]:
    if values.dtype != np.uint8:
        raise DataError(f"{name}: values of {values.dtype}; give uint8 from 0 to 255")
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4:
        raise DataError(f"{name}: shape {values.shape}; give [n, h, w] or [n, h, w, c]")
    check_size(*values.shape[1:], name)
    return np.ascontiguousarray(values)


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
