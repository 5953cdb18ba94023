"""Zip of an image folder: which picture belongs to which part and class, by its name."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from models.core.errors import DataError
from models.data.archives import Archive, open_archive
from models.data.arrays import ImageArrays, Labelled, split
from models.data.decode import decode
from models.data.stacks import Stack

SUFFIXES = (".png", ".jpg", ".jpeg")
TRAIN, TEST = "train", "test"


class PictureEntry(NamedTuple):
    """A picture in the archive; ``part`` is "" where the folder names none."""

    name: str
    part: str
    label: str


def read_folder(path: Path) -> ImageArrays:
    """Images of ``train/<class>/*`` and ``test/<class>/*``, or of ``<class>/*`` alone.

    Raises:
        DataError: naming the entry at fault.
    """
    with open_archive(path) as archive:
        entries = _labelled(archive)
        classes = sorted({entry.label for entry in entries})
        parts = {part: [e for e in entries if e.part == part] for part in ("", TRAIN, TEST)}
        if parts[""] and len(parts[""]) < len(entries):
            raise DataError(
                f"{parts[''][0].name}: lies beside {TRAIN}/ and {TEST}/; put it into one of them"
            )
        whole = {
            part: _stack(archive, part_entries, classes)
            for part, part_entries in parts.items()
            if part_entries
        }
    if TEST in whole and TRAIN in whole:
        if whole[TEST].images.shape[1:] != whole[TRAIN].images.shape[1:]:
            raise DataError(f"images in {TRAIN}/ and {TEST}/ differ in size")
        return ImageArrays(whole[TRAIN], whole[TEST], classes)
    return split(next(iter(whole.values())), classes)


def read_photos(path: Path, indices: Sequence[int]) -> list[UInt8[np.ndarray, "_h _w _c"]]:
    """Pictures of an archive without classes, by their index in the order of their names.

    Raises:
        DataError: if a picture is damaged or there is no such index.
    """
    with open_archive(path) as archive:
        names = photo_names(archive)
        if indices and max(indices) >= len(names):
            raise DataError(f"image {max(indices)} of an archive of {len(names)}")
        return [decode(archive.read(names[index]), names[index]) for index in indices]


def photo_names(archive: Archive) -> list[str]:
    """Names of the pictures of an archive without classes, sorted; empty if it has classes."""
    pictures = _pictures(archive)
    return sorted(pictures) if all(len(parts) == 1 for parts in pictures.values()) else []


def _pictures(archive: Archive) -> dict[str, tuple[str, ...]]:
    """Path of each picture below the folder that holds them all; other files are left alone."""
    paths = {
        name: PurePosixPath(name).parts
        for name in archive.names
        if name.lower().endswith(SUFFIXES) and not _hidden(name)
    }
    if not paths:
        raise DataError(f"the archive holds no picture ({', '.join(SUFFIXES)})")
    while len(tops := {parts[0] for parts in paths.values()}) == 1 and not tops & {TRAIN, TEST}:
        if any(len(parts) == 1 for parts in paths.values()):
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    return paths


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _labelled(archive: Archive) -> list[PictureEntry]:
    """Every picture with its part and class, in the order of their names."""
    entries = []
    for name, parts in sorted(_pictures(archive).items()):
        part, rest = (parts[0], parts[1:]) if parts[0] in (TRAIN, TEST) else ("", parts)
        if len(rest) != 2:
            raise DataError(
                f"{name}: expected <class>/<picture>, or {TRAIN}|{TEST}/<class>/<picture>"
            )
        entries.append(PictureEntry(name, part, rest[0]))
    return entries


def _stack(archive: Archive, entries: list[PictureEntry], classes: list[str]) -> Labelled:
    stack = Stack(len(entries))
    for entry in entries:
        stack.add(decode(archive.read(entry.name), entry.name), entry.name)
    position = {label: index for index, label in enumerate(classes)}
    labels = np.array([position[entry.label] for entry in entries], dtype=np.int64)
    return Labelled(stack.images(), labels)
