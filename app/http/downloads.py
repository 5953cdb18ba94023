"""Bytes of the store as an HTTP answer: ranges, conditions, digests (RFC 9110, RFC 9530).

One way for local files and objects in S3. The bytes are read in chunks of 1 MiB only as fast as
the client takes them, so the memory stays flat.
"""

import base64
import re
import secrets
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import HTTPException
from fastapi.responses import Response, StreamingResponse

from app import storage
from app.db.tables import Artifact
from app.errors import NotFoundError
from app.settings import get_settings

MAX_RANGES = 100
RANGE = re.compile(r"(\d{0,18})-(\d{0,18})")
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
TEXT = {"schema": {"type": "string"}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "All bytes", "content": BYTES},
    206: {"description": "The ranges that were asked for", "content": BYTES},
    304: {"description": "The client has these bytes"},
    307: {"description": "The bucket has them, at an address that holds for some seconds"},
}


class Content(NamedTuple):
    """Bytes of the store that are no artifact: what is needed to send them."""

    storage_key: str
    sha256: str | None
    name: str
    media_type: str


def redirect_or_send(request: Request, row: Artifact | Content) -> Response:
    """The address of a ready artifact in the bucket where that is set up, else its bytes.

    With ``If-Range`` it is always the bytes: the bucket does not know our tags.

    Raises:
        HTTPException, NotFoundError: as :func:`send_artifact`.
    """
    seconds = get_settings().store_redirect_s
    plain = {"if-none-match", "if-range"}.isdisjoint(request.headers)
    address = storage.signed_address(row.storage_key, seconds) if seconds and plain else None
    if address is None:
        return send_artifact(request, row)
    headers = {"Location": address, "Cache-Control": "no-store", **_digests(row)}
    return Response(status_code=307, headers=headers)


def _digests(row: Artifact | Content) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(row.sha256 or "")).decode()
    return {"ETag": f'"{row.sha256}"', "Repr-Digest": f"sha-256=:{digest}:"}


def send_artifact(request: Request, row: Artifact | Content) -> Response:
    """The bytes of a ready artifact, as an attachment.

    Raises:
        HTTPException: 416 for a range outside of it.
        NotFoundError: if the bytes are gone.
    """
    filename = PurePosixPath(row.name).name
    headers = {
        **_digests(row),
        "Content-Disposition": f'attachment; filename="{filename}"',
        "Cache-Control": "private, no-cache",
    }
    if _matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    try:
        info = storage.head(row.storage_key)
    except FileNotFoundError as error:
        raise NotFoundError(f"the bytes of {row.name} are gone") from error
    return send_object(request, info, row.media_type, headers)


def _matches(header: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names the tag, compared weakly (RFC 9110, 13.1.2)."""
    tags = {tag.strip().removeprefix("W/") for tag in (header or "").split(",")}
    return bool({"*", etag} & tags)


def send_object(
    request: Request, info: storage.Info, media_type: str, headers: dict[str, str]
) -> Response:
    """An object of the store, whole or in the ranges that the request names.

    Raises:
        HTTPException: 416 if no range lies inside.
    """
    size = info.size_bytes
    headers = {**SAFE, "Accept-Ranges": "bytes", **headers}
    ranges = None
    if request.headers.get("if-range", headers.get("ETag")) == headers.get("ETag"):
        ranges = parse_ranges(request.headers.get("range"), size)
    if ranges is None:
        return _stream(storage.open(info.key, 0, size), 200, media_type, headers, size)
    if len(ranges) > 1:
        return _multipart(info, ranges, media_type, headers)
    start, end = ranges[0]
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return _stream(storage.open(info.key, start, end), 206, media_type, headers, end - start)


def send_rest(info: storage.Info, start: int, media_type: str) -> Response:
    """What lies behind ``start``, as an answer of its own."""
    chunks = storage.open(info.key, start, info.size_bytes)
    return _stream(chunks, 200, media_type, SAFE, info.size_bytes - start)


def _stream(
    chunks: Iterator[bytes], status: int, media_type: str, headers: dict[str, str], size: int
) -> Response:
    headers = {**headers, "Content-Length": str(size), "Content-Type": media_type}
    return StreamingResponse(chunks, status, headers)


def _multipart(
    info: storage.Info, ranges: list[tuple[int, int]], media_type: str, headers: dict[str, str]
) -> Response:
    """Several ranges as multipart/byteranges (RFC 9110, 14.6)."""
    boundary, size = secrets.token_hex(16), info.size_bytes
    heads = [
        f"--{boundary}\r\nContent-Type: {media_type}\r\n"
        f"Content-Range: bytes {start}-{end - 1}/{size}\r\n\r\n".encode()
        for start, end in ranges
    ]
    tail = f"--{boundary}--\r\n".encode()
    length = sum(
        len(head) + end - start + 2 for head, (start, end) in zip(heads, ranges, strict=True)
    )

    def chunks() -> Iterator[bytes]:
        for head, (start, end) in zip(heads, ranges, strict=True):
            yield head
            yield from storage.open(info.key, start, end)
            yield b"\r\n"
        yield tail

    kind = f"multipart/byteranges; boundary={boundary}"
    return _stream(chunks(), 206, kind, headers, length + len(tail))


def parse_ranges(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """Ranges ``[start, end)`` of a ``Range`` header, joined where they touch.

    Returns:
        None where the header is to be ignored: absent, of another unit, malformed, or with so
        many ranges that only harm can be meant.

    Raises:
        HTTPException: 416 if none of them lies within ``size`` bytes.
    """
    unit, _, listed = (header or "").partition("=")
    parts = [RANGE.fullmatch(part.strip()) for part in listed.split(",")]
    if unit.strip().lower() != "bytes" or len(parts) > MAX_RANGES:
        return None
    ranges: list[tuple[int, int]] = []
    for part in parts:
        if part is None or not any(part.groups()):
            return None
        first, last = part.groups()
        if first and last and int(last) < int(first):
            return None
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start < end:
            ranges.append((start, end))
    if not ranges:
        headers = {"Content-Range": f"bytes */{size}"}
        raise HTTPException(416, f"the content has {size} bytes", headers)
    return _joined(sorted(ranges))


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined = ranges[:1]
    for start, end in ranges[1:]:
        before, reached = joined[-1]
        if start <= reached:
            joined[-1] = (before, max(reached, end))
        else:
            joined.append((start, end))
    return joined
