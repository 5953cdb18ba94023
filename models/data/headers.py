"""Headers of strangers' files, judged before what they promise is read. Torch-free."""

import io
import math
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open

from models.core.errors import DataError
from models.data.stacks import check_bytes


def safetensors_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors of a file, which holds every byte that its header promises.

    Raises:
        DataError: if it is no such file, cut short, or its tensors overlap or leave gaps.
    """
    try:
        with safe_open(path, framework="numpy") as tensors:  # checks offsets, sizes and types
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"the file is neither a torch.export archive nor safetensors: {error}",
            hint="save the net by torch.export.save(program, 'net.pt2'), or its weights by "
            "safetensors.torch.save_file; torch.save writes a pickle, which is refused, and ONNX is"
            " not read: export the net where it was made",
        ) from error


# numpy reads a header as a literal of Python, which may fail in all these ways
HEADER_ERRORS = (
    *(ValueError, KeyError, TypeError, SyntaxError, TokenError),
    *(RecursionError, MemoryError, OverflowError),
)


class ArrayHeader(NamedTuple):
    """What an npy file says of its array; ``size_bytes`` of its values."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    size_bytes: int


def read_array_header(stream: io.BufferedReader, room_bytes: int, name: str) -> ArrayHeader:
    """The header of an npy file.

    Args:
        stream: of the file, from its beginning.
        room_bytes: how long the file can be at most, header included.
        name: of the array, for messages.

    Raises:
        DataError: if it is damaged, of Python objects, or promises more values than memory or
            the file has room for.
    """
    try:
        version = npy.read_magic(stream)
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, is_fortran, dtype = readers[version](stream)
    except HEADER_ERRORS as error:
        raise DataError(f"{name}: no array of numpy's format 1 or 2") from error
    if dtype.hasobject:
        raise DataError(f"{name}: an array of Python objects (pickle) is refused")
    if min(shape, default=0) < 0 or dtype.itemsize == 0:
        raise DataError(f"{name}: shape {shape} of {dtype}")
    size_bytes = math.prod(shape) * dtype.itemsize
    check_bytes(size_bytes, name)
    if size_bytes > room_bytes:
        raise DataError(
            f"{name}: cut short; shape {shape} of {dtype} takes {size_bytes} bytes, the file holds"
            f" at most {room_bytes}"
        )
    return ArrayHeader(shape, is_fortran, dtype, size_bytes)
