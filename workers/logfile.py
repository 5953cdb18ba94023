"""A log with a limit: whatever a child pours out, its head and its newest bytes are kept."""

import contextlib
from collections import deque
from pathlib import Path
from typing import Self

TAIL_BYTES = 2**20


class CappedLog:
    """Writes the head as it comes and, when closed, the tail; never raises for a full disk."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._tail_room = min(TAIL_BYTES, limit_bytes // 2)
        self._head_room = limit_bytes - self._tail_room
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._left_out = 0

    def write(self, chunk: bytes) -> None:
        """Add output of any length."""
        self._put(chunk[: self._head_room])
        rest = chunk[self._head_room :]
        self._head_room -= len(chunk) - len(rest)
        if rest:
            self._tail.append(rest)
            self._tail_size += len(rest)
        while self._tail_size > self._tail_room:
            dropped = len(self._tail.popleft())
            self._tail_size -= dropped
            self._left_out += dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._left_out:
            self._put(f"\n[{self._left_out} bytes left out here]\n".encode())
        for part in self._tail:
            self._put(part)
        self._file.close()

    def _put(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._file.write(data)
