"""One CUDA graph for each kind of step: small nets are otherwise limited by kernel-launch overhead.

Parameters, gradients and optimizer state keep their addresses; batches are copied into buffers of
the graph; the graphs share a memory pool, so only the largest step counts.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from models.core import ranks

WARMUP = 3  # eager steps of a kind, real ones, before it is recorded
WARMUP_OF_RANKS = 11  # of any kind: DistributedDataParallel measures and regroups in its first ten
Kind = TypeVar("Kind", bound=Hashable)
Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: Any
    loss: Tensor


class GraphedStep(Generic[Kind, Batch]):
    """Calls like ``step(kind, batch)``, recorded once for each kind and shapes.

    Args:
        step: does one optimizer step on the GPU without waiting for it; gives the loss. The batch
            is a NamedTuple of tensors.
        warn: called with the reason when recording fails; steps then stay eager. With several
            processes that is an error: the others may have recorded.
    """

    def __init__(self, step: Callable[[Kind, Batch], Tensor], warn: Callable[[str], None]) -> None:
        self._step = step
        self._warn = warn
        self._stream = torch.cuda.Stream()
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, _Recorded] = {}
        self._gave_up = False

    def __call__(self, kind: Kind, batch: Batch) -> Tensor:
        key = (kind, tuple(tensor.shape for tensor in batch))
        self._seen[key] += 1
        if self._gave_up or self._is_fresh(key):
            return self._eagerly(kind, batch)
        if key not in self._recorded:
            try:
                self._recorded[key] = self._record(kind, batch)
            except RuntimeError as error:
                if ranks.world_size() > 1:
                    raise
                self._gave_up = True
                self._warn(f"steps run without CUDA graphs: {error}")
                return self._eagerly(kind, batch)
        graph, buffers, loss = self._recorded[key]
        for buffer, tensor in zip(buffers, batch, strict=True):
            buffer.copy_(tensor)
        graph.replay()
        return loss.clone()

    def _is_fresh(self, key: Hashable) -> bool:
        """Whether a kind of step has to be seen more often before it is recorded."""
        if ranks.world_size() > 1 and self._seen.total() <= WARMUP_OF_RANKS:
            return True
        return self._seen[key] <= WARMUP

    def _eagerly(self, kind: Kind, batch: Batch) -> Tensor:
        """On the stream that records, where autograd must have seen the parameters before."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._step(kind, batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, kind: Kind, batch: Batch) -> _Recorded:
        """Record without executing."""
        buffers = type(batch)._make(tensor.clone() for tensor in batch)  # ty: ignore[missing-attribute]  # a NamedTuple
        pool = next((recorded.graph.pool() for recorded in self._recorded.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream):
            loss = self._step(kind, buffers)
        return _Recorded(graph, buffers, loss)
