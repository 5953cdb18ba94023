"""Zip files from strangers: names and kinds checked first, real bytes counted while inflating."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from models.core.errors import DataError

ENTRIES = int(os.environ.get("SEXTANT_ARCHIVE_ENTRIES", "100000"))
TOTAL_BYTES = int(os.environ.get("SEXTANT_ARCHIVE_BYTES", str(20 * 2**30)))
RATIO = 100
RATIO_FLOOR_BYTES = 2**20  # below this size an entry may be as regular as it likes
CHUNK_BYTES = 2**20
ENCRYPTED = 0x1
LOCAL_HEADER_BYTES, LENGTHS_AT = 30, 26  # of a zip's entry; name and extra field follow


class Place(NamedTuple):
    """Where an entry lies in the file of its archive.

    Attributes:
        offset: of its first byte.
        length: its bytes there.
        size: its bytes once inflated.
        crc32: of those, where the archive tells.
        deflated: whether they have to be inflated.
    """

    offset: int
    length: int
    size: int
    crc32: int | None = None
    deflated: bool = False


class Archive:
    """An open zip whose names have been checked.

    Attributes:
        names: the files in it, folders left out, in the archive's order.
    """

    names: list[str]

    def __init__(self, opened: zipfile.ZipFile, path: Path) -> None:
        self._zip, self._path, self._read_bytes = opened, path, 0
        self._size_bytes = path.stat().st_size
        entries = opened.infolist()
        if len(entries) > ENTRIES:
            raise DataError(
                f"the archive has {len(entries)} entries; the limit is {ENTRIES}",
                hint="pack the pictures as an uncompressed tar; or whoever runs the worker raises"
                " SEXTANT_WORKER_ARCHIVE_ENTRIES",
            )
        self._entries = {entry.filename: entry for entry in map(_checked, entries)}
        if len(self._entries) < len(entries):
            raise DataError("the archive holds two entries of one name")
        self.names = [name for name, entry in self._entries.items() if not entry.is_dir()]

    @contextmanager
    def open(self, name: str) -> Generator[io.BufferedReader, None, None]:
        """The bytes of an entry, inflated as they are read and counted against the limits.

        Raises:
            DataError: while reading, if the entry is damaged or the limits are passed.
        """
        entry = self._entries[name]
        try:
            with self._zip.open(entry) as stream:
                yield io.BufferedReader(_Counted(self, entry, stream.read), CHUNK_BYTES)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DataError(f"{name}: damaged, or packed in an unknown way: {error}") from error

    def room_bytes(self, name: str) -> int:
        """How many bytes an entry can inflate to, as promised and within the limits."""
        entry = self._entries[name]
        packed = min(entry.compress_size, self._size_bytes)
        return min(entry.file_size, max(RATIO * packed, RATIO_FLOOR_BYTES), TOTAL_BYTES)

    def read(self, name: str) -> bytes:
        """All bytes of an entry, as :meth:`open`."""
        with self.open(name) as stream:
            return stream.read()

    def place(self, name: str) -> Place:
        """Where an entry lies, so that it can be read without the archive's list.

        Raises:
            DataError: if it is packed in another way than stored or deflated, or damaged.
        """
        entry = self._entries[name]
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{name}: packed in a way that is not read by place: store or deflate")
        with self._path.open("rb") as file:
            file.seek(entry.header_offset)
            header = file.read(LOCAL_HEADER_BYTES)
        if len(header) < LOCAL_HEADER_BYTES:
            raise DataError(f"{name}: damaged")
        offset = entry.header_offset + LOCAL_HEADER_BYTES
        offset += sum(struct.unpack_from("<HH", header, LENGTHS_AT))
        deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        size = self.room_bytes(name)
        return Place(offset, entry.compress_size, size, entry.CRC, deflated)

    def count(self, entry: zipfile.ZipInfo, entry_bytes: int, new_bytes: int) -> None:
        """Take note of inflated bytes.

        Raises:
            DataError: if there are too many of them, here or in all.
        """
        self._read_bytes += new_bytes
        if self._read_bytes > TOTAL_BYTES:
            raise DataError(
                f"{entry.filename}: the archive inflates to more than {TOTAL_BYTES} bytes",
                hint="pack pictures as an uncompressed tar; or whoever runs the worker raises"
                " SEXTANT_WORKER_ARCHIVE_BYTES",
            )
        for inflated, packed, what in (
            (entry_bytes, entry.compress_size, entry.filename),
            (self._read_bytes, self._size_bytes, "the archive"),
        ):
            if inflated > max(RATIO * packed, RATIO_FLOOR_BYTES):
                raise DataError(
                    f"{entry.filename}: {what} inflates to more than {RATIO} times its packed size"
                )


class _Counted(io.RawIOBase):
    """A stream that tells its archive how much was read."""

    def __init__(
        self, archive: Archive, entry: zipfile.ZipInfo, read: Callable[[int], bytes]
    ) -> None:
        self._archive, self._entry, self._read, self._bytes = archive, entry, read, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # ty: ignore[incompatible-method-override]
        chunk = self._read(len(buffer))
        self._bytes += len(chunk)
        self._archive.count(self._entry, self._bytes, len(chunk))
        buffer[: len(chunk)] = chunk
        return len(chunk)


@contextmanager
def open_archive(path: Path) -> Generator[Archive, None, None]:
    """A zip file; nothing in it is inflated yet.

    Raises:
        DataError: if it is damaged, holds too many entries, or one with a link, a device, an
            absolute name, ``..`` or a password.
    """
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"the archive is damaged: {error}") from error
    with opened:
        yield Archive(opened, path)


def check_name(name: str) -> None:
    """Refuse the name of an entry that could lead out of a folder.

    Raises:
        DataError: naming it.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or ":" in parts[0]:
        raise DataError(f"{name}: absolute names, backslashes and '..' are refused")


def _checked(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    name = entry.filename
    check_name(name)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{name}: links and devices are refused; pack the files themselves")
    if entry.flag_bits & ENCRYPTED:
        raise DataError(f"{name}: encrypted; pack without a password")
    return entry
