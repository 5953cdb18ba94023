"""Where values lie inside of files that NumPy wrote, for viewers that read a range of bytes."""

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a zip file: lengths of name and extra field


def member_starts(path: Path) -> list[int]:
    """Offsets in bytes of the values of each array of an archive that ``np.savez`` wrote."""
    starts = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset)
            name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            file.seek(name + extra, 1)
            starts.append(values_start(file))
    return starts


def values_start(file: BinaryIO) -> int:
    """Position of the values, with the file at the beginning of an array of NumPy."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}[version]
    read(file)
    return int(file.tell())
