"""Downloads in several ranges at once, which go on where an earlier one was cut off."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import httpx

from sextant_client.answers import ArtifactRead
from sextant_client.errors import ApiError
from sextant_client.flow import (
    PAUSES_S,
    Flow,
    Open,
    Pause,
    Progress,
    Read,
    Request,
    Together,
    checked,
)

CHUNK_BYTES = 1 << 20
RANGE_MIN_BYTES = 8 << 20  # a smaller file comes in one piece
RANGES = 4


class FileFacts(TypedDict):
    """What is known of bytes before they are fetched."""

    name: str
    size_bytes: int
    sha256: str


@dataclass
class Piece:
    """A range of a file, kept in a file of its own until all are there."""

    path: Path
    start: int
    size: int

    @property
    def have(self) -> int:
        """Bytes there already, from this call or one that was cut off."""
        return self.path.stat().st_size if self.path.exists() else 0


def artifact(
    about: ArtifactRead, to: Path, on_progress: Progress | None, *, overwrite: bool
) -> Flow[Path]:
    """Fetch a file of a job, as :func:`download`."""
    source = f"/v1/artifacts/{about['id']}/content"
    return (yield from download(about, source, to, on_progress, overwrite=overwrite))


def download(
    about: FileFacts, source: str, to: Path, on_progress: Progress | None, *, overwrite: bool
) -> Flow[Path]:
    """Fetch what lies at the address ``source``; goes on where it was.

    Raises:
        ApiError: with code ``checksum`` if the bytes are not what the service promised; with
            those of :func:`is_there` where the file cannot be written.
        ValueError: if the name leads out of the folder ``to``.
    """
    target = within(to, about["name"]) if to.is_dir() else to
    size, sha256 = about["size_bytes"], about["sha256"]
    if is_there(about, target, overwrite=overwrite):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    pieces = cut(target, size, sha256)

    def report() -> None:
        if on_progress is not None:
            on_progress(sum(piece.have for piece in pieces), size)

    yield Together(tuple(_fetch(source, piece, report) for piece in pieces))
    _join(pieces, target, sha256)
    return target


def save(path: str, target: Path) -> Flow[Path]:
    """Fetch what is made while it is sent, in one piece; the file appears when it is whole.

    Raises:
        ApiError: if the service refuses it, or it breaks off.
    """
    part = target.with_name(f".{target.name}.part")
    checked((yield Open(Request("GET", path))))
    with part.open("wb") as file:
        while isinstance(data := (yield Read()), bytes):
            file.write(data)
    if data is not None:
        part.unlink()
        raise ApiError.own("unreachable", f"the download of {path} broke off: {data}")
    part.replace(target)
    return target


def within(folder: Path, name: str) -> Path:
    """Where an artifact of this name goes in a folder.

    Raises:
        ValueError: if that is outside of the folder.
    """
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the name {name!r} leads out of {folder}; not downloaded")
    return target


def is_there(about: FileFacts, target: Path, *, overwrite: bool) -> bool:
    """Whether a file has these bytes already; if not, it can be written.

    Raises:
        ApiError: with code ``not_writable`` if no file can be written there, ``exists`` if there
            is a file of other content and it may not be overwritten.
    """
    if target.is_dir():
        raise _not_writable(target, "a folder has this name; remove it or choose another folder")
    if not target.exists():
        _check_folder(target)
        return False
    same_size = target.stat().st_size == about["size_bytes"]
    if same_size and digest(target) == about["sha256"]:
        return True
    if not overwrite:
        title = f"{target} has other content; overwrite it by --force (Python: overwrite=True)"
        raise ApiError.own("exists", title)
    _check_folder(target)
    return False


def _check_folder(target: Path) -> None:
    """The nearest folder above that is there already must take a new file."""
    above = next(each for each in target.absolute().parents if os.path.lexists(each))
    if not above.is_dir():
        raise _not_writable(target, f"{above} is a file, not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _not_writable(target, f"no permission to write into {above}")


def _not_writable(target: Path, reason: str) -> ApiError:
    return ApiError.own("not_writable", f"{target} cannot be written: {reason}")


def cut(target: Path, size: int, sha256: str) -> list[Piece]:
    """Pieces of nearly equal size; the same ones for the same bytes, so that they are found."""
    count = max(1, min(RANGES, size // RANGE_MIN_BYTES))
    edges = [size * index // count for index in range(count + 1)]
    names = [f".{target.name}.{sha256[:12]}.{index + 1}of{count}" for index in range(count)]
    return [
        Piece(target.with_name(name), start, end - start)
        for name, (start, end) in zip(names, pairwise(edges), strict=True)
    ]


def _fetch(path: str, piece: Piece, report: Callable[[], None]) -> Flow[None]:
    failed_attempts = 0
    piece.path.touch()
    while (have := piece.have) < piece.size:
        span = f"bytes={piece.start + have}-{piece.start + piece.size - 1}"
        answer = yield Open(Request("GET", path, headers={"Range": span}))
        if isinstance(answer, httpx.Response) and answer.status_code < 500:
            _check_range(checked(answer))
            yield from _append(piece, report)
        failed_attempts = 0 if piece.have > have else failed_attempts + 1
        if failed_attempts > len(PAUSES_S):
            raise ApiError.own("unreachable", f"the download of {path} breaks off again and again")
        if failed_attempts:
            yield Pause(PAUSES_S[failed_attempts - 1])


def _append(piece: Piece, report: Callable[[], None]) -> Flow[None]:
    with piece.path.open("ab", buffering=0) as file:
        while isinstance(data := (yield Read()), bytes):
            file.write(data)
            report()


def _check_range(answer: httpx.Response) -> None:
    if answer.status_code != httpx.codes.PARTIAL_CONTENT:
        raise ApiError.own("no_ranges", "the service, or a proxy before it, does not serve ranges")


def _join(pieces: Sequence[Piece], target: Path, sha256: str) -> None:
    first, *others = pieces
    with first.path.open("r+b") as whole:
        whole.truncate(first.size)  # an earlier joining may have been cut off
        whole.seek(0, os.SEEK_END)
        for piece in others:
            with piece.path.open("rb") as part:
                shutil.copyfileobj(part, whole, CHUNK_BYTES)
            piece.path.unlink()
        whole.flush()
        os.fsync(whole.fileno())
    if (actual := digest(first.path)) != sha256:
        first.path.unlink()
        raise ApiError.own("checksum", f"{target.name} has SHA-256 {actual}, not {sha256}")
    first.path.replace(target)


def digest(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
