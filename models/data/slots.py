"""Memory that several processes share, in slots of one size.

It has no name in a file system: /dev/shm, where Python and torch put shared memory, is 64 MB in a
container by default. Through pipes the receiving thread would copy every batch several times.
"""

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from jaxtyping import UInt8


class Slots:
    """Slots of bytes, for this process and those that it starts with this object as an argument.

    Args:
        count: slots.
        size: of each, in bytes.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("slots")
        else:  # on macOS
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())
        os.ftruncate(self._file, count * size)
        self._bytes = self._mapped()

    def _mapped(self) -> UInt8[np.ndarray, "bytes"]:
        return np.frombuffer(mmap.mmap(self._file, self.count * self.size), np.uint8)

    def array(self, slot: int, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
        """The first bytes of a slot as an array, of whose values all processes know.

        Args:
            slot: from 0.
            shape: of no more bytes than a slot has.
        """
        start = slot * self.size
        return self._bytes[start : start + int(np.prod(shape))].reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self.count, "size": self.size, "file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.count, self.size = state["count"], state["size"]
        self._file = state["file"].detach()
        self._bytes = self._mapped()

    def __del__(self) -> None:
        os.close(self._file)
