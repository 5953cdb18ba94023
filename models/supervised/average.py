"""A moving average of a net over its steps, which is tested and left in place of the last one."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

YOUNG = 10  # steps: after so many the first weights count for a tenth


class Average:
    """a <- d a + (1 - d) w after each step, of weights and running statistics.

    d is the smaller of ``decay`` and (1 + n) / (10 + n) at the n-th step, so that the first, random
    weights are soon forgotten. Whole numbers are those of the net.

    Args:
        net: on its device, in its memory format; its tensors keep their places.
        decay: in (0, 1).

    Attributes:
        tensors: the average by the names of the ``state_dict``, each of the shape of its tensor.
        steps: float64 [], how many it has seen since it began.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self._net = dict(net.state_dict())
        self._decay = decay
        self.tensors = {name: x.clone() for name, x in self._net.items()}
        self.steps = torch.zeros((), dtype=torch.float64)
        self._moving = [name for name, x in self._net.items() if x.is_floating_point()]
        self._counts = [name for name in self._net if name not in self._moving]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the net after a step; never waits for a GPU."""
        n = float(self.steps)
        decay = min(self._decay, (1 + n) / (YOUNG + n))
        self.steps += 1
        mean = [self.tensors[name] for name in self._moving]
        torch._foreach_lerp_(mean, [self._net[name] for name in self._moving], 1 - decay)
        for name in self._counts:
            self.tensors[name].copy_(self._net[name])

    def restart(self) -> None:
        """Begin anew at the present net."""
        _copy(self._net, self.tensors)
        self.steps.zero_()

    def install(self) -> None:
        """Make the net the average."""
        _copy(self.tensors, self._net)

    @contextmanager
    def installed(self) -> Generator[None]:
        """Inside, the net is the average; afterwards it has its own bits again."""
        kept = {name: x.clone() for name, x in self._net.items()}
        self.install()
        try:
            yield
        finally:
            _copy(kept, self._net)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps; restored in place."""
        return {**self.tensors, "average.steps": self.steps}


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, x in source.items():
        target[name].copy_(x)
