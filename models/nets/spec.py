"""Which residual nets exist and the shapes of their convolutions. Torch-free.

The API counts operations and checks layer names with :func:`conv_shapes`; ``resnet.py`` and
``wide_resnet.py`` build the same nets from the same tables, and a test holds them together.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from models.core.spec import Int, SpecGroup

SMALL = ("resnet8", "resnet14", "resnet20", "resnet56")  # three stages, for images of about 32 px
BLOCKS = {
    "resnet8": (1, 1, 1),
    "resnet14": (2, 2, 2),
    "resnet20": (3, 3, 3),
    "resnet56": (9, 9, 9),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
IMAGENET_MARGIN = 256 / 224  # resize to 256, keep the central 224
EXPANSION = 4  # of the bottleneck blocks of resnet50


class Net(SpecGroup):
    """A net by name; each family adds the fields that shape it."""

    name: str

    def architecture(self) -> dict[str, Any]:
        """What a file tells of the net, so that ``nets.build`` makes it again."""
        return self.model_dump()


class Pretrained(SpecGroup):
    """A net whose trained weights come with a Python package of the extra ``samples``."""

    pretrained: Literal["efficientnet_lite0"] = Field(
        description="EfficientNet-Lite0 trained on ImageNet, 1,000 classes, 224 x 224 RGB"
    )


class ResidualNet(Net):
    """A residual net (He et al., arXiv 1512.03385) with projection shortcuts."""

    name: Literal["resnet8", "resnet14", "resnet20", "resnet56", "resnet18", "resnet34", "resnet50"]
    # Below 16, the NHWC backward pass of strided 1x1 convolutions in torch 2.11 and 2.13 writes out
    # of bounds on CPUs (oneDNN issue 6035: fewer input channels than a vector) and kills the
    # process.
    width: Int | None = Field(
        default=None,
        ge=16,
        le=512,
        description="Channels of the first stage; 16 in resnet8 to resnet56, else 64, when null",
    )
    stem: Literal["3x3", "7x7"] = Field(
        default="3x3",
        description="First convolution: 3x3 for images of about 32 px, 7x7 of stride 2 and a"
        " pooling for ImageNet sizes (resnet18, resnet34, resnet50 only)",
    )

    @model_validator(mode="after")
    def _stem_fits(self) -> "ResidualNet":
        if self.stem == "7x7" and self.name in SMALL:
            raise ValueError(f"stem 7x7 needs resnet18, resnet34 or resnet50, not {self.name}")
        return self

    @property
    def channels(self) -> int:
        """Channels of the first stage."""
        return self.width or (16 if self.name in SMALL else 64)

    @property
    def features(self) -> int:
        """Channels that reach the classifier."""
        last = self.channels * 2 ** (len(BLOCKS[self.name]) - 1)
        return last * EXPANSION if self.name == "resnet50" else last


class WideResNet(Net):
    """A wide residual net with pre-activation (Zagoruyko and Komodakis, arXiv 1605.07146)."""

    name: Literal["wide_resnet"]
    depth: Int = Field(
        default=16, ge=10, le=100, description="Layers, 6 n + 4: 10, 16, 22, 28, 34, 40, ..."
    )
    widen: Int = Field(
        default=4, ge=1, le=20, description="Factor on the channels 16, 32 and 64 of the stages"
    )

    @model_validator(mode="after")
    def _depth_fits(self) -> "WideResNet":
        if self.depth % 6 != 4:
            below = 6 * ((self.depth - 4) // 6) + 4
            raise ValueError(
                f"depth {self.depth} is not 6 n + 4; the nearest are {below} and {below + 6}"
            )
        return self

    @property
    def blocks(self) -> int:
        """Blocks of each of the three stages."""
        return (self.depth - 4) // 6

    @property
    def features(self) -> int:
        """Channels that reach the classifier."""
        return 64 * self.widen


ResidualFamily = Annotated[ResidualNet | WideResNet, Field(discriminator="name")]


class ConvShape(NamedTuple):
    """One convolution of a net: where it is, what it does, the size of its input.

    ``height`` and ``width`` are those of its input in pixels; ``padding`` is (kernel - 1) / 2.
    """

    name: str
    c_in: int
    c_out: int
    kernel: int
    stride: int
    height: int
    width: int

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of its output in pixels."""
        return -(-self.height // self.stride), -(-self.width // self.stride)


def conv_shapes(
    net: ResidualNet | WideResNet, in_channels: int, height: int, width: int
) -> list[ConvShape]:
    """Every convolution of ``net`` in order, for an input of ``height`` x ``width`` pixels.

    Args:
        net: which net.
        in_channels: of its images.
        height: of the images, in pixels.
        width: likewise.
    """
    if isinstance(net, WideResNet):
        return list(_wide_shapes(net, in_channels, (height, width)))
    kernel, stride = (7, 2) if net.stem == "7x7" else (3, 1)
    stem = ConvShape("stem", in_channels, net.channels, kernel, stride, height, width)
    shapes = [stem]
    size = stem.out
    if net.stem == "7x7":
        size = (-(-size[0] // 2), -(-size[1] // 2))  # max-pooling of stride 2
    c_in = net.channels
    for stage, blocks in enumerate(BLOCKS[net.name]):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            prefix = f"stages.{stage}.{block}"
            added = list(_block(net, prefix, c_in, net.channels * 2**stage, stride, size))
            shapes += added
            last = next(shape for shape in reversed(added) if "shortcut" not in shape.name)
            c_in, size = last.c_out, last.out
    return shapes


def _block(
    net: ResidualNet, prefix: str, c_in: int, channels: int, stride: int, size: tuple[int, int]
) -> Iterator[ConvShape]:
    """The convolutions of one residual block, the projection last if there is one."""
    if net.name == "resnet50":
        plan = [(1, 1, channels), (3, stride, channels), (1, 1, channels * EXPANSION)]
    else:
        plan = [(3, stride, channels), (3, 1, channels)]
    c_out, inner, inner_size = plan[-1][2], c_in, size
    for index, (kernel, step, out) in enumerate(plan, 1):
        shape = ConvShape(f"{prefix}.conv{index}", inner, out, kernel, step, *inner_size)
        inner, inner_size = out, shape.out
        yield shape
    if stride != 1 or c_in != c_out:
        yield ConvShape(f"{prefix}.shortcut.0", c_in, c_out, 1, stride, *size)


def _wide_shapes(net: WideResNet, in_channels: int, size: tuple[int, int]) -> Iterator[ConvShape]:
    """The convolutions of a wide net; the projection of a block after its two others."""
    yield ConvShape("stem", in_channels, 16, 3, 1, *size)
    c_in = 16
    for stage in range(3):
        c_out = 16 * 2**stage * net.widen
        for block in range(net.blocks):
            prefix, stride = f"stages.{stage}.{block}", 2 if stage > 0 and block == 0 else 1
            first = ConvShape(f"{prefix}.conv1", c_in, c_out, 3, stride, *size)
            yield first
            yield ConvShape(f"{prefix}.conv2", c_out, c_out, 3, 1, *first.out)
            if stride != 1 or c_in != c_out:
                yield ConvShape(f"{prefix}.shortcut", c_in, c_out, 1, stride, *size)
            c_in, size = c_out, first.out
