"""Nets of BatchNorm-ReLU-convolution units and the shapes of their convolutions. Torch-free.

Stems without pooling, stages joined by 2 x 2 means, no strided convolution: the nets of Jeong and
Shin (ICML 2019), which differ in this from the usual ones.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from models.core.spec import Int, SpecGroup
from models.nets.spec import Net

Role = Literal["reallocate", "prune", "plain"]  # what a selective net may do in a unit
DENSE_LAYERS = {"densenet40": 6, "densenet100": 16, "densenet_bc190": 31}
STAGES = 3  # of every net here, with maps of half the side each
BOTTLENECK = 4  # channels between the convolutions of a dense layer, in growths
CONDENSED_GROUPS = 4  # of the 3x3 convolutions of a CondenseNet
EXPANSION = 4  # channels of a residual stage, in widths


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
    def growths(self) -> tuple[int, ...]:
        """Channels that a layer of each block adds."""
        return (self.growth or (40 if self.name == "densenet_bc190" else 12),) * STAGES

    @property
    def depth(self) -> int:
        """Layers of a block."""
        return self.layers or DENSE_LAYERS[self.name]

    @property
    def groups(self) -> int:
        """Of the 3x3 convolutions."""
        return 1

    @property
    def roles(self) -> tuple[Role, Role]:
        """Of the 1x1 and of the 3x3 of a layer."""
        return "reallocate", "prune"

    def compressed(self, channels: int) -> int:
        """Channels after a transition."""
        usual = 0.5 if self.name == "densenet_bc190" else 1.0
        return max(1, int(channels * (self.compression or usual)))


class CondenseNetSpec(Net):
    """A CondenseNet (Huang et al., arXiv 1711.09224) whose 1x1 convolutions are dense at first.

    Its 1x1 convolutions close slots, in place of the condensation; nothing re-uses them.
    """

    name: Literal["condensenet182"]
    growth: Int = Field(
        default=12,
        ge=4,
        le=512,
        multiple_of=CONDENSED_GROUPS,
        description="Channels that each layer of the first block adds; doubled in the next ones",
    )
    layers: Int = Field(default=30, ge=1, le=128, description="Layers of each block")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Dropped after the ReLU before each 1x1"
    )

    @property
    def growths(self) -> tuple[int, ...]:
        """Channels that a layer of each block adds."""
        return tuple(self.growth * 2**block for block in range(STAGES))

    @property
    def depth(self) -> int:
        """Layers of a block."""
        return self.layers

    @property
    def roles(self) -> tuple[Role, Role]:
        """Of the 1x1 and of the 3x3 of a layer."""
        return "prune", "plain"

    @property
    def groups(self) -> int:
        """Of the 3x3 convolutions."""
        return CONDENSED_GROUPS

    def compressed(self, channels: int) -> int:
        """Channels after a transition, which only halves the map."""
        return channels


class BottleneckNetSpec(Net):
    """A residual net of bottlenecks with pre-activation; shortcuts are widened with zeros.

    resnet164 (He et al., arXiv 1603.05027), resnext29 (Xie et al., arXiv 1611.05431).
    """

    name: Literal["resnet164", "resnext29"]
    width: Int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Channels of the stem, doubled in each stage; 16 in resnet164, 64 in"
        " resnext29, when null",
    )
    blocks: Int | None = Field(
        default=None,
        ge=1,
        le=128,
        description="Blocks of each of the three stages; 18 in resnet164, 3 in resnext29",
    )

    @property
    def dropout(self) -> float:
        """None in these nets."""
        return 0.0

    @property
    def groups(self) -> int:
        """Of the 3x3 convolutions."""
        return 8 if self.name == "resnext29" else 1

    @property
    def channels(self) -> int:
        """Channels of the stem."""
        return self.width or (64 if self.name == "resnext29" else 16)

    @property
    def depth(self) -> int:
        """Blocks of a stage."""
        return self.blocks or (3 if self.name == "resnext29" else 18)

    def inner(self, stage: int) -> int:
        """Channels of the 3x3 convolutions of a stage."""
        return self.channels * self.groups * 2**stage

    def outer(self, stage: int) -> int:
        """Channels between the blocks of a stage."""
        return self.channels * EXPANSION * 2**stage


DenseFamily = DenseNetSpec | CondenseNetSpec
PreactivationNet = Annotated[
    DenseNetSpec | CondenseNetSpec | BottleneckNetSpec, Field(discriminator="name")
]


class Units(SpecGroup):
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
    net: DenseFamily | BottleneckNetSpec, channels: int = 3, height: int = 32, width: int = 32
) -> list[UnitShape]:
    """Every convolution of ``net`` in order, the stem first.

    Args:
        net: which net.
        channels: of its images.
        height: of the images, in pixels.
        width: likewise.
    """
    if isinstance(net, BottleneckNetSpec):
        return list(_bottlenecks(net, channels, height, width))
    return list(_dense(net, channels, height, width))


def _dense(net: DenseFamily, channels: int, height: int, width: int) -> Iterator[UnitShape]:
    c = 2 * net.growths[0]
    first, second = net.roles
    yield UnitShape("stem", "plain", channels, c, 3, 1, height, width)
    for block, growth in enumerate(net.growths):
        inner = BOTTLENECK * growth
        for layer in range(net.depth):
            prefix = f"features.block{block}.{layer}"
            yield UnitShape(f"{prefix}.reduce", first, c, inner, 1, 1, height, width)
            yield UnitShape(f"{prefix}.grow", second, inner, growth, 3, net.groups, height, width)
            c += growth
        if block + 1 == STAGES:
            return
        if net.compressed(c) < c:
            out = net.compressed(c)
            yield UnitShape(
                f"features.transition{block}.unit", "reallocate", c, out, 1, 1, height, width
            )
            c = out
        height, width = height // 2, width // 2


def _bottlenecks(
    net: BottleneckNetSpec, channels: int, height: int, width: int
) -> Iterator[UnitShape]:
    c, groups = net.channels, net.groups
    middle: Role = "prune" if groups == 1 else "plain"
    yield UnitShape("stem", "plain", channels, c, 3, 1, height, width)
    for stage in range(STAGES):
        inner, outer = net.inner(stage), net.outer(stage)
        for block in range(net.depth):
            prefix = f"features.stage{stage}.{block}"
            yield UnitShape(f"{prefix}.reduce", "reallocate", c, inner, 1, 1, height, width)
            yield UnitShape(f"{prefix}.mix", middle, inner, inner, 3, groups, height, width)
            yield UnitShape(f"{prefix}.expand", "reallocate", inner, outer, 1, 1, height, width)
            c = outer
        height, width = height // 2, width // 2
