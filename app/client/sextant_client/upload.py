"""Uploads of datasets; several files are packed into one zip on the way."""

import base64
import hashlib
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sextant_client.answers import DatasetRead
from sextant_client.errors import ApiError
from sextant_client.flow import Flow, Pause, Progress, Request, send
from sextant_client.packing import Member, format_of, members_of
from sextant_client.requests import DatasetOptions

CHUNK_BYTES = 1 << 20
POLL_S = 0.5


def upload(
    name: str,
    paths: Sequence[Path],
    content_format: str | None,
    options: DatasetOptions,
    on_progress: Progress | None,
) -> Flow[DatasetRead]:
    """Create, send, finalise, wait for the check."""
    members = members_of(paths)
    kind = content_format or format_of(members)
    alone = sum(member.path is not None for member in members) == 1
    chunks = _file_chunks if alone else zip_chunks
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


def _until_checked(path: str) -> Flow[DatasetRead]:
    while True:
        dataset: DatasetRead = (yield from send(Request("GET", path))).json()
        if dataset["status"] == "ready":
            return dataset
        if dataset["status"] == "failed":
            error = dataset["error"]
            reason = error["message"] if error else "no reason given"
            hint = f" ({error['hint']})" if error and error.get("hint") else ""
            title = f"dataset {dataset['name']} was refused: {reason}{hint}"
            raise ApiError.own("dataset_failed", title)
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


def _file_chunks(members: Sequence[Member]) -> Iterator[bytes]:
    """The bytes of the one file."""
    with next(member.path for member in members if member.path is not None).open("rb") as file:
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


def zip_chunks(members: Sequence[Member]) -> Iterator[bytes]:
    """The members as an uncompressed zip; the same bytes every time, dates included."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # ty: ignore[no-matching-overload]  # it writes, and asks for nothing else
        for name, path in members:
            entry = zipfile.ZipInfo(name)
            if path is None:
                archive.writestr(entry, b"")
                continue
            entry.file_size = path.stat().st_size  # tells zipfile where it needs ZIP64
            with archive.open(entry, "w") as member, path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield sink.take()
    yield sink.take()
