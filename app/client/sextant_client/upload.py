"""Uploads of datasets; several files are packed into one zip on the way."""

import base64
import hashlib
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sextant_client.errors import ApiError
from sextant_client.flow import Flow, Pause, Progress, Request, send

CHUNK_BYTES = 1 << 20
POLL_S = 0.5
FORMATS = {
    ".npz": "npz",
    ".zip": "image_folder",
    ".parquet": "parquet",
    ".tif": "elevation",
    ".tiff": "elevation",
    ".asc": "elevation",
    ".npy": "elevation",
    ".pt2": "net",
    ".safetensors": "net",
}


def upload(
    name: str,
    paths: Sequence[Path],
    content_format: str | None,
    options: dict[str, Any],
    on_progress: Progress | None,
) -> Flow[dict[str, Any]]:
    """Create, send, finalise, wait for the check."""
    members = _members(paths)
    kind = content_format or guess_format([path for _, path in members])
    chunks = _file_chunks if len(members) == 1 and paths[0].is_file() else zip_chunks
    sha256, size = hashlib.sha256(), 0
    for chunk in chunks(members):  # packing is cheap and repeatable, so the digest can go first
        sha256.update(chunk)
        size += len(chunk)
    body = {"name": name, "format": kind, "options": options}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    created = (yield from send(Request("POST", "/v1/datasets", json=body, headers=headers))).json()
    path = f"/v1/datasets/{created['id']}"
    encoded = base64.b64encode(sha256.digest()).decode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Repr-Digest": f"sha-256=:{encoded}:",
    }
    send_all = _counting(lambda: chunks(members), size, on_progress)
    yield from send(Request("PUT", f"{path}/content", headers=headers, body=send_all, read_s=120.0))
    yield from send(Request("POST", f"{path}/finalize", json={}))
    return (yield from _until_checked(path))


def _until_checked(path: str) -> Flow[dict[str, Any]]:
    while True:
        dataset = (yield from send(Request("GET", path))).json()
        if dataset["status"] == "ready":
            return dataset
        if dataset["status"] == "failed":
            reason = (dataset.get("error") or {}).get("message", "no reason given")
            raise ApiError.own("dataset_failed", f"dataset {dataset['name']} was refused: {reason}")
        yield Pause(POLL_S)


def _counting(
    chunks: Callable[[], Iterator[bytes]], size: int, on_progress: Progress | None
) -> Callable[[], Iterator[bytes]]:
    def counted() -> Iterator[bytes]:
        sent = 0
        for chunk in chunks():
            yield chunk
            sent += len(chunk)
            if on_progress is not None:
                on_progress(sent, size)

    return counted


def _members(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Names in the archive and their files, in a fixed order."""
    members = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file())
            members += [(_entry_name(file, path), file) for file in inside]
        else:
            members.append((_entry_name(path, path.parent), path))
    if not members:
        raise ValueError(f"no file in {', '.join(map(str, paths))}")
    return members


def _entry_name(file: Path, root: Path) -> str:
    """Name in the archive; the service tells parquet files apart by how their names begin."""
    name = file.relative_to(root).as_posix()
    if file.suffix == ".parquet" and not file.name.startswith(("train", "test")):
        part = "train" if "train" in file.stem else "test"
        name = f"{part}-{file.name}"
    return name


def _file_chunks(members: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    with members[0][1].open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class _Sink:
    """Takes what zipfile writes until it is sent on; cannot seek, so nothing is rewritten."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zip_chunks(members: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """The members as an uncompressed zip; the same bytes every time, dates included."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # ty: ignore[no-matching-overload]  # it writes, and asks for nothing else
        for name, path in members:
            entry = zipfile.ZipInfo(name)
            entry.file_size = path.stat().st_size  # tells zipfile where it needs ZIP64
            with archive.open(entry, "w") as member, path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield sink.take()
    yield sink.take()


def guess_format(files: Sequence[Path]) -> str:
    """Format by the ending of the files.

    Raises:
        ValueError: if the ending says nothing.
    """
    endings = {file.suffix.lower() for file in files}
    if endings <= {".png", ".jpg", ".jpeg"}:
        return "image_folder"
    known = {FORMATS.get(ending) for ending in endings}
    content_format = known.pop() if len(known) == 1 else None
    if content_format is None:
        raise ValueError(f"cannot tell the format from {sorted(endings)}; known: {sorted(FORMATS)}")
    return content_format
