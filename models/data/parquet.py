"""Parquet in the form of Hugging Face: an image struct (bytes, path) and a label column."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.core.errors import DataError
from models.core.json_text import parse_json
from models.core.spec import ReadOptions
from models.data import archives, sets
from models.data.archives import Archive
from models.data.contents import Contents
from models.data.decode import decode
from models.data.labels import numbered
from models.data.parts import grouped, part_of
from models.data.sets import ImagePart, ImageSet, Picture, PictureFile
from models.data.tables import open_parquet_file, read_batches

ROWS = 10_000_000
IMAGE_NAMES = ("image", "img", "images")
LABEL_NAMES = ("label", "labels", "fine_label")


class Table(NamedTuple):
    """An open parquet file: where its images and labels are, and its classes where it tells."""

    name: str
    file: pq.ParquetFile
    image: str
    label: str
    size_bytes: int
    classes: list[str] | None

    @property
    def rows(self) -> int:
        """Number of its rows."""
        return self.file.metadata.num_rows


@contextmanager
def open_parquet(path: Path, options: ReadOptions) -> Generator[ImageSet, None, None]:
    """One parquet file.

    Raises:
        DataError: naming the row or column at fault.
    """
    contents = Contents(taken=Counter({".parquet": 1}))
    with path.open("rb") as file:
        yield _set({"": [_table(file, "the file", options, contents)]}, contents)


@contextmanager
def open_parquet_archive(archive: Archive, options: ReadOptions) -> Generator[ImageSet, None, None]:
    """Parquet files of parts, by the names of files or folders; those of a part are joined.

    Raises:
        DataError: naming the entry, and the row or column, at fault.
    """
    contents = Contents()
    names = _tables_in(archive, contents)
    named = options.split == "named"
    groups = grouped(names, [part_of(name) if named else None for name in names])
    with ExitStack() as stack:
        tables = {
            part: [
                _table(stack.enter_context(_unpacked(archive, name)), name, options, contents)
                for name in members
            ]
            for part, members in groups.items()
        }
        yield _set(tables, contents)


def _tables_in(archive: Archive, contents: Contents) -> list[str]:
    """Names of the parquet files, sorted.

    Raises:
        DataError: if they are of several configurations of a set.
    """
    names = sorted(contents.visible(archive.names))
    tables = [name for name in names if name.lower().endswith(".parquet")]
    for name in set(names) - set(tables):
        contents.left_out[PurePosixPath(name).name, "no parquet file"] += 1
    contents.taken[".parquet"] = len(tables)
    folders = {
        tuple(word for word in PurePosixPath(name).parts[:-1] if part_of(word) is None)
        for name in tables
    }
    if len(folders) > 1:
        listed = ", ".join(sorted("/".join(folder) or "." for folder in folders))
        raise DataError(
            f"the archive holds several configurations of a set: {listed}",
            hint="import the folder of one of them",
        )
    return tables


@contextmanager
def _unpacked(archive: Archive, name: str) -> Generator[IO[bytes], None, None]:
    """An entry as a file of its own: parquet is read from its end."""
    with tempfile.TemporaryFile() as file:
        with archive.open(name) as stream:
            shutil.copyfileobj(stream, file, archives.CHUNK_BYTES)
        yield file


def _table(file: IO[bytes], name: str, options: ReadOptions, contents: Contents) -> Table:
    size_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: damaged, cut short, or no parquet file") from error
    features = _features(schema, name)
    label = options.label or _label_column(schema, features, name)
    _check_label(schema, label, name)
    image = _image_column(schema, name)
    for column in set(schema.names) - {label, image}:
        contents.left_out[f"column {column}", f"neither {image} nor {label}"] = 1
    opened = open_parquet_file(file, (image, label), name)
    return Table(name, opened, image, label, size_bytes, _classes(features, label))


def _image_column(schema: pa.Schema, name: str) -> str:
    """The only column of images, or of several the one with the name of an image."""
    columns = [field.name for field in schema if _holds_images(field)]
    chosen = [column for column in IMAGE_NAMES if column in columns] or columns
    if not columns:
        raise DataError(
            f"{name}: no image column among {', '.join(schema.names)}; expected a struct with bytes"
        )
    if len(columns) > 1 and chosen == columns:
        raise DataError(
            f"{name}: several columns hold images: {', '.join(columns)}",
            hint=f"keep one of them, or call it {IMAGE_NAMES[0]}",
        )
    return chosen[0]


def _holds_images(field: pa.Field) -> bool:
    if not pa.types.is_struct(field.type) or field.type.get_field_index("bytes") < 0:
        return False
    kind = field.type.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(schema: pa.Schema, features: Mapping[str, Any], name: str) -> str:
    """The column with the name of a label, or the only one that is declared to hold classes.

    A column is never taken for its type alone: it may be a width or an identifier.
    """
    if named := [label for label in LABEL_NAMES if label in schema.names]:
        return named[0]
    declared = [column for column in schema.names if _classes(features, column) is not None]
    if len(declared) == 1:
        return declared[0]
    raise DataError(
        f"{name}: no label column among {', '.join(schema.names)}; expected one called "
        f"{', '.join(LABEL_NAMES)}",
        hint="name it: options.label, --label NAME",
    )


def _check_label(schema: pa.Schema, label: str, name: str) -> None:
    if label not in schema.names:
        raise DataError(
            f"{name}: options.label is {label!r}; the columns are {', '.join(schema.names)}"
        )
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (
        pa.types.is_integer,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
    )
    if not any(fits(kind) for fits in kinds):
        raise DataError(
            f"{name}: the label column {label!r} is of type {kind}; class labels are integers "
            "from 0, strings or truth values",
            hint="name another column: options.label, --label NAME",
        )


def _features(schema: pa.Schema, name: str) -> dict[str, Any]:
    """Hugging Face's description of the columns in the schema, if there is one."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    note = parse_json(schema.metadata[b"huggingface"], f"{name}: the note of Hugging Face")
    try:
        return dict(note["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _classes(features: Mapping[str, Any], label: str) -> list[str] | None:
    """Class names of a column, if its description has them."""
    try:
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError):
        return None


def _set(tables: Mapping[str, Sequence[Table]], contents: Contents) -> ImageSet:
    every = [table for members in tables.values() for table in members]
    first = every[0]
    if len({table.label for table in every}) > 1 or len({str(t.classes) for t in every}) > 1:
        raise DataError(f"{first.name}: the files differ in their label column or class names")
    counts = {part: _count(members) for part, members in tables.items()}
    values = {part: _labels(members) for part, members in tables.items()}
    labels, classes = numbered(values, counts, first.classes, f"column {first.label!r}")
    contents.label = f"the column {first.label!r}: {len(classes)} classes"
    brought = {}
    for part, members in tables.items():
        pictures = _TablePictures(members, contents)
        brought[part] = ImagePart(counts[part], labels[part], pictures, pictures.files)
    return sets.labelled(brought, classes, contents)


def _count(tables: Sequence[Table]) -> int:
    count = sum(table.rows for table in tables)
    if not 1 <= count <= ROWS:
        raise DataError(f"{tables[0].name}: {count} rows; from 1 to {ROWS} are allowed")
    return count


def _labels(tables: Sequence[Table]) -> np.ndarray:
    parts = [
        _labels_of(batch, table, first)
        for table in tables
        for batch, first in _batches(table, table.label)
    ]
    return np.concatenate(parts)


def _labels_of(batch: pa.RecordBatch, table: Table, first: int) -> np.ndarray:
    column = batch.column(table.label)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        raise DataError(f"{table.name}: a label is missing in rows {first} and following")
    if pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False)
    return np.array(column.to_pylist())


class _TablePictures:
    """Decodes images of files that follow one another, by position."""

    def __init__(self, tables: Sequence[Table], contents: Contents) -> None:
        self._tables, self._noted = tables, contents.noted

    def __call__(self, positions: Sequence[int]) -> Iterator[Picture]:
        for name, content in self._contents(positions):
            yield name, decode(content, name, self._noted)

    def files(self, positions: Sequence[int]) -> Iterator[PictureFile]:
        """The pictures as they are encoded; a row cannot be read by its place."""
        return (PictureFile(name, content) for name, content in self._contents(positions))

    def _contents(self, positions: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        wanted, start = set(positions), 0
        for table in self._tables:
            here = {position - start for position in wanted if 0 <= position - start < table.rows}
            yield from _contents(table, here)
            start += table.rows


def _contents(table: Table, wanted: set[int]) -> Iterator[tuple[str, bytes]]:
    """Encoded images of some rows of a file; nothing is read after the last of them."""
    if not wanted:
        return
    last = max(wanted)
    for batch, first in _batches(table, table.image):
        contents = batch.column(table.image).field("bytes")
        for row in sorted(wanted & set(range(first, first + batch.num_rows))):
            content = contents[row - first].as_py()
            name = f"{table.name}: row {row}"
            if content is None:
                raise DataError(f"{name} has no image bytes")
            yield name, content
        if first + batch.num_rows > last:
            return


def _batches(table: Table, column: str) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of a column with the number of their first row; what they inflate to is counted."""
    limit = min(
        archives.TOTAL_BYTES, max(archives.RATIO * table.size_bytes, archives.RATIO_FLOOR_BYTES)
    )
    first = 0
    for batch in read_batches(table.file, (column,), limit, table.name):
        yield batch, first
        first += batch.num_rows
