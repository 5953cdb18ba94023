"""Operations of sparse training, counted as the papers count them. Torch-free.

Counted operations are not time: masked tensors are multiplied in full. Reports show both.
"""

from collections.abc import Sequence
from typing import NamedTuple

from models.freetickets.densities import MaskableLayer


class Costs(NamedTuple):
    """Multiply-accumulates of a forward pass over one image; backward counts twice.

    Attributes:
        dense: of all weights.
        sparse: of the active weights.
        interval: steps between updates; None where the masks rest.
    """

    dense: float
    sparse: float
    interval: int | None

    @property
    def forward_ratio(self) -> float:
        """Sparse over dense: of inference, and of a step where nothing is dense."""
        return self.sparse / self.dense

    @property
    def counted_ratio(self) -> float:
        """Of a training step over a dense one, RigL's convention: dense gradients at updates only.

        (3 f_S dT + 2 f_S + f_D) / (3 f_D (dT + 1)).
        """
        if self.interval is None:
            return self.forward_ratio
        t = self.interval
        return (3 * self.sparse * t + 2 * self.sparse + self.dense) / (3 * self.dense * (t + 1))

    @property
    def executed_ratio(self) -> float:
        """As masked execution could do at best: the gradient of the weights is always dense."""
        if self.sparse == self.dense:
            return 1.0
        return (2 * self.sparse + self.dense) / (3 * self.dense)


def costs(layers: Sequence[MaskableLayer], shares: Sequence[float], interval: int | None) -> Costs:
    """Operations of a net whose layers have these shares of active weights."""
    dense = sum(layer.macs for layer in layers)
    sparse = sum(layer.macs * share for layer, share in zip(layers, shares, strict=True))
    return Costs(float(dense), float(sparse), interval)
