"""Lines of a child on their way to the database, bounded by their bytes."""

import queue
from collections import deque

from app.services.child_lines import Line

LINE_COST_BYTES = 512  # what the shortest line takes in memory


def cost_bytes(line: Line | None) -> int:
    """What a line counts against bounds of memory and of batches."""
    return LINE_COST_BYTES + (0 if line is None else line.size_bytes)


class LineQueue(queue.Queue[Line | None]):
    """A queue whose ``maxsize`` counts bytes."""

    def _init(self, maxsize: int) -> None:
        self.queue: deque[Line | None] = deque()
        self._bytes = 0
        self._closed = False

    def close(self) -> None:
        """Nobody reads any more: what comes is thrown away, so that its writer can end."""
        with self.mutex:
            self._closed = True
            self.queue.clear()
            self._bytes = 0
            self.not_full.notify_all()

    def _qsize(self) -> int:
        return self._bytes

    def _put(self, item: Line | None) -> None:
        if self._closed:
            return
        self._bytes += cost_bytes(item)
        self.queue.append(item)

    def _get(self) -> Line | None:
        item = self.queue.popleft()
        self._bytes -= cost_bytes(item)
        return item
