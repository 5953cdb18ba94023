"""Where each encoded picture of a set lies: listed once a set, mapped from the disk, verified.

A folder a set: ``<part>.npy`` (a row a picture, ``ROW``), ``<part>.names`` (a line a picture),
``pictures.bin`` (pictures that do not lie in the file of the set as they are, such as rows of
parquet), ``manifest.json`` (classes, counts, SHA-256 of the lists).
"""

import hashlib
import json
import os
import shutil
import time
import weakref
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import uuid4

import numpy as np
from filelock import FileLock

from models.core.errors import DataError
from models.core.json_text import parse_json
from models.core.run import Run
from models.core.spec import ReadOptions
from models.data.archives import Place
from models.data.sets import ImagePart, ImageSet, PictureFile

FORMAT = 1
FOLDER_VARIABLE = "SEXTANT_INDEX_DIR"
ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u4"),  # bytes in the shard
        ("size", "<u4"),  # bytes once inflated
        ("crc32", "<u4"),  # of those
        ("label", "<i4"),
        ("shard", "u1"),  # 0: the file of the set; 1: pictures.bin
        ("deflated", "?"),
    ]
)
INPUT, UNPACKED = 0, 1
PICTURES, MANIFEST = "pictures.bin", "manifest.json"
LARGEST_BYTES = 2**32 - 1  # of a picture
KEPT_BYTES = 64 * 2**30  # of all lists and unpacked pictures; older ones go
IN_USE_S = 86_400.0  # a list that was opened within this time stays


class Index(NamedTuple):
    """The lists of a set.

    Attributes:
        folder: where they lie.
        digest: SHA-256 of the manifest, in hex: the set, its parts and their order.
        classes: names by label.
        counts: pictures by part.
    """

    folder: Path
    digest: str
    classes: list[str]
    counts: dict[str, int]

    def rows(self, part: str) -> np.ndarray:
        """The rows of a part, of dtype ``ROW``, mapped from the disk."""
        return np.load(self.folder / f"{part}.npy", mmap_mode="r", allow_pickle=False)


def cache_of(run: Run) -> Path:
    """Where lists are kept from run to run: as the worker says, else in the run's folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or run.dir / "index")


def index_of(
    opened: ImageSet, path: Path, options: ReadOptions | None, sha256: str, cache: Path
) -> Index:
    """The lists of an open set; made if they are not there or damaged.

    Args:
        opened: all its parts are encoded.
        path: of its file.
        options: of its import.
        sha256: of its file.
        cache: folder of all lists.

    Raises:
        DataError: naming a picture that is damaged or too large.
    """
    asked = json.dumps([FORMAT, sha256, (options or ReadOptions()).model_dump()], sort_keys=True)
    folder = cache / hashlib.sha256(asked.encode()).hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{folder.name}.lock"):
        if (index := _read(folder)) is None:
            _make(opened, path, folder)
            index = _read(folder)
    if index is None:
        raise DataError(f"the lists of the pictures of {path.name} cannot be read back")
    _evict(cache)
    return index


def _read(folder: Path) -> Index | None:
    """What a manifest says, if it and the lists that it names are whole."""
    try:
        text = (folder / MANIFEST).read_bytes()
        about = parse_json(text, MANIFEST)
        for part, digest in about["sha256"].items():
            with (folder / f"{part}.npy").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return None
        (folder / MANIFEST).touch()
        digest = hashlib.sha256(text).hexdigest()
        return Index(folder, digest, about["classes"], about["counts"])
    except (OSError, KeyError, DataError):
        return None


def _make(opened: ImageSet, path: Path, folder: Path) -> None:
    """Write the lists beside their place, then move them there: they are whole or absent.

    Under the lock of the folder: what lies beside it was left by a killed process.
    """
    for left in (folder, *folder.parent.glob(f"{folder.name}.*.part")):
        shutil.rmtree(left, ignore_errors=True)
    beside = folder.with_name(f"{folder.name}.{uuid4().hex}.part")
    beside.mkdir(mode=0o700)
    try:
        with path.open("rb") as source, (beside / PICTURES).open("wb") as unpacked:
            for name, part in opened.parts.items():
                _list_part(part, beside / name, source, unpacked)
        about: dict[str, Any] = {"format": FORMAT, "classes": opened.classes}
        about["counts"] = {name: part.count for name, part in opened.parts.items()}
        about["sha256"] = {name: _sha256(beside / f"{name}.npy") for name in opened.parts}
        (beside / MANIFEST).write_text(json.dumps(about))
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _list_part(part: ImagePart, stem: Path, source: IO[bytes], unpacked: IO[bytes]) -> None:
    target = stem.with_name(f"{stem.name}.npy")
    if part.count == 0 or part.files is None:
        np.save(target, np.empty(0, ROW), allow_pickle=False)
        return
    rows = np.lib.format.open_memmap(target, mode="w+", dtype=ROW, shape=(part.count,))
    with stem.with_name(f"{stem.name}.names").open("wb") as names:
        for position, file in enumerate(part.files(range(part.count))):
            rows[position] = _row(file, int(part.labels[position]), source, unpacked)
            names.write(file.name.encode("unicode_escape") + b"\n")
    rows.flush()


def _row(file: PictureFile, label: int, source: IO[bytes], unpacked: IO[bytes]) -> tuple:
    """The row of a picture; one without a place is written to ``unpacked`` first."""
    shard, at = INPUT, file.at
    if isinstance(at, bytes):
        shard, content = UNPACKED, at
        at = Place(unpacked.tell(), len(content), len(content), zlib.crc32(content))
        unpacked.write(content)
    if max(at.length, at.size) > LARGEST_BYTES:
        raise DataError(f"{file.name}: more than {LARGEST_BYTES} bytes")
    crc32 = at.crc32
    if crc32 is None:
        source.seek(at.offset)
        content = source.read(at.length)
        if len(content) < at.length:
            raise DataError(f"{file.name}: cut short")
        crc32 = zlib.crc32(content)
    return at.offset, at.length, at.size, crc32, label, shard, at.deflated


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _evict(cache: Path) -> None:
    """Remove the lists that were not opened for longest, until the others fit the limit."""
    folders = []
    for manifest in cache.glob(f"*/{MANIFEST}"):
        size = sum(path.stat().st_size for path in manifest.parent.iterdir())
        folders.append((manifest.stat().st_mtime, size, manifest.parent))
    total = sum(size for _, size, _ in folders)
    for opened_at, size, folder in sorted(folders):
        if total <= KEPT_BYTES or time.time() - opened_at < IN_USE_S:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


class PictureReader:
    """Reads and verifies the encoded pictures of a part by their position; may be pickled.

    Args:
        path: of the file of the set.
        folder: of its lists.
        part: name of the part.
    """

    def __init__(self, path: Path, folder: Path, part: str) -> None:
        self._paths = (path, folder / PICTURES)
        self._folder, self._part = folder, part
        self._open: tuple[np.ndarray, list[int]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureReader, (self._paths[0], self._folder, self._part)

    def read(self, position: int) -> bytes:
        """The bytes of a picture.

        Raises:
            DataError: naming the picture, if its bytes are not those that were listed.
        """
        rows, files = self._open or self._opened()
        row = rows[position]
        content = os.pread(files[row["shard"]], int(row["length"]), int(row["offset"]))
        if row["deflated"]:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, int(row["size"]))
            except zlib.error:
                content = b""
        if len(content) != row["size"] or zlib.crc32(content) != row["crc32"]:
            raise DataError(
                f"{self.name(position)}: its bytes are not those that were listed (CRC-32)",
                hint="the stored file is damaged: upload the dataset again",
            )
        return content

    def name(self, position: int) -> str:
        """Name of a picture in the file of the set."""
        with (self._folder / f"{self._part}.names").open("rb") as lines:
            for _ in range(position):
                next(lines)
            return next(lines).rstrip(b"\n").decode("unicode_escape")

    def _opened(self) -> tuple[np.ndarray, list[int]]:
        rows = np.load(self._folder / f"{self._part}.npy", mmap_mode="r", allow_pickle=False)
        files = [os.open(path, os.O_RDONLY) for path in self._paths]
        for file in files:
            weakref.finalize(self, os.close, file)
        self._open = (rows, files)
        return self._open
