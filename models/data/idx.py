"""IDX files, as MNIST has them: one array of unsigned bytes each, gzipped or not."""

import gzip
import io
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from models.core.errors import DataError
from models.core.spec import ReadOptions
from models.data import sets
from models.data.archives import Archive
from models.data.contents import Contents
from models.data.decode import check_size
from models.data.labels import checked_labels, class_names
from models.data.parts import grouped, part_of
from models.data.sets import ImageSet
from models.data.stacks import check_bytes

GZIP_MAGIC, UNSIGNED_BYTES = b"\x1f\x8b", b"\0\0\x08"
NAME = re.compile(r"(images|labels)[-._]idx\d[-._]ubyte(\.gz)?$", re.IGNORECASE)
EXPECTED = "train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz), and the same of t10k"


def is_idx(name: str) -> bool:
    """Whether a file is named like those of MNIST."""
    return NAME.search(PurePosixPath(name).name) is not None


def read_idx(stream: io.BufferedReader, name: str) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file, gzipped or not.

    Args:
        stream: of the file.
        name: names the file in errors.

    Raises:
        DataError: if it is damaged, of other values than bytes, or too large.
    """
    packed = stream.peek(2)[:2] == GZIP_MAGIC
    try:
        return _array(gzip.GzipFile(fileobj=stream) if packed else stream, name)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: damaged: {error}") from error


def _array(stream: io.BufferedIOBase, name: str) -> UInt8[np.ndarray, "..."]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != UNSIGNED_BYTES:
        raise DataError(f"{name}: no IDX file of unsigned bytes")
    shape = [int.from_bytes(stream.read(4), "big") for _ in range(magic[3])]
    size = math.prod(shape)
    check_bytes(size, name)
    content = stream.read(size + 1)  # no more than the header promises, however far it inflates
    if len(content) != size:
        more = "more" if len(content) > size else len(content)
        raise DataError(f"{name}: {more} bytes for the shape {shape}, which takes {size}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def open_idx(archive: Archive, options: ReadOptions) -> ImageSet:
    """Images and labels of each part, by the names of the files.

    Raises:
        DataError: naming the file at fault or missing.
    """
    contents = Contents()
    names = _unique(contents.visible(archive.names), contents)
    parts = [None if options.split == "hold_out" else part_of(name) for name in names]
    pairs = {part: _pair(members) for part, members in grouped(names, parts).items()}
    arrays = {
        part: (_read(archive, pair["images"]), _read(archive, pair["labels"]), pair["labels"])
        for part, pair in pairs.items()
    }
    brought = {}
    for part, (images, labels, name) in arrays.items():
        pixels = _pixels(images, pairs[part]["images"])
        checked = checked_labels(labels, len(pixels), name)
        brought[part] = sets.of_array(pixels, checked, pairs[part]["images"])
    contents.taken.update(names)
    contents.label = "the labels files; classes are numbers"
    highest = int(max(part.labels.max() for part in brought.values()))
    return sets.labelled(brought, class_names(None, highest, "labels"), contents)


def _unique(names: list[str], contents: Contents) -> list[str]:
    """One file of each content: where one is there packed and unpacked, the unpacked one."""
    chosen: dict[str, str] = {}
    for name in sorted(names):  # the unpacked name comes first
        plain = re.sub(r"[-._]", "-", PurePosixPath(name).name.removesuffix(".gz"))
        if not is_idx(name):
            contents.left_out[PurePosixPath(name).name, "no IDX file of images or labels"] += 1
        elif plain in chosen:
            contents.left_out[PurePosixPath(name).name, f"the same as {chosen[plain]}"] += 1
        else:
            chosen[plain] = name
    return list(chosen.values())


def _pair(names: list[str]) -> Mapping[str, str]:
    """The images and the labels file of a part.

    Raises:
        DataError: if one is missing or there are several.
    """
    pair = {match[1].lower(): name for name in names if (match := NAME.search(name))}
    if len(pair) != 2 or len(names) != 2:
        raise DataError(
            f"{', '.join(names)}: expected one file of images and one of labels", hint=EXPECTED
        )
    return pair


def _read(archive: Archive, name: str) -> UInt8[np.ndarray, "..."]:
    with archive.open(name) as stream:
        return read_idx(stream, name)


def _pixels(values: UInt8[np.ndarray, "..."], name: str) -> UInt8[np.ndarray, "n h w c"]:
    pixels = values[..., None] if values.ndim == 3 else values
    if pixels.ndim != 4:
        raise DataError(f"{name}: shape {values.shape}; images are [n, h, w] or [n, h, w, c]")
    check_size(*pixels.shape[1:], name)
    return pixels
