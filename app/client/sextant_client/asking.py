"""Requests that most calls are made of."""

import math
import uuid
from collections.abc import Mapping
from typing import Any

from sextant_client.flow import Emit, Emits, Flow, Request, send, with_callback

PAGE_MAX = 200  # rows of a page that the service gives at most


def json_of(request: Request) -> Flow[Any]:
    """The JSON of the answer."""
    return (yield from send(request)).json()


def text_of(request: Request) -> Flow[str]:
    """The text of the answer."""
    return (yield from send(request)).text


def nothing(request: Request) -> Flow[None]:
    """An answer without a body."""
    yield from send(request)


def create(path: str, body: Any, key: str | None = None) -> Flow[Any]:
    """A POST that may be repeated: the service knows it again by its key."""
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return (yield from json_of(Request("POST", path, json=body, headers=headers)))


def pages(path: str, filters: Mapping[str, Any], limit: int | None = None) -> Emits[Any]:
    """The rows of all pages, or the first ``limit`` of them."""
    cursor: dict[str, Any] = {}
    left = math.inf if limit is None else limit
    while left > 0:
        size = {} if limit is None else {"limit": min(left, PAGE_MAX)}
        page = yield from json_of(Request("GET", path, {**filters, **size, **cursor}))
        for row in page["data"]:
            yield Emit(row)
        left -= len(page["data"])
        if not page.get("has_more"):
            return
        cursor = {"cursor": page["next_cursor"]}


def listing(path: str) -> Flow[list[Any]]:
    """The rows of all pages at once."""
    rows: list[Any] = []
    yield from with_callback(pages(path, {}), rows.append)
    return rows
