"""Independent batches on the cores of a CPU, each computed by one thread.

Splitting one small operation over the cores costs a barrier an operation, which on busy machines
takes longer than the work; whole batches need none.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def each(work: Callable[[Any], Any], parts: Sequence[Any], device: str) -> Iterator[Any]:
    """``work`` of each part, in order; on a CPU as many at once as torch has threads."""
    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1 or len(parts) == 1:
        yield from map(work, parts)
        return

    def alone(part: Any) -> Any:
        with torch.inference_mode():
            return work(part)

    futures = [_pool(threads).submit(alone, part) for part in parts]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
        torch.set_num_threads(threads)  # the pool's threads have changed what new threads get


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "saliency", initializer=lambda: torch.set_num_threads(1))
