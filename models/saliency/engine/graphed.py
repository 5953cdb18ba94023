"""The outputs for all regions of an image as one CUDA graph, replayed by a single launch.

A graph depends on the plan and the regions only; image and baseline are copied into its buffers.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency.engine.incremental import BaseActivations, Changes

WARMUP = 2  # eager passes before the capture; they build routes and select cuDNN algorithms


class GraphedChanges:
    """The outputs of :class:`Changes`, captured as a CUDA graph.

    Args:
        changes: the plan and the regions.
        x: an image to capture with.
        b: a baseline image to capture with.

    Raises:
        RuntimeError: if an operation cannot be captured.
    """

    def __init__(
        self, changes: Changes, x: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"]
    ) -> None:
        self.x, self.b = x.clone(), b.clone()
        order = np.argsort(np.concatenate(changes.groups))
        self._order = torch.from_numpy(order).to(x.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self._pass(changes)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._outputs = self._pass(changes)

    def _pass(self, changes: Changes) -> Float[Tensor, "n classes"]:
        base = BaseActivations(changes.plan, self.x)
        batches = [outputs for _, outputs in changes.outputs(base, self.b)]
        return torch.cat(batches)[self._order]

    def __call__(
        self, x: Float[Tensor, "c h w"], b: Float[Tensor, "c h w"]
    ) -> Float[Tensor, "n classes"]:
        """The net's outputs for image ``x``, one row for each region, in their order."""
        self.x.copy_(x)
        self.b.copy_(b)
        self._graph.replay()
        return self._outputs.clone()
