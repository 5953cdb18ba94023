"""Zip or tar of an image folder: which picture belongs to which part and class, by its name."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from models.core.errors import DataError
from models.core.spec import ReadOptions
from models.data import sets
from models.data.archives import Archive
from models.data.contents import Contents, ending
from models.data.decode import NAMES_OF_FORMATS, decode
from models.data.labels import one_form
from models.data.parts import KEYWORDS, grouped, part_of
from models.data.sets import ImagePart, ImageSet, Picture, PictureFile

_READ = ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm"
# Pictures that are not read: left out in silence, their class would be smaller, or vanish.
_OTHER = (
    ".heic .heif .avif .jp2 .j2k .jxl .svg .psd .ico .tga .dng .cr2 .nef .arw .raw .exr .hdr .dcm"
)
SUFFIXES, OTHER_PICTURES = frozenset(_READ.split()), frozenset(_OTHER.split())
MAGICS: Mapping[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"II*\0": "tiff",
    b"MM\0*": "tiff",
}  # fmt: skip
BRANDS: Mapping[bytes, str] = {  # of the boxes that HEIF, AVIF and JPEG 2000 begin with
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), ".heic"),
    **dict.fromkeys((b"avif", b"avis"), ".avif"), b"jp2 ": ".jp2",
}  # fmt: skip
LAYOUT = "<class>/<picture>, or train|validation|test/<class>/<picture>"


class _Entry(NamedTuple):
    """A picture in the archive: its part, and its folders below that part."""

    name: str
    part: str | None
    folders: tuple[str, ...]


def open_folder(archive: Archive, options: ReadOptions) -> ImageSet:
    """Pictures of class folders, in parts or not; or photographs without class folders.

    The class is the first folder (below that of the part); further folders mean nothing.

    Raises:
        DataError: naming the entry at fault.
    """
    contents = Contents()
    pictures = _pictures(archive, contents)
    entries = _located(pictures, options)
    if not any(entry.folders for entry in entries) and not any(entry.part for entry in entries):
        names = [entry.name for entry in entries]
        return sets.photographs(
            ImagePart(len(names), sets.NO_LABELS, _ArchivePictures(archive, names, contents)),
            contents,
        )
    _check_classes(entries)
    return _labelled(archive, entries, contents)


class _ArchivePictures:
    """Decodes pictures of an archive by their position."""

    def __init__(self, archive: Archive, names: Sequence[str], contents: Contents) -> None:
        self._archive, self._names, self._noted = archive, names, contents.noted

    def __call__(self, positions: Sequence[int]) -> Iterator[Picture]:
        for name in (self._names[position] for position in positions):
            yield name, decode(self._archive.read(name), name, self._noted)

    def files(self, positions: Sequence[int]) -> Iterator[PictureFile]:
        """The pictures as they lie in the archive."""
        for name in (self._names[position] for position in positions):
            yield PictureFile(name, self._archive.place(name))


def picture_kind(head: bytes) -> str | None:
    """The format of a picture by its first 16 bytes; None if they are of no such file."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # two letters alone may begin any text
        return "bmp"
    return next((kind for magic, kind in MAGICS.items() if head.startswith(magic)), None)


def unread_kind(head: bytes) -> str | None:
    """The ending that a picture of a format which is not read should have, by its first bytes."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12])
    magics = {b"8BPS": ".psd", b"\xff\x0a": ".jxl", b"\0\0\0\x0cjP  ": ".jp2",
              b"\0\0\0\x0cJXL ": ".jxl"}  # fmt: skip
    return next((kind for magic, kind in magics.items() if head.startswith(magic)), None)


def _pictures(archive: Archive, contents: Contents) -> list[str]:
    """Names of the pictures, sorted; everything else is listed as left out.

    Raises:
        DataError: if there are pictures that cannot be read, counted by ending, or none at all.
    """
    taken, unread = [], Counter[str]()
    for name in sorted(contents.visible(archive.names)):
        kind = ending(name)
        head = b"" if kind in SUFFIXES | OTHER_PICTURES else _head(archive, name)
        if kind in SUFFIXES or picture_kind(head) is not None:
            taken.append(name)
            contents.taken[kind] += 1
        elif kind in OTHER_PICTURES or unread_kind(head):
            unread[unread_kind(head) or kind] += 1
        else:
            contents.left_out[f"*{kind}", "no picture"] += 1
    if unread:
        listed = ", ".join(f"{count} {kind}" for kind, count in unread.most_common())
        raise DataError(
            f"{sum(unread.values())} pictures cannot be read: {listed}",
            hint=f"convert them to {NAMES_OF_FORMATS}, or remove them",
        )
    if not taken:
        raise DataError(f"the archive holds no picture ({_READ})")
    return taken


def _head(archive: Archive, name: str) -> bytes:
    """The first bytes of a file of an unknown ending: it may be a picture nevertheless."""
    with archive.open(name) as stream:
        return stream.read(16)


def _located(names: Sequence[str], options: ReadOptions) -> list[_Entry]:
    """Part and folders of each picture."""
    folders = _unwrapped([PurePosixPath(name).parts[:-1] for name in names], options)
    parts = _parts_of(folders)
    if options.split == "hold_out":
        joined = all(parts) and all(len(each) > 1 for each in folders)
        return [
            _Entry(name, None, each[1:] if joined else each)
            for name, each in zip(names, folders, strict=True)
        ]
    grouped(names, parts)  # refuses pictures beside the parts
    return [
        _Entry(name, part, each if part is None else _below(each))
        for name, part, each in zip(names, parts, folders, strict=True)
    ]


def _unwrapped(folders: list[tuple[str, ...]], options: ReadOptions) -> list[tuple[str, ...]]:
    """Without the folders that hold everything, up to one that names a part."""
    while all(folders) and len(tops := {each[0] for each in folders}) == 1:
        if options.split == "named" and tops.pop().lower() in KEYWORDS:
            break
        folders = [each[1:] for each in folders]
    return folders


def _parts_of(folders: Sequence[tuple[str, ...]]) -> list[str | None]:
    """Parts by the first folder: ``train`` and its like, or words in it, as in ``seg_train``.

    A word within a longer name counts only beside another part: ``train_station`` is a class.
    """
    tops = {each[0] if each else "" for each in folders}
    by_word = {top: part_of(top) for top in tops}
    by_name = {top: KEYWORDS.get(top.lower()) for top in tops}
    several = len({part for part in by_word.values() if part}) > 1
    chosen = by_word if several else by_name
    return [chosen[each[0] if each else ""] for each in folders]


def _below(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Folders below that of a part, which some sets have twice (``train/train/<class>``)."""
    return folders[2:] if folders[1:2] == folders[:1] else folders[1:]


def _check_classes(entries: Sequence[_Entry]) -> None:
    for entry in entries:
        if not entry.folders:
            raise DataError(
                f"{entry.name}: lies in no class folder; expected {LAYOUT}",
                hint="put it into the folder of its class, or remove it",
            )


def _labelled(archive: Archive, entries: Sequence[_Entry], contents: Contents) -> ImageSet:
    entries = [entry._replace(folders=tuple(map(one_form, entry.folders))) for entry in entries]
    classes = sorted({entry.folders[0] for entry in entries})
    label = {name: index for index, name in enumerate(classes)}
    deeper = sum(len(entry.folders) > 1 for entry in entries)
    contents.label = f"the class is the first folder: {len(classes)} classes"
    if deeper:
        contents.label += f"; {deeper} pictures lie in folders below it, which mean nothing"
    brought: dict[str, list[_Entry]] = {}
    for entry in entries:
        brought.setdefault(entry.part or "", []).append(entry)
    read = {}
    for part, members in brought.items():
        labels = np.array([label[entry.folders[0]] for entry in members], dtype=np.int64)
        pictures = _ArchivePictures(archive, [entry.name for entry in members], contents)
        read[part] = ImagePart(len(members), labels, pictures, pictures.files)
    return sets.labelled(read, classes, contents)
