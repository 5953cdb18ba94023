"""Files of jobs in the browser: pictures as they are, reports in a sandbox, tables, text."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from fastapi import Request, Response

from app import storage
from app.db.tables import Artifact
from app.errors import NotFoundError
from app.http.downloads import send_object

PREVIEW_BYTES = 256 * 1024
TABLE_ROWS = 100
PICTURES = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
TEXTS = (".json", ".txt", ".log", ".asc", ".md")
# a report shows its own pictures and styles; it runs nothing and fetches nothing
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; "
    "frame-ancestors 'self'"
)


class Preview(NamedTuple):
    """The beginning of a file, as a table or as text.

    Attributes:
        rows: of a table, its header first; None for text.
        text: of a text.
        cut: whether there is more in the file.
    """

    rows: list[list[str]] | None
    text: str
    cut: bool


def form(name: str) -> str:
    """How a file is shown: ``picture``, ``report``, ``table``, ``text`` or ``none``."""
    ending = PurePosixPath(name).suffix.lower()
    if ending in PICTURES:
        return "picture"
    known = {".html": "report", ".csv": "table"}
    return known.get(ending, "text" if ending in TEXTS else "none")


def send_inline(request: Request, row: Artifact) -> Response:
    """A picture or a report to be shown in a page.

    Raises:
        NotFoundError: for any other file, or if the bytes are gone.
    """
    kind = form(row.name)
    if kind not in ("picture", "report"):
        raise NotFoundError(f"{row.name} is neither a picture nor a report; download it")
    headers = {"ETag": f'"{row.sha256}"', "Cache-Control": "private, max-age=3600"}
    if kind == "report":
        headers["Content-Security-Policy"] = REPORT_POLICY
        return send_object(request, _info(row), "text/html; charset=utf-8", headers)
    ending = PurePosixPath(row.name).suffix.lower()
    return send_object(request, _info(row), PICTURES[ending], headers)


def preview(row: Artifact) -> Preview:
    """The beginning of a table or a text.

    Raises:
        NotFoundError: for any other file, or if the bytes are gone.
    """
    kind = form(row.name)
    if kind not in ("table", "text"):
        raise NotFoundError(f"{row.name} is neither a table nor text; download it")
    info = _info(row)
    raw = b"".join(storage.open(info.key, 0, min(info.size_bytes, PREVIEW_BYTES)))
    cut = info.size_bytes > PREVIEW_BYTES
    text = raw.decode(errors="replace")
    if kind == "table":
        return _table(text, cut=cut)
    if row.name.endswith(".json") and not cut:
        text = _indented(text)
    return Preview(None, text, cut)


def _table(text: str, *, cut: bool) -> Preview:
    lines: Iterator[list[str]] = csv.reader(io.StringIO(text))
    rows = list(islice(lines, TABLE_ROWS + 2))
    if cut and len(rows) <= TABLE_ROWS + 1:
        rows = rows[:-1]  # its last line is cut off
    return Preview(rows[: TABLE_ROWS + 1], "", cut or len(rows) > TABLE_ROWS + 1)


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _info(row: Artifact) -> storage.Info:
    try:
        return storage.head(row.storage_key)
    except FileNotFoundError as error:
        raise NotFoundError(f"the bytes of {row.name} are gone") from error
