"""Which of several ways to compute the same is the fastest here, by interleaved timing.

On a GPU each way is recorded as a CUDA graph first. Layers of small nets take microseconds; without
graphs a timing would compare how long the host takes to launch them.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

Way = Callable[[Tensor], Tensor]
WARMUP = 3  # calls in which libraries choose their algorithms, before recording


class GraphedCall:
    """A way as one CUDA graph for inputs of one shape; the answer lives until the next call."""

    def __init__(self, way: Way, x: Tensor) -> None:
        self._x = x.clone(memory_format=torch.preserve_format)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                way(self._x)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = way(self._x)

    def __call__(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        self._graph.replay()
        return self._out


def recorded(way: Way, x: Tensor) -> Way:
    """The way as a CUDA graph where there is a GPU, as it is where there is none.

    ``x`` [b, ...] is an input of the shape to come.

    Raises:
        RuntimeError: if the way cannot run on the GPU or cannot be recorded.
    """
    return GraphedCall(way, x) if x.is_cuda else way


@torch.inference_mode()
def medians(ways: Mapping[str, Way], x: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of a call of each way; the ways take turns, each call is waited for.

    Args:
        ways: by name.
        x: input [b, ...] of each call.
        rounds: calls of each way.
    """
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            wait(x)
            started = time.perf_counter()
            way(x)
            wait(x)
            spent[name].append(1000 * (time.perf_counter() - started))
    return {name: median(times) for name, times in spent.items()}


def wait(x: Tensor) -> None:
    """Wait until the device of ``x`` [...] has done what it was asked to."""
    if x.is_cuda:
        torch.cuda.synchronize()
