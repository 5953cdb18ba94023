"""Uploaded datasets: recognised by their first bytes, checked, read. Torch-free; no pickle."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from models.core.errors import DataError
from models.data import folders, programs
from models.data.archives import open_archive
from models.data.arrays import ImageArrays, Labelled
from models.data.folders import read_folder
from models.data.npz import read_npz
from models.data.parquet import read_parquet, read_parquet_archive

__all__ = [
    "ImageArrays",
    "Labelled",
    "check",
    "count_photos",
    "holds_photos",
    "read_images",
    "read_photos",
]

ZIP_MAGIC, PARQUET_MAGIC = b"PK\x03\x04", b"PAR1"
READERS: Mapping[str, Callable[[Path], ImageArrays]] = {
    "npz": read_npz,
    "image_folder": read_folder,
    "parquet": read_parquet,
    "parquet_archive": read_parquet_archive,
}


def read_images(path: Path) -> ImageArrays:
    """Labelled images of an uploaded file; its name does not matter, its first bytes do.

    npz, zip of an image folder, parquet, or zip of ``train*.parquet`` and ``test*.parquet``.
    Where there is no test part, a fifth of each class is held out, always the same images.

    Raises:
        DataError: naming what is wrong and where.
    """
    return READERS[recognise(path)](path)


def holds_photos(path: Path) -> bool:
    """Whether the file is a zip of pictures without class folders."""
    return recognise(path) == "image_folder" and count_photos(path) > 0


def count_photos(path: Path) -> int:
    """Pictures in a zip without class folders; 0 if it has such folders.

    Raises:
        DataError: if the archive breaks a rule or holds no picture.
    """
    with open_archive(path) as archive:
        return len(folders.photo_names(archive))


def read_photos(
    path: Path, indices: Sequence[int] | None = None
) -> list[UInt8[np.ndarray, "_h _w _c"]]:
    """Pictures of a zip without class folders, each of its own size, in the order of their names.

    Args:
        path: of the zip.
        indices: which ones; all where left out.

    Raises:
        DataError: if a picture is damaged or there is no such index.
    """
    wanted = range(count_photos(path)) if indices is None else indices
    return folders.read_photos(path, wanted)


def check(path: Path, format: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Validate an uploaded file by reading all of it.

    Args:
        path: of the file.
        format: ``npz``, ``image_folder``, ``parquet``, ``elevation`` or ``net``, as the user says.
        options: ``cell_size_m`` and ``nodata`` for elevation; nothing else.

    Returns:
        ``train, test, classes, height, width, channels`` of labelled images, ``images`` of
        pictures without labels, ``rows, columns, cell_size_m`` of an elevation, or what
        :func:`models.data.programs.check` finds in a net.

    Raises:
        DataError: naming what is wrong, where, and the limit.
    """
    allowed = {"cell_size_m", "nodata"} if format == "elevation" else set()
    if unknown := set(options) - allowed:
        raise DataError(f"options {sorted(unknown)} are not known for format {format!r}")
    if format == "net":
        return programs.check(path)
    if format == "elevation":
        from models.data import elevation  # GDAL is for these files alone

        return elevation.check(path, options.get("cell_size_m"), options.get("nodata"))
    if format not in READERS:
        raise DataError(f"format {format!r}; use npz, image_folder, parquet, elevation or net")
    recognised = recognise(path)
    if recognised.removesuffix("_archive") != format:
        raise DataError(
            f"the file is of format {recognised.removesuffix('_archive')}, not {format}"
        )
    if recognised == "image_folder" and (count := count_photos(path)):
        for index in range(count):  # one at a time: photographs may be large
            folders.read_photos(path, [index])
        return {"images": count}
    return _counts(READERS[recognised](path))


def _counts(arrays: ImageArrays) -> dict[str, int]:
    _, height, width, channels = arrays.train.images.shape
    return {
        "train": len(arrays.train.labels),
        "test": len(arrays.test.labels),
        "classes": len(arrays.classes),
        "height": height,
        "width": width,
        "channels": channels,
    }


def recognise(path: Path) -> str:
    """Which reader a file of images needs, by its first bytes and the names inside.

    Raises:
        DataError: if it is none of ours; a pickle is not.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == PARQUET_MAGIC:
        return "parquet"
    if magic != ZIP_MAGIC:
        raise DataError(
            f"the file begins with {magic!r}: neither npz, zip nor parquet (pickle is refused)"
        )
    with open_archive(path) as archive:
        suffixes = {PurePosixPath(name).suffix.lower() for name in archive.names}
    if suffixes == {".npy"}:
        return "npz"
    return "parquet_archive" if ".parquet" in suffixes else "image_folder"
