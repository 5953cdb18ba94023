"""Content of datasets: streamed into the store, digested on the way, handed to a check.

The bytes of an upload get a key of their own and only then go into the row, so that nothing
half-stored is ever visible and two uploads at once do no harm.
"""

import hashlib
import hmac
from collections.abc import AsyncIterator

from sqlalchemy.orm import Session

from app import queue, storage
from app.db.session import after_commit, database_now
from app.db.tables import Dataset, new_id
from app.errors import (
    ConflictError,
    NotFoundError,
    StorageQuotaError,
    TooLargeError,
    UnavailableError,
    invalid,
)
from app.services import datasets, quotas
from app.services.storage_keys import dataset_key
from app.settings import get_settings
from models.data.builtin import BUILTIN

CHECK_QUEUE = "default"
SPACE_MARGIN_BYTES = 64 * 2**20
SPACE_EVERY_BYTES = 64 * 2**20


async def receive(
    dataset: Dataset,
    chunks: AsyncIterator[bytes],
    size_bytes: int | None,
    digest: bytes | None,
    room: quotas.Room,
) -> tuple[str, storage.Stored]:
    """Stream an upload into the store under a key of its own.

    Args:
        dataset: that it belongs to; its ``sha256``, as promised or from an upload before, must
            come out, so a lost answer may be asked for again but nothing ever changes.
        chunks: the content.
        size_bytes: how many bytes were announced, if known.
        digest: SHA-256 that was announced, if known.
        room: of the tenant.

    Returns:
        The key, and what lies there.

    Raises:
        TooLargeError: over ``upload_limit_bytes``.
        StorageQuotaError: if it is more than there is room for.
        InvalidError: if the bytes have another digest than announced.
        UnavailableError: if the disk is too full.
    """
    if size_bytes is not None:
        _check_size(size_bytes, room)
        _check_space(size_bytes)
    key = dataset_key(dataset.tenant_id, dataset.id, new_id("up"))
    hashed, size = hashlib.sha256(), 0

    async def checked() -> AsyncIterator[bytes]:
        nonlocal size
        async for chunk in chunks:
            hashed.update(chunk)
            if size // SPACE_EVERY_BYTES != (size + len(chunk)) // SPACE_EVERY_BYTES:
                _check_space(0)
            size += len(chunk)
            _check_size(size, room)
            yield chunk
        # before the store completes the object: a wrong one leaves nothing
        _check_digest(hashed.digest(), digest)
        _check_digest(hashed.digest(), bytes.fromhex(dataset.sha256) if dataset.sha256 else None)

    await storage.put_stream(key, checked())
    return key, storage.Stored(size, hashed.hexdigest())


def _check_size(size_bytes: int, room: quotas.Room) -> None:
    limit = get_settings().upload_limit_bytes
    if size_bytes > limit:
        raise TooLargeError(f"an upload of {size_bytes} bytes or more; the limit is {limit}")
    room.check(size_bytes)


def _check_space(size_bytes: int) -> None:
    free = storage.free_bytes()
    if free is not None and free < size_bytes + SPACE_MARGIN_BYTES:
        raise UnavailableError(f"the store has {free} bytes left, too few for this upload")


def _check_digest(actual: bytes, expected: bytes | None) -> None:
    if expected is not None and not hmac.compare_digest(actual, expected):
        raise invalid(
            "", f"the content has the SHA-256 {actual.hex()}, not {expected.hex()}", "digest"
        )


def begin(session: Session, tenant_id: str, ref: str) -> tuple[Dataset, quotas.Room]:
    """The dataset that content is sent for, and how much the tenant may still store.

    Raises:
        NotFoundError: if there is none.
        ConflictError: if it is checking, ready or failed.
    """
    row = datasets.get(session, tenant_id, ref)
    _check_writable(row)
    return row, quotas.room(session, tenant_id, row.size_bytes or 0)


def _check_writable(row: Dataset) -> None:
    if row.status != "uploading":
        raise ConflictError(f"the dataset is {row.status}; make a new one for other content")


def accept(
    session: Session, tenant_id: str, dataset_id: str, key: str, stored: storage.Stored
) -> Dataset:
    """Give the row its uploaded bytes; the same ones of an earlier upload are removed.

    Raises:
        ConflictError: if the dataset was finalized or deleted meanwhile; the bytes are removed.
        StorageQuotaError: if others have filled the tenant's room meanwhile; likewise.
    """
    row = session.get(Dataset, dataset_id, with_for_update=True, populate_existing=True)
    if row is None or row.tenant_id != tenant_id or row.status != "uploading":
        datasets.drop(key)
        raise ConflictError("the dataset was finalized or deleted during the upload")
    try:  # others may have stored something meanwhile
        quotas.admit_bytes(session, tenant_id, stored.size_bytes, row.size_bytes or 0)
    except StorageQuotaError:
        datasets.drop(key)
        raise
    before = row.storage_key
    row.storage_key, (row.size_bytes, row.sha256) = key, stored
    row.updated_at = database_now(session)
    if before is not None:
        after_commit(session, lambda: datasets.drop(before))
    return row


def content_of(session: Session, tenant_id: str, ref: str) -> Dataset:
    """The ready dataset whose content is asked for.

    Raises:
        NotFoundError: if there is none, or it is built in.
        ConflictError: if it is not ready.
    """
    if ref in BUILTIN:
        raise NotFoundError(f"{ref!r} is built in and has no content of its own")
    row = datasets.get(session, tenant_id, ref)
    if row.status != "ready":
        raise ConflictError(f"the dataset is {row.status}; only a ready one has content")
    return row


def finalize(session: Session, tenant_id: str, ref: str) -> Dataset:
    """Hand an uploaded dataset to a worker that checks it; repeating it changes nothing.

    Raises:
        ConflictError: if there is no content yet, or the check is over.
    """
    row = datasets.locked(session, tenant_id, ref)
    if row.status == "checking":
        return row
    _check_writable(row)
    if row.storage_key is None:
        raise ConflictError(f"the dataset has no content; PUT /v1/datasets/{row.id}/content first")
    row.status, row.updated_at = "checking", database_now(session)
    after_commit(session, lambda: queue.enqueue(CHECK_QUEUE))
    return row
