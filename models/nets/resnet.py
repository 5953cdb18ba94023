"""Residual nets (He et al., arXiv 1512.03385), small ones for 32 px and those of ImageNet.

Departures: projection shortcuts wherever the shape changes (option B) in the small nets too, and
the stride of a bottleneck on its 3x3 convolution ("v1.5"). Any input size is accepted.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.nets.spec import BLOCKS, EXPANSION, ResidualNet


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the (projected) input."""

    def __init__(self, c_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(c_in, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = _conv(channels, channels, 3, 1), nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(c_in, channels, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        out = torch.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times wider at the end, added to the input."""

    def __init__(self, c_in: int, channels: int, stride: int) -> None:
        super().__init__()
        c_out = channels * EXPANSION
        self.conv1, self.norm1 = _conv(c_in, channels, 1, 1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = _conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.norm3 = _conv(channels, c_out, 1, 1), nn.BatchNorm2d(c_out)
        self.shortcut = _shortcut(c_in, c_out, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        out = torch.relu(self.norm1(self.conv1(x)))
        out = torch.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of residual blocks, mean over the map, linear classifier.

    Args:
        spec: which net.
        num_classes: outputs.
        channels: of the input images.
    """

    def __init__(self, spec: ResidualNet, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        width, large = spec.channels, spec.stem == "7x7"
        self.stem = _conv(channels, width, 7, 2) if large else _conv(channels, width, 3, 1)
        self.stem_norm = nn.BatchNorm2d(width)
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        make = Bottleneck if spec.name == "resnet50" else BasicBlock
        expansion = EXPANSION if spec.name == "resnet50" else 1
        stages, c_in = [], width
        for stage, count in enumerate(BLOCKS[spec.name]):
            inner = width * 2**stage
            blocks = [make(c_in, inner, stride=2 if stage > 0 else 1)]
            c_in = inner * expansion
            blocks += [make(c_in, inner, stride=1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(spec.features, num_classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = self.stem_pool(torch.relu(self.stem_norm(self.stem(x))))
        return self.head(self.stages(x).mean((2, 3)))


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size, with He's normal initialisation."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """The identity, or a 1x1 convolution and batch norm where the shape changes."""
    if stride == 1 and c_in == c_out:
        return nn.Sequential()
    return nn.Sequential(_conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))
