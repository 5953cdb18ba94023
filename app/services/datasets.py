"""Datasets: created, referred to by specs, checked by a worker, deleted; uploads apart."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Select, String, cast, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import storage
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Dataset, Job, new_id
from app.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    invalid,
)
from app.schemas.errors import ReportedError
from app.services import paging, quotas
from app.services.storage_keys import dataset_folder
from app.settings import get_settings
from models.core.needs import DatasetInfo
from models.core.spec import DatasetRef, ReadOptions
from models.data.builtin import BUILTIN

CHECK_TRIES = 3  # workers lost over one dataset before it is given up

log = structlog.get_logger(__name__)


# -- rows ------------------------------------------------------------------------------------


def create(
    session: Session,
    tenant_id: str,
    name: str,
    content_format: str,
    options: dict[str, Any],
    sha256: str | None = None,
) -> Dataset:
    """A dataset that waits for its content.

    Args:
        session: that writes.
        tenant_id: the owner.
        name: what specs will call it.
        content_format: of the content.
        options: of the format.
        sha256: what the content must have, if it is known.

    Raises:
        InvalidError: for the name of a built-in dataset, or one like an id.
        ConflictError: if the tenant has a dataset of this name.
        StorageQuotaError: if it has stored all it may.
    """
    if name in BUILTIN:
        raise invalid("/name", f"{name!r} is the name of a built-in dataset; choose another")
    if name.startswith("ds_"):
        raise invalid("/name", f"{name!r} begins like an id; choose a name without ds_")
    _make_free(session, tenant_id, name)
    quotas.admit_bytes(session, tenant_id, 1)
    row = Dataset(
        id=new_id("ds"),
        tenant_id=tenant_id,
        name=name,
        format=content_format,
        options=options,
        sha256=sha256,
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:  # two at once
        raise UnavailableError(f"another request made {name!r} just now; try again") from error
    return row


def _make_free(session: Session, tenant_id: str, name: str) -> None:
    """Remove a failed dataset of this name: nothing can refer to it.

    Raises:
        ConflictError: if there is one that has not failed.
    """
    query = _query(tenant_id, name).with_for_update()
    row = session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        return
    if row.status != "failed":
        raise ConflictError(
            f"there is a dataset {name!r} already, {row.status}; delete it or choose another"
        )
    _remove(session, row)
    session.flush()


def get(session: Session, tenant_id: str, ref: str) -> Dataset:
    """The dataset of this id or name.

    Raises:
        NotFoundError: if there is none, or it is another tenant's.
    """
    return _one(session, _query(tenant_id, ref), ref)


def locked(session: Session, tenant_id: str, ref: str, *, shared: bool = False) -> Dataset:
    """The same, not to be deleted (and unless ``shared`` not to be changed) until the commit."""
    query = _query(tenant_id, ref).with_for_update(read=shared)
    return _one(session, query.execution_options(populate_existing=True), ref)


def _query(tenant_id: str, ref: str) -> Select[Dataset]:
    named = or_(Dataset.id == ref, Dataset.name == ref)  # no name looks like an id
    return select(Dataset).where(named, *_visible(tenant_id))


def _one(session: Session, query: Select[Dataset], ref: str) -> Dataset:
    row = session.scalar(query)
    if row is None:
        raise NotFoundError(f"no dataset {ref!r}")
    return row


def _visible(tenant_id: str) -> Any:
    return Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None)


def list_page(session: Session, tenant_id: str, limit: int, cursor: str | None) -> paging.RowPage:
    """One page of the tenant's uploaded datasets, newest first."""
    query = select(Dataset).where(*_visible(tenant_id))
    return paging.fetch(session, query, Dataset.id, limit=limit, cursor=cursor)


def preview(session: Session, tenant_id: str, ref: str) -> bytes:
    """A small picture of what is in a dataset (JPEG).

    Raises:
        NotFoundError: if there is none.
    """
    content = get(session, tenant_id, ref).preview
    if content is None:
        raise NotFoundError(f"the dataset {ref!r} has no picture")
    return content


def pictured(session: Session, rows: Sequence[Dataset]) -> set[str]:
    """The ids of those datasets that have a picture."""
    ids = [row.id for row in rows]
    there = select(Dataset.id).where(Dataset.id.in_(ids), Dataset.preview.is_not(None))
    return set(session.scalars(there))


def delete(session: Session, tenant_id: str, ref: str) -> None:
    """Remove a dataset and its bytes.

    Raises:
        ConflictError: while a job that is not final refers to it.
    """
    row = locked(session, tenant_id, ref)  # no job may pin it meanwhile
    if user := _user(session, row):
        raise ConflictError(f"the job {user} refers to it; wait for its end or cancel it")
    _remove(session, row)


def _remove(session: Session, row: Dataset) -> None:
    folder = dataset_folder(row.tenant_id, row.id)
    session.delete(row)
    after_commit(session, lambda: drop(folder, storage.delete_all))


def _user(session: Session, row: Dataset) -> str | None:
    """A job that is not final and whose resolved spec names the dataset."""
    text = cast(Job.resolved_spec, String)
    named = [text.contains(f'"{word}"', autoescape=True) for word in (row.id, row.name)]
    return session.scalar(
        select(Job.id)
        .where(
            Job.tenant_id == row.tenant_id,
            Job.status.not_in(FINAL),
            text.contains(row.sha256 or "", autoescape=True),
            or_(*named),
        )
        .limit(1)
    )


def drop(key: str, remove: Callable[[str], None] = storage.delete) -> None:
    """Remove bytes that no row names any more; what stays behind is swept up later.

    Args:
        key: of an object or, with ``storage.delete_all``, of a folder.
        remove: from the store.
    """
    try:
        remove(key)
    except (OSError, ServiceError) as error:
        log.warning("bytes_not_removed", key=key, error=str(error))


# -- references of specs ---------------------------------------------------------------------


class ReadyDataset(NamedTuple):
    """A dataset that a spec may name: SHA-256 (None of a built-in one), contents, options."""

    sha256: str | None
    info: DatasetInfo
    options: Mapping[str, Any]

    @property
    def read(self) -> dict[str, Any] | None:
        """How its bytes are read, which a resolved spec keeps; None for the defaults."""
        options = {n: self.options[n] for n in ReadOptions.model_fields if n in self.options}
        return ReadOptions(**options).model_dump() if options else None


def resolve(session: Session, tenant_id: str, ref: str) -> ReadyDataset:
    """A ready dataset, by id or name; its row stays locked against deletion until the session ends.

    Raises:
        NotFoundError: if there is none.
        InvalidError: if it is not ready.
    """
    if ref in BUILTIN:  # nobody uploaded it with options: what it counts is what it tells
        counts = BUILTIN[ref].counts
        return ReadyDataset(None, DatasetInfo(ref, counts), counts)
    row = locked(session, tenant_id, ref, shared=True)
    if row.status != "ready":
        raise InvalidError(f"the dataset {ref!r} is {row.status}; it must be ready")
    return ReadyDataset(row.sha256, DatasetInfo(row.name, row.counts), row.options)


def open_input(session: Session, tenant_id: str, ref: DatasetRef) -> str:
    """Storage key of the bytes that a reference names, of any dataset with the pinned digest.

    Raises:
        NotFoundError: if no ready dataset has them.
    """
    if ref.sha256 is None:
        query = _query(tenant_id, ref.dataset)
    else:
        query = select(Dataset).where(Dataset.sha256 == ref.sha256, *_visible(tenant_id))
    row = session.scalar(query.where(Dataset.status == "ready").limit(1))
    key = row.storage_key if row else None
    if key is None:
        raise NotFoundError(f"the bytes of dataset {ref.dataset!r} are gone; upload it again")
    return key


# -- the check -------------------------------------------------------------------------------


def _claimable(session: Session) -> Any:
    now = database_now(session)
    free = or_(Dataset.lease_expires_at.is_(None), Dataset.lease_expires_at < now)
    return Dataset.status == "checking", free


def check_waiting(session: Session) -> bool:
    """Whether a dataset waits for a worker to check it."""
    waiting = select(Dataset.id).where(*_claimable(session)).limit(1)
    return session.scalar(waiting) is not None


def claim_check(session: Session, worker_id: str) -> Dataset | None:
    """Take the dataset that waits longest, under a lease; None when none waits.

    ``failures`` counts the workers that were lost over it; the third time it is given up.
    """
    oldest = select(Dataset.id).where(*_claimable(session)).order_by(Dataset.id).limit(1)
    while (dataset_id := session.scalar(oldest)) is not None:
        row = session.scalar(
            update(Dataset)
            .where(Dataset.id == dataset_id, *_claimable(session))
            .values(
                lease_owner=worker_id,
                lease_expires_at=database_now(session) + timedelta(seconds=get_settings().lease_s),
                failures=Dataset.failures + 1,
            )
            .returning(Dataset)
            .execution_options(populate_existing=True)
        )
        if row is None or row.failures <= CHECK_TRIES:
            return row
        message = f"{CHECK_TRIES} workers were lost while they checked it"
        error = ReportedError(code="worker_lost", message=message)
        finish_check(session, row, worker_id, error=error)
    return None


def renew_check(session: Session, dataset: Dataset, worker_id: str) -> bool:
    """Extend the lease; False when it was lost."""
    expires = database_now(session) + timedelta(seconds=get_settings().lease_s)
    return _update_held(session, dataset, worker_id, lease_expires_at=expires)


def release_check(session: Session, dataset: Dataset, worker_id: str) -> bool:
    """Leave the check to another worker at once, as if this one had not begun."""
    values = {"lease_owner": None, "lease_expires_at": None, "failures": Dataset.failures - 1}
    return _update_held(session, dataset, worker_id, **values)


def finish_check(
    session: Session,
    dataset: Dataset,
    worker_id: str,
    result: dict[str, Any] | None = None,
    error: ReportedError | None = None,
    preview: bytes | None = None,
) -> bool:
    """Make the dataset ``ready`` with the result of its check, or ``failed``.

    Args:
        session: of the caller.
        dataset: that was checked.
        worker_id: of the worker that holds it.
        result: of the check; None where it failed.
        error: why it failed.
        preview: a small picture of what is in it (JPEG).

    Returns:
        False when the lease was lost.
    """
    counts = dict(result or {})
    contents = counts.pop("contents", None)
    return _update_held(
        session,
        dataset,
        worker_id,
        status="failed" if result is None else "ready",
        counts=counts,
        contents=contents,
        preview=preview,
        error=error and error.model_dump(),
        lease_owner=None,
        lease_expires_at=None,
    )


def _update_held(session: Session, dataset: Dataset, worker_id: str, **values: Any) -> bool:
    changed = session.scalar(
        update(Dataset)
        .where(
            Dataset.id == dataset.id,
            Dataset.status == "checking",
            Dataset.lease_owner == worker_id,
        )
        .values(**values, updated_at=database_now(session))
        .returning(Dataset.id)
    )
    return changed is not None
