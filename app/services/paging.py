"""Lists by keyset: a page starts after an id, so it costs the same however far back it is."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, select, true, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import InvalidError
from app.services.pepper import pepper

MAC_BYTES = 12


class RowPage(NamedTuple):
    """Rows of one page and the cursor of the next."""

    data: list[Any]
    next_cursor: str | None


def fetch(
    session: Session,
    query: Select[Any],
    key: InstrumentedAttribute[str],
    *,
    limit: int,
    cursor: str | None = None,
    filters: Mapping[str, Any] | None = None,
    newest_first: bool = True,
    any_of: Sequence[ColumnElement[bool]] = (),
    read_by: InstrumentedAttribute[str] | None = None,
) -> RowPage:
    """One page of ``query``, ordered by ``key``.

    ``key`` is the id column, sortable by creation time; ``read_by`` a joined column that is equal
    to it and whose index serves the query better. ``filters`` is what the list is filtered
    by: the cursor of a page holds only for the same filters. Of the conditions ``any_of`` one must
    hold and no two can: each is looked up by itself, so that an index serves it.

    Raises:
        InvalidError: for a cursor that is damaged or belongs to other filters.
    """
    filters = {**(filters or {}), "newest_first": newest_first, "of": str(key)}
    column = key if read_by is None else read_by
    if cursor is not None:
        last = _decode(cursor, filters)
        query = query.where(column < last if newest_first else column > last)

    def _ordered(by: InstrumentedAttribute[str]) -> ColumnElement[str]:
        return by.desc() if newest_first else by.asc()

    # first the ids alone, for which no row need be fetched, then their rows
    ids = query.with_only_columns(column).order_by(_ordered(column)).limit(limit + 1)
    parts = [select(ids.where(one).subquery()) for one in any_of or (true(),)]
    page = select(key.class_).where(key.in_(union_all(*parts) if any_of else parts[0]))
    rows = list(session.scalars(page.order_by(_ordered(key)).limit(limit + 1)))
    if len(rows) <= limit:
        return RowPage(rows, None)
    return RowPage(rows[:limit], _encode(getattr(rows[limit - 1], key.key), filters))


def refused_query(pointer: str, detail: str, code: str) -> InvalidError:
    """An InvalidError about the query of the address instead of the body."""
    error = {"pointer": pointer, "code": code, "detail": detail, "location": "query"}
    return InvalidError(detail, [error])


def _encode(last: str, filters: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(_mac(last, filters) + last.encode()).decode().rstrip("=")


def _decode(cursor: str, filters: Mapping[str, Any]) -> str:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        mac, last = raw[:MAC_BYTES], raw[MAC_BYTES:].decode()
    except ValueError:
        mac, last = b"", ""
    if not hmac.compare_digest(mac, _mac(last, filters)):
        detail = "this cursor belongs to another list or other filters; start without a cursor"
        raise refused_query("/cursor", detail, "cursor")
    return last


def _mac(last: str, filters: Mapping[str, Any]) -> bytes:
    """Signs the position together with the filters it was made for."""
    text = json.dumps([last, filters], sort_keys=True, default=str)
    return hmac.new(pepper(), text.encode(), hashlib.sha256).digest()[:MAC_BYTES]
