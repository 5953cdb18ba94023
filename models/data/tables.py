"""Parquet files from strangers, bounded by their footers and dictionaries before they are decoded.

Torch-free.
"""

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.core.errors import DataError

DICTIONARY_BYTES = 64 * 2**20  # of a chunk that is held as a whole
ROWS_OF_DICTIONARY = 2048  # each batch repeats the dictionary
ROWS_AT_ONCE = 256
ROWS_OF_LARGE = 16  # decoded before they are counted


def open_parquet_file(file: IO[bytes], columns: Sequence[str], name: str) -> pq.ParquetFile:
    """A parquet file for :func:`read_batches`.

    Texts and bytes of moderate chunks come as dictionaries: one value of a dictionary may stand in
    every row, so a file of a kilobyte becomes gigabytes. Those of large chunks would have to be
    held as a whole.

    Args:
        file: of the table.
        columns: that will be read.
        name: of the file, for messages.

    Raises:
        DataError: if it is damaged.
    """
    try:
        metadata = pq.ParquetFile(file).metadata
        leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
        texts = [
            leaf.path
            for leaf in leaves
            if leaf.physical_type == "BYTE_ARRAY" and leaf.path.split(".")[0] in columns
        ]
        file.seek(0)
        return pq.ParquetFile(file, read_dictionary=[] if _large(metadata, columns) else texts)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{name}: damaged, cut short, or no parquet file") from error


def _large(metadata: pq.FileMetaData, columns: Sequence[str]) -> bool:
    return max(_chunks(metadata, columns), default=0) > DICTIONARY_BYTES


def _chunks(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[int]:
    """Bytes that each chunk of some columns inflates to, by the file's footer."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema.split(".")[0] in columns:
                yield chunk.total_uncompressed_size


def _packed(file: pq.ParquetFile, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Row group by row group: pyarrow joins no dictionaries of two groups inside of a struct."""
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(rows, row_groups=[group], columns=list(columns))


def read_batches(
    file: pq.ParquetFile, columns: Sequence[str], room_bytes: int, name: str
) -> Iterator[pa.RecordBatch]:
    """Rows in order, a few at a time, without dictionaries.

    Args:
        file: of :func:`open_parquet_file`.
        columns: to read.
        room_bytes: how much all rows may take.
        name: of the file, for messages.

    Raises:
        DataError: if it is damaged, or takes more: by its footer, or its dictionaries, at once.
    """
    rows = ROWS_OF_LARGE if _large(file.metadata, columns) else ROWS_OF_DICTIONARY
    left = room_bytes
    if sum(_chunks(file.metadata, columns)) > room_bytes:
        raise DataError(f"{name}: inflates to more than {room_bytes} bytes")
    done = 0
    try:
        for packed in _packed(file, columns, rows):
            for start in range(0, packed.num_rows, ROWS_AT_ONCE):
                batch, size_bytes = expand(packed.slice(start, ROWS_AT_ONCE), left, name)
                left -= size_bytes
                yield batch
                done += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: damaged after row {done}: {error}") from error


def expand(batch: pa.RecordBatch, room_bytes: int, name: str) -> tuple[pa.RecordBatch, int]:
    """A batch with its dictionaries written out, and the bytes that it then takes.

    Raises:
        DataError: if it would take more than ``room_bytes``, before any of it is written out.
    """
    size_bytes = sum(_expanded_bytes(column) for column in batch.columns)
    if size_bytes > room_bytes:
        raise DataError(
            f"{name}: inflates to more than {room_bytes} bytes in {batch.num_rows} rows"
        )
    columns = [_expanded(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names), size_bytes


def _expanded_bytes(column: pa.Array) -> int:
    if pa.types.is_struct(column.type):
        return sum(_expanded_bytes(child) for child in column.flatten())
    if not pa.types.is_dictionary(column.type) or pa.types.is_primitive(column.type.value_type):
        return column.nbytes
    lengths = pc.call_function("binary_length", [column.dictionary]).cast(pa.int64())
    return pc.call_function("sum", [lengths.take(column.indices)]).as_py() or 0


def _expanded(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    if not pa.types.is_struct(column.type):
        return column
    names = [column.type.field(index).name for index in range(column.type.num_fields)]
    children = [_expanded(child) for child in column.flatten()]
    return pa.StructArray.from_arrays(children, names, mask=column.is_null())
