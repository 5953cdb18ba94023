"""Independent batches on the cores of a CPU, each computed by one thread.

Splitting one small operation over the cores costs a barrier an operation, which on busy machines
takes longer than the work; whole batches need none.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

_here = threading.local()
AHEAD = 2  # parts under way for each thread
LARGEST = 31 * 2**20  # bytes; glibc learns from blocks of less than 32 MiB


def each(work: Callable[[Any], Any], parts: Iterable[Any], device: str) -> Iterator[Any]:
    """``work`` of each part, in order; on a CPU as many at once as torch has threads.

    Few parts are under way at a time, so that memory does not grow with their number. ``work`` may
    call this function again, which then goes through its parts alone.
    """
    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1 or getattr(_here, "in_pool", False):
        yield from map(work, parts)
        return

    def alone(part: Any) -> Any:
        with torch.inference_mode():
            return work(part)

    waiting: deque[Future[Any]] = deque()
    try:
        for part in parts:
            waiting.append(_pool(threads).submit(alone, part))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)
        torch.set_num_threads(threads)  # the pool's threads have changed what new threads get


@cache
def keep_freed_memory() -> None:
    """Have maps that are dropped stay with the process for the next ones, on a CPU.

    glibc asks the system anew for blocks above a size, and each page of them then costs a fault at
    its first use: a twentieth of a forward pass. The size grows to that of the largest block that
    was ever given back, and so does what may stay free. The block here is never touched, so that
    it costs nothing; allocators that do not learn are not changed.
    """
    torch.empty(LARGEST, dtype=torch.uint8)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "saliency", initializer=_enter)


def _enter() -> None:
    """One thread for each operation of this thread."""
    _here.in_pool = True
    torch.get_num_threads()  # the first call takes the number from all threads' common one
    torch.set_num_threads(1)
