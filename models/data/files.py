"""Uploaded datasets: recognised by their first bytes, checked, read. Torch-free; no pickle."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pydantic import ValidationError

from models.core.errors import DataError
from models.core.spec import ReadOptions
from models.data import folders, marks, preview, programs, regions, series, sets
from models.data.archives import Archive
from models.data.arrays import ImageArrays, Labelled
from models.data.contents import MOST_LETTERS, MOST_LINES, Contents, ending, hidden
from models.data.decode import decode
from models.data.folders import picture_kind
from models.data.idx import is_idx, open_idx
from models.data.npz import open_npz
from models.data.parquet import open_parquet, open_parquet_archive
from models.data.parts import TEST, TRAIN
from models.data.sets import ImagePart, ImageSet
from models.data.stacks import Stack
from models.data.tars import is_tar, open_packed

__all__ = ["ImageArrays", "Labelled", "check", "open_images", "read_images"]

ZIP_MAGIC, PARQUET_MAGIC = b"PK\x03\x04", b"PAR1"
FORMATS = ("npz", "image_folder", "parquet", "idx")
TABLES = {"series": series.check, "marks": marks.check, "regions": regions.check}
Fit = Callable[[UInt8[np.ndarray, "h w c"]], UInt8[np.ndarray, "_h _w c"]]


def read_images(
    path: Path, options: ReadOptions | None = None, fit: Fit | None = None
) -> ImageArrays:
    """Labelled images of an uploaded file; its name does not matter, its first bytes do.

    Where there is no test part, a fifth of each class is held out, always the same images.

    Args:
        path: of the file.
        options: of its import.
        fit: brings every image to one size; without it they must have one size.

    Raises:
        DataError: naming what is wrong and where.
    """
    with open_images(path, options) as opened:
        if not opened.labelled:
            raise DataError("the pictures have no class folders, so no labels")
        train, test = (_stacked(opened.parts[part], fit) for part in (TRAIN, TEST))
        train, test = _same_channels(train, test)
        if train.images.shape[1:] != test.images.shape[1:]:
            sizes = [" x ".join(map(str, part.images.shape[1:])) for part in (train, test)]
            raise DataError(
                f"the images of train and test differ in size: {sizes[0]} and {sizes[1]}",
                hint="give the size to which all are resized: images.image_size",
            )
        return ImageArrays(train, test, opened.classes)


def _stacked(part: ImagePart, fit: Fit | None) -> Labelled:
    if part.count == 0:
        raise DataError(
            "there are too few images to hold out a fifth of each class for testing",
            hint="use more images, or name a test part",
        )
    stack = Stack(part.count)
    for name, image in part.pictures():
        stack.add(image if fit is None else fit(image), name)
    return Labelled(stack.images(), part.labels)


def _same_channels(*parts: Labelled) -> list[Labelled]:
    """Grey images become grey colour where those of another part have colours."""
    most = max(part.images.shape[3] for part in parts)
    return [
        Labelled(np.repeat(part.images, most, axis=3), part.labels)
        if part.images.shape[3] == 1 < most
        else part
        for part in parts
    ]


@contextmanager
def open_images(path: Path, options: ReadOptions | None = None) -> Generator[ImageSet, None, None]:
    """The images of an uploaded file, before they are decoded.

    Raises:
        DataError: naming what is wrong and where.
    """
    options = options or ReadOptions()
    kind = recognise(path)
    if options.label is not None and _format_of(kind) != "parquet":
        raise DataError(
            f"options.label is {options.label!r}; only parquet has columns, this is "
            f"{_format_of(kind)}"
        )
    with ExitStack() as stack:
        if kind == "picture":
            yield _single(path)
        elif kind == "parquet":
            yield stack.enter_context(open_parquet(path, options))
        elif kind == "parquet_archive":
            archive = stack.enter_context(open_packed(path))
            yield stack.enter_context(open_parquet_archive(archive, options))
        else:
            yield ARCHIVES[kind](stack.enter_context(open_packed(path)), options)


ARCHIVES: Mapping[str, Callable[[Archive, ReadOptions], ImageSet]] = {
    "npz": open_npz,
    "idx": open_idx,
    "image_folder": folders.open_folder,
}


def _single(path: Path) -> ImageSet:
    """A picture file alone: a set of one photograph."""
    contents = Contents()
    content = path.read_bytes()
    contents.taken[str(picture_kind(content[:16]))] = 1

    def read(positions: Any) -> Any:
        for _ in positions:
            yield "the picture", decode(content, "the picture", contents.noted)

    return sets.photographs(ImagePart(1, sets.NO_LABELS, read), contents)


def check(
    path: Path, format: str, options: Mapping[str, Any], picture: Path | None = None
) -> dict[str, Any]:
    """Validate an uploaded file by reading all of it.

    Args:
        path: of the file.
        format: ``npz``, ``image_folder``, ``parquet``, ``idx``, ``elevation``, ``net``,
            ``series``, ``marks``, ``regions`` or ``netcdf``, as the user says.
        options: ``cell_size_m``, ``nodata`` and ``project`` for elevation; ``label`` and
            ``split`` for images.
        picture: where to leave a small picture of images or of a terrain (JPEG), if anywhere.

    Returns:
        ``train, test, classes, channels`` and ``validation`` of labelled images, ``images`` of
        pictures without labels, ``rows, columns, cell_size_m`` of an elevation, ``moments,
        values`` of a series, ``marks`` of surveyed levels, ``regions, annotated`` of regions of
        images, ``frames, variables`` of fields over
        time, or what
        :func:`models.data.programs.check` finds in a net. Images of one size have ``height`` and
        ``width``, others ``sizes``, the number of sizes. ``contents`` lists what was taken and
        left out of images.

    Raises:
        DataError: naming what is wrong, where, and the limit.
    """
    if format in FORMATS:
        return _check_images(path, format, _read_options(options, format), picture)
    allowed = {"cell_size_m", "nodata", "project"} if format == "elevation" else set()
    if unknown := set(options) - allowed:
        raise DataError(f"options {sorted(unknown)} are not known for format {format!r}")
    if format == "net":
        return programs.check(path)
    if format in TABLES:
        return TABLES[format](path)
    if format == "elevation":
        from models.data import elevation  # GDAL is for these files alone

        names = ("cell_size_m", "nodata", "project")
        return elevation.check(path, *map(options.get, names), picture)
    if format == "netcdf":
        from models.data import fields  # HDF5 is for these files alone

        return fields.check(path)
    others = ", ".join((*TABLES, "netcdf"))
    raise DataError(f"format {format!r}; use {', '.join(FORMATS)}, {others}, elevation or net")


def _read_options(options: Mapping[str, Any], format: str) -> ReadOptions:
    try:
        return ReadOptions(**options)
    except ValidationError as error:
        names = [".".join(map(str, line["loc"])) for line in error.errors()]
        raise DataError(f"options {names} are not known for format {format!r}") from error


def _check_images(
    path: Path, format: str, options: ReadOptions, picture: Path | None
) -> dict[str, Any]:
    if (actual := _format_of(recognise(path))) != format:
        raise DataError(f"the file is of format {actual}, not {format}")
    with open_images(path, options) as opened:
        contents, channels = opened.contents, set()
        shown, wanted = [], set(preview.chosen(opened.part(TRAIN).count))
        for name, part in opened.parts.items():
            for position, (_, image) in enumerate(part.pictures()):  # one at a time: may be large
                contents.sizes[image.shape[:2]] += 1
                channels.add(image.shape[2])
                if name == TRAIN and position in wanted:
                    shown.append(preview.square(image))
        if picture is not None:
            preview.write_images(picture, shown)
        return _counts(opened, channels) | {"contents": contents.answer() | _classes(opened)}


def _classes(opened: ImageSet) -> dict[str, Any]:
    """Images of the training part by class, of the first classes; nothing for photographs."""
    labels = opened.part(TRAIN).labels
    if not opened.labelled:
        return {}
    counts = np.bincount(labels, minlength=len(opened.classes)).tolist()
    named = zip(opened.classes, counts, strict=True)
    return {"classes": {name[:MOST_LETTERS]: n for name, n in islice(named, MOST_LINES)}}


def _counts(opened: ImageSet, channels: set[int]) -> dict[str, Any]:
    if not opened.labelled:
        return {"images": opened.part(TRAIN).count}
    if len(channels - {1}) > 1:
        raise DataError(f"the images differ in channels: {', '.join(map(str, sorted(channels)))}")
    counts = {name: part.count for name, part in opened.parts.items()}
    counts |= {"classes": len(opened.classes), "channels": max(channels)}
    if len(opened.contents.sizes) > 1:
        return counts | {"sizes": len(opened.contents.sizes)}
    ((height, width),) = opened.contents.sizes
    return counts | {"height": height, "width": width}


def _format_of(kind: str) -> str:
    """The format that users name, of what :func:`recognise` tells apart."""
    return {"parquet_archive": "parquet", "picture": "image_folder"}.get(kind, kind)


def recognise(path: Path) -> str:
    """Which reader a file of images needs, by its first bytes and the names inside.

    Raises:
        DataError: if it is none of ours; a pickle is not.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == PARQUET_MAGIC:
        return "parquet"
    if picture_kind(head) is not None:
        return "picture"
    if head[:4] != ZIP_MAGIC and not is_tar(path):
        raise DataError(
            f"the file begins with {head[:4]!r}: neither npz, zip, tar (uncompressed), parquet nor "
            "a picture (pickle is refused)"
        )
    with open_packed(path) as archive:
        names = [name for name in archive.names if not hidden(name)]
    endings = {ending(name) for name in names}
    if head[:4] != ZIP_MAGIC:
        return "image_folder"
    if endings == {".npy"}:
        return "npz"
    if ".parquet" in endings:
        return "parquet_archive"
    return "idx" if any(map(is_idx, names)) else "image_folder"
