"""Which files an upload takes, their names in its zip, and its format by their endings."""

import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, NamedTuple

FORMATS = {
    ".npz": "npz",
    ".zip": "image_folder",
    ".tar": "image_folder",
    ".parquet": "parquet",
    ".asc": "elevation",
    ".npy": "elevation",
    ".nc": "netcdf",
    ".pt2": "net",
    ".safetensors": "net",
}
SINGLE = {"npz", "elevation", "net", "series", "marks", "regions", "netcdf"}  # formats of one file
TABLE = ".csv"  # one alone; beside pictures it means nothing
REGIONS = ".json"  # likewise
RASTERS = {".tif", ".tiff"}
PICTURES = {
    *RASTERS,
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".jp2"),
}
IDX = re.compile(r"[-._]idx\d[-._]ubyte(\.gz)?$", re.IGNORECASE)
PLACE = re.compile(r"\W*(x|y|lon|lat|easting|northing|longitude|latitude|id|name)\b", re.IGNORECASE)
SYSTEM_FILES = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("__macosx", "@eadir", "$recycle.bin"),
    *("thumbs.db:encryptable", "system volume information", "lost+found", "#recycle"),
}
# of TIFF: what a photograph has, and what a georeferenced raster has
BITS, SAMPLES, GEOREFERENCE = 258, 277, {33550, 33922, 34264, 34735}


class Member(NamedTuple):
    """A file to send: its name in the zip; without a path only the name is sent."""

    name: str
    path: Path | None


def members_of(paths: Sequence[Path]) -> list[Member]:
    """The files below some paths in a fixed order, named from the folder that holds all of them.

    Of hidden files and of those that operating systems leave only the names are sent, so that the
    service can list them as left out.

    Raises:
        ValueError: if there is no file.
    """
    root = _root(paths)
    members = sorted(
        {member for path in paths for member in _below(path, root)}, key=lambda member: member.name
    )
    if not any(member.path for member in members):
        raise ValueError(f"no file in {', '.join(map(str, paths))}")
    return members


def _root(paths: Sequence[Path]) -> Path:
    if len(paths) == 1:
        return paths[0].absolute() if paths[0].is_dir() else paths[0].absolute().parent
    root = Path(os.path.commonpath([path.absolute() for path in paths]))
    return root if root.is_dir() else root.parent


def _below(path: Path, root: Path, above: frozenset[Path] = frozenset()) -> Iterator[Member]:
    """A file, or all in a folder; of hidden folders the name alone.

    A link to a folder that it lies in, one of ``above``, is left out: it would repeat every file.
    """
    path = path.absolute()
    if path != root and _is_hidden(path.name):
        yield Member(path.relative_to(root).as_posix(), None)
    elif path.is_dir():
        if (folder := path.resolve()) in above:
            return
        for inside in path.iterdir():
            yield from _below(inside, root, above | {folder})
    elif path.is_file():
        yield Member(path.relative_to(root).as_posix(), path)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_FILES


def format_of(members: Sequence[Member]) -> str:
    """Format of an upload by the endings of its files; a lone zip or TIFF is looked into.

    Raises:
        ValueError: if the endings do not tell.
    """
    files = [member.path for member in members if member.path is not None]
    if len(files) == 1 and files[0].suffix.lower() in RASTERS:
        return "image_folder" if is_photograph(files[0]) else "elevation"
    if len(files) == 1 and files[0].suffix.lower() == TABLE:
        return "marks" if _names_places(files[0]) else "series"
    if len(files) == 1 and files[0].suffix.lower() == ".zip" and zipfile.is_zipfile(files[0]):
        with zipfile.ZipFile(files[0]) as archive:
            inside = [PurePosixPath(name) for name in archive.namelist() if name[-1:] != "/"]
        return guess_format([name for name in inside if not any(map(_is_hidden, name.parts))])
    return guess_format(files)


def guess_format(files: Sequence[PurePath]) -> str:
    """Format by the endings of visible files; several TIFF files are pictures.

    Raises:
        ValueError: if the endings say nothing, or more than one thing.
    """
    endings = {file.suffix.lower() for file in files}
    if len(files) == 1 and endings <= RASTERS:
        return "elevation"
    if len(files) == 1 and endings == {REGIONS}:
        return "regions"
    known = {FORMATS[ending] for ending in endings & FORMATS.keys()}
    known |= {"idx"} if any(IDX.search(file.name) for file in files) else set()
    known |= {"image_folder"} if endings & PICTURES else set()
    if len(known) != 1 or (len(files) > 1 and known <= SINGLE):
        readable = sorted({*FORMATS, *PICTURES, TABLE, REGIONS})
        raise ValueError(
            f"cannot tell the format from {sorted(endings)}; known: {readable} and MNIST's "
            "idx-ubyte; or name it by --format"
        )
    return known.pop()


def _names_places(path: Path) -> bool:
    """Whether the first column of a table is a coordinate, not a time."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return PLACE.match(file.readline(1000)) is not None


def is_photograph(path: Path) -> bool:
    """Whether a TIFF file holds colours, or 8-bit grey without a georeference."""
    with path.open("rb") as file:
        tags = _tiff_tags(file)
    if tags.get(SAMPLES, 1) >= 3:
        return True
    return tags.get(BITS) == 8 and not tags.keys() & GEOREFERENCE


def _tiff_tags(file: BinaryIO) -> dict[int, int]:
    """Tags of the first picture and their values (an offset where they do not fit)."""
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None:
        return {}
    try:
        file.seek(struct.unpack(f"{order}I", head[4:])[0])
        (count,) = struct.unpack(f"{order}H", file.read(2))
        entries = struct.iter_unpack(f"{order}HHI4s", file.read(12 * count))
        return {tag: _value(order, kind, raw) for tag, kind, _, raw in entries}
    except struct.error:  # cut short: the service will say so
        return {}


def _value(order: str, kind: int, raw: bytes) -> int:
    short = kind == 3  # SHORT of TIFF 6.0; LONG and offsets otherwise
    return struct.unpack_from(f"{order}{'H' if short else 'I'}", raw)[0]
