"""Bytes of artifacts and datasets: a local folder or an S3 bucket, over obstore.

A key is a relative path such as ``t/{tenant}/j/{job}/r{run}/{name}``. A write is atomic: readers
see the whole object or none. What the operating system refuses arrives as ``OSError`` with its
``errno`` (a full disk as ``ENOSPC``), a store that cannot be reached as ``StoreAwayError``.
"""

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from app.errors import UnavailableError
from app.settings import get_settings
from app.texts import without_paths

if TYPE_CHECKING:  # stubs only, not there at run time
    from obstore import OffsetRange
    from obstore.store import ClientConfig, RetryConfig

CHUNK_BYTES = 2**20
RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
PART_BYTES = 5 * 2**20  # smallest part of a multipart upload to S3
UNFINISHED = re.compile(r"[^#]+#\d+")  # how obstore names a local object before it is whole
KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


class StoreAwayError(UnavailableError, OSError):
    """The store cannot be reached: for the API a 503, for a worker an error of input and output."""


class Stored(NamedTuple):
    """What a write put into the store, counted and digested while it was sent."""

    size_bytes: int
    sha256: str


class Info(NamedTuple):
    """Key, size and time of an object."""

    key: str
    size_bytes: int
    modified_at: datetime


def get_store() -> LocalStore | S3Store:
    """The store that the settings name, made once a process."""
    settings = get_settings()
    return _make_store(settings.store, settings.store_endpoint)


@cache
def _make_store(url: str, endpoint: str) -> LocalStore | S3Store:
    if url.startswith("file://"):
        return LocalStore(_root(url), automatic_cleanup=True, mkdir=True)
    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    allow_http = endpoint.startswith("http://")
    clients: ClientConfig = {"allow_http": allow_http}
    return S3Store.from_url(url, client_options=clients, retry_config=RETRY, **options)


def _root(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def put(key: str, path: Path) -> Stored:
    """Store the file ``path`` under ``key``, replacing what was there; flushed to the disk.

    Returns:
        Size and SHA-256 of the very bytes that were handed to the store.

    Raises:
        OSError: if the file cannot be read or the disk is full (``errno.ENOSPC``).
        StoreAwayError: if the store cannot be reached.
        ValueError: for a key with ``..`` or other characters than ``[A-Za-z0-9._/-]``.
    """
    digest, size = hashlib.sha256(), 0

    def chunks() -> Iterator[bytes]:
        nonlocal size
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                yield chunk

    whole = path.stat().st_size < PART_BYTES
    with _translated():
        obstore.put(get_store(), checked(key), b"".join(chunks()) if whole else chunks())
    _flush(key)
    return Stored(size, digest.hexdigest())


async def put_stream(key: str, chunks: AsyncIterator[bytes]) -> None:
    """Store what ``chunks`` yields; an exception it raises aborts the write and leaves nothing.

    Raises:
        OSError, ValueError: as :func:`put`.
    """
    with _translated():
        await obstore.put_async(get_store(), checked(key), chunks)


def open(key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes ``start`` (inclusive) to ``end`` (exclusive, None: the last) in chunks.

    Raises:
        FileNotFoundError: at the first chunk, if there is no such object.
    """
    path = local_path(key)
    return _read_file(path, start, end) if path else _read_object(key, start, end)


def _read_file(path: Path, start: int, end: int | None) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = (os.fstat(file.fileno()).st_size if end is None else end) - start
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def _read_object(key: str, start: int, end: int | None) -> Iterator[bytes]:
    if end is not None and end <= start:
        return
    bounds: OffsetRange | tuple[int, int] = {"offset": start} if end is None else (start, end)
    with _translated():
        if start == 0 and end is None:  # an empty object on S3 has no range at all
            response = obstore.get(get_store(), checked(key))
        else:
            response = obstore.get(get_store(), checked(key), options={"range": bounds})
        for chunk in response.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)


def signed_address(key: str, seconds: int) -> str | None:
    """Address at which the bucket gives an object to whoever knows it; None for a local store.

    Raises:
        StoreAwayError: if there are no credentials to sign with.
    """
    store = get_store()
    if isinstance(store, LocalStore):
        return None
    with _translated():
        return obstore.sign(store, "GET", checked(key), timedelta(seconds=seconds))


def local_path(key: str) -> Path | None:
    """Where the object lies on this machine; None when the store is not local."""
    url = get_settings().store
    return _root(url) / checked(key) if url.startswith("file://") else None


def head(key: str) -> Info:
    """Size and time of an object.

    Raises:
        FileNotFoundError: if there is no such object.
    """
    with _translated():
        meta = obstore.head(get_store(), checked(key))
    return Info(key, meta["size"], meta["last_modified"])


def delete(key: str) -> None:
    """Remove an object; nothing happens if it is not there."""
    try:
        with _translated():
            obstore.delete(get_store(), checked(key))
    except FileNotFoundError:
        return


def list(prefix: str) -> Iterator[Info]:
    """Every object whose key lies under the folder ``prefix``."""
    with _translated():
        for batch in obstore.list(get_store(), checked(prefix.rstrip("/"))):
            for meta in batch:
                yield Info(meta["path"], meta["size"], meta["last_modified"])


def delete_all(prefix: str) -> None:
    """Remove every object under the folder ``prefix``, and what broken-off writes left there."""
    for key in [info.key for info in list(prefix)]:
        delete(key)
    folder = local_path(prefix)
    if folder is not None and folder.is_dir():
        shutil.rmtree(folder)


def delete_unfinished(before: datetime) -> None:
    """Remove what writes left that a kill broke off before ``before``; a listing never shows it.

    Of a bucket nothing: there a rule of its life cycle ends unfinished uploads.
    """
    url = get_settings().store
    if not url.startswith("file://"):
        return
    for path in _root(url).rglob("*#*"):
        with suppress(FileNotFoundError):
            if UNFINISHED.fullmatch(path.name) and path.stat().st_mtime < before.timestamp():
                path.unlink()


def free_bytes() -> int | None:
    """Free space of a local store's disk; None for a bucket."""
    url = get_settings().store
    if not url.startswith("file://"):
        return None
    get_store()  # makes the folder
    return shutil.disk_usage(_root(url)).free


def checked(key: str) -> str:
    """``key`` itself.

    Raises:
        ValueError: if it is not a clean relative path.
    """
    if not KEY.fullmatch(key) or not {".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(f"not a storage key: {key!r}; use [A-Za-z0-9._/-] and no '..'")
    return key


@contextmanager
def _translated() -> Generator[None]:
    """Turn obstore's own errors into those of this module; it names ``errno`` only in the text."""
    try:
        yield
    except BaseError as error:
        summary = without_paths(str(error).partition("\n")[0])
        if number := re.search(r"\(os error (\d+)\)", summary):
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error
        raise StoreAwayError(f"the artifact store is not available: {summary}") from error


def _flush(key: str) -> None:
    """Make a local object survive a power cut: obstore renames it into place without a flush."""
    path = local_path(key)
    for name in (path, path.parent) if path else ():
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
