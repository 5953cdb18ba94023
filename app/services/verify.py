"""Whether the store holds what the database says, byte for byte."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import select

from app import storage
from app.db.session import make_session
from app.db.tables import Artifact, Dataset

ROWS_AT_ONCE = 500


class NamedBytes(NamedTuple):
    """What a row says of an object."""

    id: str
    key: str | None
    sha256: str | None


def faults() -> Iterator[str | None]:
    """Read every file that the database names; what is wrong with it, None where nothing is."""
    for table in (Artifact, Dataset):
        last = ""
        while rows := _rows(table, last):
            last = rows[-1].id
            for row in rows:
                yield _fault(table, row)


def _rows(table: type[Artifact] | type[Dataset], after: str) -> list[NamedBytes]:
    query = (
        select(table.id, table.storage_key, table.sha256)
        .where(table.status == "ready", table.id > after, table.storage_key.is_not(None))
        .order_by(table.id)
        .limit(ROWS_AT_ONCE)
    )
    with make_session(write=False) as session:
        return [NamedBytes(*row) for row in session.execute(query)]


def _fault(table: type[Artifact] | type[Dataset], row: NamedBytes) -> str | None:
    sha256 = hashlib.sha256()
    try:
        for chunk in storage.open(str(row.key)):
            sha256.update(chunk)
    except FileNotFoundError:
        return f"{row.id}: {row.key} is missing" if _is_ready(table, row.id) else None
    if sha256.hexdigest() == row.sha256:
        return None
    return f"{row.id}: {row.key} is damaged" if _is_ready(table, row.id) else None


def _is_ready(table: type[Artifact] | type[Dataset], row_id: str) -> bool:
    """Whether the row is still there: what was deleted meanwhile is no fault."""
    with make_session(write=False) as session:
        row = session.get(table, row_id)
        return row is not None and row.status == "ready"
