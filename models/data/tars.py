"""Uncompressed tar files from strangers: what a large set of pictures is best packed as.

Nothing is inflated, so there is no bound on all bytes; a picture is read by its place alone.
"""

import io
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from models.core.errors import DataError
from models.data.archives import Archive, Place, check_name, open_archive

ENTRIES = 10_000_000
MAGIC, MAGIC_AT = b"ustar", 257


def is_tar(path: Path) -> bool:
    """Whether a file begins with the header of a tar (POSIX or GNU)."""
    with path.open("rb") as file:
        return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC


@contextmanager
def open_packed(path: Path) -> Generator[Archive, None, None]:
    """A zip, or an uncompressed tar; nothing in it is read yet but names.

    Raises:
        DataError: as :func:`models.data.archives.open_archive`.
    """
    if is_tar(path):
        yield Tar(path)
        return
    with open_archive(path) as archive:
        yield archive


class Tar(Archive):
    """An open tar whose names have been checked; ``names`` as of a zip."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = _places(path)
        self.names = list(self._places)

    @contextmanager
    def open(self, name: str) -> Generator[io.BufferedReader, None, None]:
        """The bytes of an entry."""
        yield io.BufferedReader(io.BytesIO(self.read(name)))

    def room_bytes(self, name: str) -> int:
        """How many bytes an entry has."""
        return self._places[name].size

    def read(self, name: str) -> bytes:
        """All bytes of an entry.

        Raises:
            DataError: if the file is cut short.
        """
        at = self._places[name]
        with self._path.open("rb") as file:
            file.seek(at.offset)
            content = file.read(at.length)
        if len(content) < at.length:
            raise DataError(f"{name}: cut short")
        return content

    def place(self, name: str) -> Place:
        """Where an entry lies; a tar has no checksum of its contents."""
        return self._places[name]


def _places(path: Path) -> dict[str, Place]:
    """The files of a tar by name, in its order.

    Raises:
        DataError: if it is damaged, or holds too many entries, two of one name, or a link.
    """
    places: dict[str, Place] = {}
    try:
        with tarfile.open(path, "r:") as opened:
            while entry := opened.next():
                vars(opened)["members"] = []  # else all headers stay in memory
                if entry.isdir():
                    continue
                name = _checked(entry)
                if name in places:
                    raise DataError(f"{name}: the archive holds two entries of this name")
                if len(places) == ENTRIES:
                    raise DataError(f"the archive has more than {ENTRIES} entries, the limit")
                places[name] = Place(entry.offset_data, entry.size, entry.size)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the archive is damaged: {error}") from error
    return places


def _checked(entry: tarfile.TarInfo) -> str:
    name = entry.name.removeprefix("./")
    check_name(name)
    if not entry.isreg() or entry.issparse():
        raise DataError(f"{name}: links, devices and sparse files are refused; pack whole files")
    return name
