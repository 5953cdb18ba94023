"""Backups: the database at one moment, then the files that it names; the service runs on.

Rows are read in one transaction that sees the database as it was at its beginning. Files are never
changed, so those copied later are those of that moment; what was removed meanwhile is told.
"""

import gzip
import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Table, text

from app import storage
from app.db import migrate
from app.db.session import database_now, get_engine, make_session
from app.services.backup_format import (
    FILE_LIST,
    FILES,
    MANIFEST,
    TABLES,
    FileSum,
    Manifest,
    TableSum,
    digest,
    encode,
    listed_files,
    read_manifest,
    table_path,
    tables,
)

ROWS_AT_ONCE = 1000
STORED = {"artifacts": "ready", "datasets": "ready"}  # tables whose rows name bytes, and when


class Backup(NamedTuple):
    """What was made, and what is wrong with it: files that are gone or damaged in the store."""

    manifest: Manifest
    faults: list[str]


def make(folder: Path, *, files: bool = True) -> Backup:
    """Write a backup into a new folder.

    Args:
        folder: is made; only its owner may read it.
        files: also copy what lies in the store; else it needs a backup of its own.

    Raises:
        ValueError: if the folder has something in it.
    """
    _make_folder(folder)
    with make_session(write=False) as session:
        made_at = database_now(session)
    wanted: dict[str, FileSum] = {}
    with _snapshot() as connection:
        sums = {each.name: _write_table(connection, each, folder, wanted) for each in tables()}
    copied, faults = _copy_files(folder, wanted) if files else ({}, [])
    manifest = Manifest(
        release=version("sextant-jobs"),
        revision=migrate.head(),
        made_at=made_at,
        tables=sums,
        file_list=_write_list(folder, copied) if files else None,
        files=len(copied),
        bytes=sum(each.size_bytes for each in copied.values()),
    )
    draft = folder / f"{MANIFEST}.part"
    draft.write_text(manifest.model_dump_json(indent=1))
    os.sync()
    draft.rename(folder / MANIFEST)
    return Backup(manifest, faults)


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give a new folder")
    (folder / TABLES).mkdir()


@contextmanager
def _snapshot() -> Generator[Connection]:
    """A connection that sees the database of one moment, for as long as it takes."""
    engine = get_engine().execution_options(write=False, limit_s=migrate.LIMIT_S)
    server = engine.dialect.name == "postgresql"
    if server:
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        if server:
            for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(text(f"SET LOCAL {limit} = 0"))
        yield connection


def _write_table(
    connection: Connection, table: Table, folder: Path, wanted: dict[str, FileSum]
) -> TableSum:
    path, count = table_path(folder, table.name), 0
    streamed = connection.execution_options(yield_per=ROWS_AT_ONCE)
    with gzip.open(path, "wb", compresslevel=1) as file:
        for row in streamed.execute(table.select()).mappings():
            file.write(encode(dict(row)))
            count += 1
            if row.get("status") == STORED.get(table.name) and row.get("storage_key"):
                named = FileSum(
                    key=row["storage_key"], size_bytes=row["size_bytes"], sha256=row["sha256"]
                )
                wanted[named.key] = named
    return TableSum(rows=count, sha256=digest(path))


def _copy_files(folder: Path, wanted: dict[str, FileSum]) -> tuple[dict[str, FileSum], list[str]]:
    """Copy all that is in the store: logs and held files of replaced runs have no ready row."""
    copied: dict[str, FileSum] = {}
    faults = []
    for info in storage.list("t"):
        if (made := _copy(folder, info.key)) is not None:
            copied[made.key] = made
            if (named := wanted.get(made.key)) is not None and named != made:
                faults.append(f"{made.key} is damaged in the store: SHA-256 {made.sha256}")
    faults += [f"{key} is missing in the store" for key in wanted.keys() - copied.keys()]
    return copied, sorted(faults)


def _copy(folder: Path, key: str) -> FileSum | None:
    """Copy an object; None if it went away just now."""
    path = folder / FILES / storage.checked(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256, size = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            for chunk in storage.open(key):
                sha256.update(chunk)
                size += file.write(chunk)
    except FileNotFoundError:
        path.unlink()
        return None
    return FileSum(key=key, size_bytes=size, sha256=sha256.hexdigest())


def _write_list(folder: Path, copied: dict[str, FileSum]) -> str:
    path = folder / FILE_LIST
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.writelines(encode(each.model_dump()) for each in copied.values())
    return digest(path)


def check(folder: Path) -> Iterator[str]:
    """What is wrong with a backup, read as a whole; nothing where it is as it was made.

    Raises:
        ValueError: if it has no manifest.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.tables.items():
        path = table_path(folder, name)
        if not path.is_file() or digest(path) != expected.sha256:
            yield f"the table {name} is missing or damaged"
    if manifest.file_list is None:
        return
    path = folder / FILE_LIST
    if not path.is_file() or digest(path) != manifest.file_list:
        yield f"{FILE_LIST} is missing or damaged"
        return
    yield from _check_files(folder)


def _check_files(folder: Path) -> Iterator[str]:
    for each in listed_files(folder):
        path = folder / FILES / each.key
        if not path.is_file():
            yield f"{each.key} is missing"
        elif path.stat().st_size != each.size_bytes or digest(path) != each.sha256:
            yield f"{each.key} is damaged"
