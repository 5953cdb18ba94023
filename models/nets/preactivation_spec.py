"""Nets of BatchNorm-ReLU-convolution units and the shapes of their convolutions. Torch-free.

Stems without pooling, stages joined by 2 x 2 means, no strided convolution: the nets of Jeong and
Shin (ICML 2019), which differ in this from the usual ones.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydantic import Field

from models.core.spec import Int, Part
from models.nets.spec import Net

Role = Literal["reallocate", "prune", "plain"]  # what a selective net may do in a unit
DENSE_LAYERS = {"densenet40": 6, "densenet100": 16, "densenet_bc190": 31}
DENSE_BLOCKS = 3
BOTTLENECK = 4  # channels between the convolutions of a dense layer, in growths


class DenseNetSpec(Net):
    """A DenseNet (Huang et al., arXiv 1608.06993) of three blocks of bottleneck layers."""

    name: Literal["densenet40", "densenet100", "densenet_bc190"]
    growth: Int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Channels that each layer adds; 40 in densenet_bc190, else 12, when null",
    )
    layers: Int | None = Field(
        default=None,
        ge=1,
        le=128,
        description="Layers of each block; 6, 16 and 31 in the three nets, when null",
    )
    compression: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of channels that a transition keeps; 0.5 in densenet_bc190, else 1",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropped after each ReLU")

    @property
    def width(self) -> int:
        """Channels that a layer adds."""
        return self.growth or (40 if self.name == "densenet_bc190" else 12)

    @property
    def depth(self) -> int:
        """Layers of a block."""
        return self.layers or DENSE_LAYERS[self.name]

    def compressed(self, channels: int) -> int:
        """Channels after a transition."""
        usual = 0.5 if self.name == "densenet_bc190" else 1.0
        return max(1, int(channels * (self.compression or usual)))


class Units(Part):
    """How the units of a net work: plainly, choosing their channels, or as left by that choice.

    Attributes:
        form: ``selective`` has a gate, a source and a shift for each slot; ``compact`` holds open
            slots alone, with batch norm folded.
        everywhere: whether units that read 3x3 windows may re-use slots too.
        open: in ``compact``, the slots of each unit in order.
    """

    form: Literal["plain", "selective", "compact"] = "plain"
    everywhere: bool = False
    open: list[int] | None = None


class UnitShape(NamedTuple):
    """One convolution; ``height`` and ``width`` in pixels are those of its map."""

    name: str
    role: Role
    c_in: int
    c_out: int
    kernel: int
    groups: int
    height: int
    width: int

    @property
    def weights(self) -> int:
        """Numbers in its filters."""
        return self.c_out * self.kernel**2 * self.c_in // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weights * self.height * self.width


def unit_shapes(
    net: DenseNetSpec, channels: int = 3, height: int = 32, width: int = 32
) -> list[UnitShape]:
    """Every convolution of ``net`` in order, the stem first."""
    return list(_dense(net, channels, height, width))


def _dense(net: DenseNetSpec, channels: int, height: int, width: int) -> Iterator[UnitShape]:
    inner, c = BOTTLENECK * net.width, 2 * net.width
    yield UnitShape("stem", "plain", channels, c, 3, 1, height, width)
    for block in range(DENSE_BLOCKS):
        for layer in range(net.depth):
            place = f"features.block{block}.{layer}"
            yield UnitShape(f"{place}.reduce", "reallocate", c, inner, 1, 1, height, width)
            yield UnitShape(f"{place}.grow", "prune", inner, net.width, 3, 1, height, width)
            c += net.width
        if block + 1 == DENSE_BLOCKS:
            return
        if net.compressed(c) < c:
            out = net.compressed(c)
            yield UnitShape(
                f"features.transition{block}.unit", "reallocate", c, out, 1, 1, height, width
            )
            c = out
        height, width = height // 2, width // 2
