"""Wide residual nets (Zagoruyko and Komodakis, arXiv 1605.07146), pre-activation, no dropout."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.nets.spec import WideResNet


class WideBlock(nn.Module):
    """Norm, ReLU, 3x3, norm, ReLU, 3x3; a projection sees the activated input."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), _conv(c_in, c_out, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(c_out), _conv(c_out, c_out, 3, 1)
        self.projects = stride != 1 or c_in != c_out
        self.shortcut = _conv(c_in, c_out, 1, stride) if self.projects else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        active = torch.relu(self.norm1(x))
        out = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return out + self.shortcut(active if self.projects else x)


class WideNet(nn.Module):
    """3x3 stem of 16 channels, three stages, norm, mean over the map, linear classifier.

    Args:
        spec: which net.
        num_classes: outputs.
        channels: of the input images.
    """

    def __init__(self, spec: WideResNet, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = _conv(channels, 16, 3, 1)
        stages, c_in = [], 16
        for stage in range(3):
            c_out = 16 * 2**stage * spec.widen
            blocks = [WideBlock(c_in, c_out, stride=2 if stage > 0 else 1)]
            blocks += [WideBlock(c_out, c_out, stride=1) for _ in range(spec.blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(c_in)
        self.head = nn.Linear(spec.features, num_classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = torch.relu(self.norm(self.stages(self.stem(x))))
        return self.head(x.mean((2, 3)))


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size, with He's normal initialisation."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
