"""Independent batches on the cores of a CPU, one thread per batch.

Parallelism within one small operation needs a barrier per operation, which on a busy machine takes
longer than the work itself; parallelism over batches needs none.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

_here = threading.local()
AHEAD = 2  # parts submitted per thread before a result is awaited
LARGEST = 31 * 2**20  # bytes; glibc adapts its threshold to blocks below 32 MiB


def each(work: Callable[[Any], Any], parts: Iterable[Any], device: str) -> Iterator[Any]:
    """Yield ``work(part)`` for each part, in order; on a CPU in as many threads as torch has.

    Only a few parts are in progress at a time, so memory does not grow with their number. A nested
    call, made by ``work``, runs serially in its thread.

    Args:
        work: called with each part.
        parts: independent of each other.
        device: type of the device; anything but ``cpu`` runs serially.
    """
    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1 or getattr(_here, "in_pool", False):
        yield from map(work, parts)
        return

    def run(part: Any) -> Any:
        with torch.inference_mode():
            return work(part)

    waiting: deque[Future[Any]] = deque()
    try:
        for part in parts:
            waiting.append(_pool(threads).submit(run, part))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)
        torch.set_num_threads(threads)  # the pool has changed the default of new threads


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed feature maps in the process, so that the next ones reuse their pages.

    glibc allocates blocks above its mmap threshold with mmap, and each page then causes a page
    fault at its first use: 5 % of a forward pass. Freeing a block raises that threshold, and the
    trim threshold with it, to the size of the block. The block freed here is never touched, so it
    costs nothing; other allocators are unaffected.
    """
    torch.empty(LARGEST, dtype=torch.uint8)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "saliency", initializer=_enter)


def _enter() -> None:
    """Limit the operations of a pool thread to that thread."""
    _here.in_pool = True
    torch.get_num_threads()  # the first call would otherwise reset the number to the default
    torch.set_num_threads(1)
