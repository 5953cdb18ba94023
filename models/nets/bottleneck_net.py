"""Residual nets of bottlenecks with pre-activation, for small images: ResNet-164, ResNeXt-29."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.nets.preactivation import MakeUnit, conv
from models.nets.preactivation_spec import STAGES, BottleneckNetSpec, Role


class PreactivationBottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to the input, which is widened with channels of zeros.

    Args:
        c_in: input channels.
        inner: channels between.
        c_out: output channels, no fewer than ``c_in``.
        groups: of the 3x3.
        make: makes the units.
    """

    def __init__(self, c_in: int, inner: int, c_out: int, groups: int, make: MakeUnit) -> None:
        super().__init__()
        middle: Role = "prune" if groups == 1 else "plain"
        self.reduce = make(c_in, inner, 1, "reallocate")
        self.mix = make(inner, inner, 3, middle, groups)
        self.expand = make(inner, c_out, 1, "reallocate")
        self.added = c_out - c_in

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        out = self.expand(self.mix(self.reduce(x)))
        return out + (functional.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x)


class BottleneckNet(nn.Module):
    """Takes normalised images of any size from 4 x 4 on; gives logits.

    Args:
        spec: which net.
        num_classes: outputs.
        channels: of the input images.
        make: makes the units.
    """

    def __init__(
        self, spec: BottleneckNetSpec, num_classes: int, channels: int, make: MakeUnit
    ) -> None:
        super().__init__()
        c = spec.channels
        self.stem = conv(channels, c, 3)
        self.features = nn.Sequential()  # in order of use, which is the order of the units
        for stage in range(STAGES):
            inner, outer = spec.inner(stage), spec.outer(stage)
            blocks = [
                PreactivationBottleneck(outer if block else c, inner, outer, spec.groups, make)
                for block in range(spec.depth)
            ]
            self.features.add_module(f"stage{stage}", nn.Sequential(*blocks))
            c = outer
            if stage + 1 < STAGES:
                self.features.add_module(f"means{stage}", nn.AvgPool2d(2))
        self.norm = nn.BatchNorm2d(c)
        self.head = nn.Linear(c, num_classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = self.features(self.stem(x))
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))
