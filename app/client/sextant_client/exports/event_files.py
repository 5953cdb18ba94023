"""TensorBoard's event files: records of protocol buffers, each with its checksums.

A record is its length (uint64), the masked CRC-32C of these 8 bytes, the message, the masked
CRC-32C of it. Of the messages ``Event``, ``Summary`` and ``TensorProto`` only the fields used here
are written; their numbers are those of tensorboard/compat/proto.
"""

import struct
from pathlib import Path

POLYNOMIAL = 0x82F63B78  # of Castagnoli, reflected
MASK = 0xA282EAD8
DT_STRING = 7
PNG_SIZE = struct.Struct(">II")  # width and height, behind the first 16 bytes


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


CRC_TABLE = _crc_table()


class EventFile:
    """An event file being written; to be closed.

    Args:
        path: of the file, whose name must hold ``tfevents``.
        at_s: Unix seconds of its first event.
    """

    def __init__(self, path: Path, at_s: float) -> None:
        self._file = path.open("wb")
        self._event(at_s, 0, _bytes(3, b"brain.Event:2"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def scalar(self, tag: str, value: float, step: int, at_s: float) -> None:
        """A number at a step; stored with 32 bits, as TensorBoard does."""
        self._summary(tag, _single(2, value), "scalars", step, at_s)

    def text(self, tag: str, markdown: str, at_s: float) -> None:
        """A text in Markdown."""
        shape = _bytes(2, _bytes(2, _number(1, 1)))  # of one element
        tensor = _number(1, DT_STRING) + shape + _bytes(8, markdown.encode())
        self._summary(tag, _bytes(8, tensor), "text", 0, at_s)

    def picture(self, tag: str, png: bytes, step: int, at_s: float) -> None:
        """A picture as PNG.

        Raises:
            ValueError: if it is none.
        """
        if png[:8] != b"\x89PNG\r\n\x1a\n" or len(png) < 24:
            raise ValueError(f"{tag} is no PNG")
        width, height = PNG_SIZE.unpack_from(png, 16)
        image = _number(1, height) + _number(2, width) + _number(3, 4) + _bytes(4, png)
        self._summary(tag, _bytes(4, image), "images", step, at_s)

    def _summary(self, tag: str, content: bytes, plugin: str, step: int, at_s: float) -> None:
        metadata = _bytes(9, _bytes(1, _bytes(1, plugin.encode())))
        value = _bytes(1, tag.encode()) + content + metadata
        self._event(at_s, step, _bytes(5, _bytes(1, value)))

    def _event(self, at_s: float, step: int, content: bytes) -> None:
        message = _double(1, at_s) + _number(2, step) + content
        length = struct.pack("<Q", len(message))
        self._file.write(length + _checksum(length) + message + _checksum(message))


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _single(field: int, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:  # beyond 32 bits
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _varint(field << 3 | 5) + packed
