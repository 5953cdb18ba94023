"""A net as a list of steps that can also compute boxes of their results.

A plan comes from the graph of ``torch.export`` and takes any batch size. Batch norm in evaluation
mode is folded into the preceding convolution, which also takes over padding, addition and
activation; weights are in channels-last order. A local step (convolution, pooling, element-wise
operation) can compute a box of its result; all others need whole maps.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.saliency.engine.bands import banded
from models.saliency.engine.step import PlanStep
from models.saliency.engine.threads import each


class ExecutionPlan:
    """Executes a net step by step.

    Args:
        image: name of the input value.
        steps: in topological order.
        output: name of the output value.
        shapes: channels, height and width of each value that is a batch of maps.
    """

    def __init__(
        self,
        image: str,
        steps: list[PlanStep],
        output: str,
        shapes: Mapping[str, tuple[int, int, int]],
    ) -> None:
        self.image, self.steps, self.output, self.shapes = image, steps, output, shapes
        self.last_use = last_uses(steps, output)

    @cached_property
    def _whole(self) -> tuple[list[PlanStep], dict[str, list[str]]]:
        """Steps for whole maps, chains included, and the values last used by each."""
        steps = banded(self.steps, self.shapes)
        return steps, last_uses(steps, self.output)

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Outputs for a batch, which the cores of a CPU share."""
        device = images.device.type
        count = torch.get_num_threads() if device == "cpu" else 1
        return torch.cat(list(each(self._run, images.chunk(count), device)))

    def _run(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Outputs for a batch; each value is freed after its last use."""
        values: dict[str, Any] = {self.image: images.contiguous(memory_format=torch.channels_last)}
        steps, last_use = self._whole
        for step in steps:
            values[step.name] = step.call(*(values[name] for name in step.inputs))
            for name in last_use[step.name]:
                del values[name]
        return values[self.output]

    def values(self, images: Float[Tensor, "n c h w"]) -> dict[str, Any]:
        """All intermediate values for a batch, by name."""
        values: dict[str, Any] = {self.image: images.contiguous(memory_format=torch.channels_last)}
        for step in self.steps:
            values[step.name] = step.call(*(values[name] for name in step.inputs))
        return values

    def row_bytes(self, itemsize: int) -> int:
        """Peak memory of the maps of one image in bytes, at ``itemsize`` bytes per value."""
        live = {self.image} & self.shapes.keys()
        most = 0
        for step in self.steps:
            live |= {step.name} & self.shapes.keys()
            most = max(most, sum(math.prod(self.shapes[name]) for name in live))
            live -= set(self.last_use[step.name])
        return itemsize * most


def last_uses(steps: list[PlanStep], output: str) -> dict[str, list[str]]:
    """For each step, its inputs that no later step needs."""
    seen = {output}
    last_use: dict[str, list[str]] = {}
    for step in reversed(steps):
        last_use[step.name] = [name for name in dict.fromkeys(step.inputs) if name not in seen]
        seen.update(step.inputs)
    return last_use
