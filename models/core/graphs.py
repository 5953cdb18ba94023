"""One CUDA graph for each kind of step: small nets are bound by launches without.

Parameters, gradients and optimizer state keep their addresses; batches are copied into buffers of
the graph; the graphs share a memory pool, so only the largest step counts.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.core.steps import Batch, Mode

WARMUP = 3  # eager steps of a kind, real ones, before it is recorded


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor


class GraphedStep:
    """Calls like ``step(mode, batch)``, recorded once for each mode and shape.

    Args:
        step: does one optimizer step on the GPU without waiting for it; gives the loss.
        warn: told the reason when recording fails; steps then stay eager.
    """

    def __init__(self, step: Callable[[Mode, Batch], Tensor], warn: Callable[[str], None]) -> None:
        self._step = step
        self._warn = warn
        self._stream = torch.cuda.Stream()
        self._seen: Counter[tuple[Mode, torch.Size]] = Counter()
        self._recorded: dict[tuple[Mode, torch.Size], _Recorded] = {}
        self._gave_up = False

    def __call__(self, mode: Mode, batch: Batch) -> Tensor:
        key = (mode, batch.images.shape)
        self._seen[key] += 1
        if self._gave_up or self._seen[key] <= WARMUP:
            return self._eagerly(mode, batch)
        if key not in self._recorded:
            try:
                self._recorded[key] = self._record(mode, batch)
            except RuntimeError as error:
                self._gave_up = True
                self._warn(f"steps run without CUDA graphs: {error}")
                return self._eagerly(mode, batch)
        graph, buffers, loss = self._recorded[key]
        buffers.images.copy_(batch.images)
        buffers.labels.copy_(batch.labels)
        graph.replay()
        return loss.clone()

    def _eagerly(self, mode: Mode, batch: Batch) -> Tensor:
        """On the stream that records, where autograd must have seen the parameters before."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._step(mode, batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, mode: Mode, batch: Batch) -> _Recorded:
        """Record without executing."""
        buffers = Batch(batch.images.clone(), batch.labels.clone())
        pool = next((recorded.graph.pool() for recorded in self._recorded.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream):
            loss = self._step(mode, buffers)
        return _Recorded(graph, buffers, loss)
