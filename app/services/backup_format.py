"""What a backup is: a folder of tables as lines of JSON, files of the store, and a manifest.

``backup.json`` is written last: without it the backup is not whole. Tables read the same whichever
database they come from or go to.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import LargeBinary, Table

from app.db.tables import Base, UtcDateTime, Worker

FORMAT = 1
MANIFEST, TABLES, FILES = "backup.json", "tables", "files"
FILE_LIST = "files.jsonl.gz"
CHUNK_BYTES = 2**20


class TableSum(BaseModel):
    """What a table of the backup must be."""

    rows: int
    sha256: str


class FileSum(BaseModel):
    """What a file of the backup must be."""

    model_config = ConfigDict(frozen=True)

    key: str
    size_bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a backup holds."""

    format: int = FORMAT
    release: str
    revision: str
    made_at: datetime
    tables: dict[str, TableSum]
    file_list: str | None  # its SHA-256; None without files
    files: int
    bytes: int


def tables() -> list[Table]:
    """Those that a backup holds, each after the ones it refers to; workers are no state."""
    return [t for t in Base.metadata.sorted_tables if t.name != Worker.__tablename__]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup.

    Raises:
        ValueError: if there is none, or it is of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is no whole backup: it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is no manifest of a backup: {error.errors()[0]['msg']}") from None
    if manifest.format != FORMAT:
        raise ValueError(f"{path} has the format {manifest.format}; this release reads {FORMAT}")
    return manifest


def table_path(folder: Path, name: str) -> Path:
    """Where the rows of a table lie."""
    return folder / TABLES / f"{name}.jsonl.gz"


def encode(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(row, default=_plain, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode()


def decode(table: Table, line: bytes) -> dict[str, Any]:
    """The row of a line."""
    row = json.loads(line)
    for column in table.columns:
        value = row.get(column.name)
        if value is not None and isinstance(column.type, UtcDateTime):
            row[column.name] = datetime.fromisoformat(value)
        elif value is not None and isinstance(column.type, LargeBinary):
            row[column.name] = base64.b64decode(value)
    return row


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a packed file."""
    with gzip.open(path, "rb") as file:
        yield from file


def digest(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed_files(folder: Path) -> Iterator[FileSum]:
    """The files of a backup; none where it was made without."""
    path = folder / FILE_LIST
    for line in lines(path) if path.is_file() else ():
        yield FileSum.model_validate_json(line)
