"""Parquet in the form of Hugging Face: an image struct (bytes, path) and an integer label."""

import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.core.errors import DataError
from models.data import archives
from models.data.archives import Archive, open_archive
from models.data.arrays import ImageArrays, Labelled, split
from models.data.decode import decode
from models.data.headers import parse_json
from models.data.labels import checked_labels, class_names
from models.data.stacks import Stack
from models.data.tables import open_parquet_file, read_batches

ROWS = 10_000_000
LABEL_NAMES = ("label", "labels", "fine_label")


class Table(NamedTuple):
    """An open parquet file: where its images and labels are, and its classes where it tells."""

    name: str
    file: pq.ParquetFile
    image: str
    label: str
    size_bytes: int
    classes: list[str] | None


def read_parquet(path: Path) -> ImageArrays:
    """One parquet file, split here.

    Raises:
        DataError: naming the row or column at fault.
    """
    with path.open("rb") as file:
        table = _table(file, "the file")
        whole = _labelled([table])
    return split(whole, class_names(table.classes, int(whole.labels.max()), table.label))


def read_parquet_archive(path: Path) -> ImageArrays:
    """Zip of ``train*.parquet`` and ``test*.parquet``; files of one part follow one another.

    Raises:
        DataError: naming the entry, and the row or column, at fault.
    """
    with open_archive(path) as archive, ExitStack() as stack:
        tables = {
            part: [
                _table(stack.enter_context(_unpacked(archive, name)), name)
                for name in sorted(archive.names)
                if PurePosixPath(name).match(f"{part}*.parquet")
            ]
            for part in ("train", "test")
        }
        if not tables["train"]:
            raise DataError("the archive holds no train*.parquet (nor, perhaps, test*.parquet)")
        train = _labelled(tables["train"])
        test = _labelled(tables["test"]) if tables["test"] else None
    table = tables["train"][0]
    if test is None:
        return split(train, class_names(table.classes, int(train.labels.max()), table.label))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"{tables['test'][0].name}: images differ in size from those of train")
    highest = int(max(train.labels.max(), test.labels.max()))
    return ImageArrays(train, test, class_names(table.classes, highest, table.label))


@contextmanager
def _unpacked(archive: Archive, name: str) -> Generator[IO[bytes], None, None]:
    """An entry as a file of its own: parquet is read from its end."""
    with tempfile.TemporaryFile() as file:
        with archive.open(name) as stream:
            shutil.copyfileobj(stream, file, archives.CHUNK_BYTES)
        yield file


def _table(file: IO[bytes], name: str) -> Table:
    size_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: damaged, cut short, or no parquet file") from error
    label, image = _label_column(schema, name), _image_column(schema, name)
    opened = open_parquet_file(file, (image, label), name)
    return Table(name, opened, image, label, size_bytes, _classes(schema, label, name))


def _image_column(schema: pa.Schema, name: str) -> str:
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            kind = field.type.field("bytes").type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return field.name
    raise DataError(
        f"{name}: no image column among {', '.join(schema.names)}; expected a struct with bytes"
    )


def _label_column(schema: pa.Schema, name: str) -> str:
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    named = [label for label in LABEL_NAMES if label in whole]
    if named or len(whole) == 1:
        return (named or whole)[0]
    raise DataError(
        f"{name}: no label column among {', '.join(schema.names)}; expected an integer column "
        f"called {' or '.join(LABEL_NAMES)}"
    )


def _classes(schema: pa.Schema, label: str, name: str) -> list[str] | None:
    """Class names from Hugging Face's note in the schema, if there is one."""
    if b"huggingface" not in (schema.metadata or {}):
        return None
    try:
        note = parse_json(schema.metadata[b"huggingface"], f"{name}: the note of Hugging Face")
        features = note["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError):
        return None


def _labelled(tables: Sequence[Table]) -> Labelled:
    """All rows of these files, decoded."""
    count = sum(table.file.metadata.num_rows for table in tables)
    if not 1 <= count <= ROWS:
        raise DataError(f"{tables[0].name}: {count} rows; from 1 to {ROWS} are allowed")
    stack, labels = Stack(count), []
    for table in tables:
        for batch, first in _batches(table):
            labels.append(_labels_of(batch, table, first))
            contents = batch.column(table.image).field("bytes")
            for row, content in enumerate(contents.to_pylist(), start=first):
                if content is None:
                    raise DataError(f"{table.name}: row {row} has no image bytes")
                stack.add(decode(content, f"{table.name}: row {row}"), f"{table.name}: row {row}")
    joined = np.concatenate(labels)
    return Labelled(stack.images(), checked_labels(joined, count, tables[0].label))


def _labels_of(batch: pa.RecordBatch, table: Table, first: int) -> np.ndarray:
    column = batch.column(table.label)
    if column.null_count:
        raise DataError(f"{table.name}: a label is missing in rows {first} and following")
    return column.to_numpy(zero_copy_only=False)


def _batches(table: Table) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches with the number of their first row; what they inflate to is counted."""
    limit = min(
        archives.TOTAL_BYTES, max(archives.RATIO * table.size_bytes, archives.RATIO_FLOOR_BYTES)
    )
    first = 0
    for batch in read_batches(table.file, (table.image, table.label), limit, table.name):
        yield batch, first
        first += batch.num_rows
