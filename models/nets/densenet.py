"""Dense nets for small images: stem, three blocks of bottleneck layers, linear classifier."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.nets.preactivation import MakeUnit, conv
from models.nets.preactivation_spec import BOTTLENECK, STAGES, DenseFamily


class DenseLayer(nn.Module):
    """1x1 to four growths, 3x3 to one growth; the result is appended to the input.

    Args:
        c_in: input channels.
        growth: channels that it appends.
        spec: names roles and groups.
        make: makes the units.
    """

    def __init__(self, c_in: int, growth: int, spec: DenseFamily, make: MakeUnit) -> None:
        super().__init__()
        first, second = spec.roles
        self.reduce = make(c_in, BOTTLENECK * growth, 1, first)
        self.grow = make(BOTTLENECK * growth, growth, 3, second, spec.groups)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return torch.cat([x, self.grow(self.reduce(x))], 1)


class Transition(nn.Module):
    """A 1x1 where channels are fewer afterwards, then 2 x 2 means."""

    def __init__(self, c_in: int, c_out: int, make: MakeUnit) -> None:
        super().__init__()
        self.unit = make(c_in, c_out, 1, "reallocate") if c_out < c_in else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return functional.avg_pool2d(self.unit(x), 2)


class DenseNet(nn.Module):
    """Takes normalised images of any size from 4 x 4 on; gives logits.

    Args:
        spec: which net, a CondenseNet among them.
        num_classes: outputs.
        channels: of the input images.
        make: makes the units.
    """

    def __init__(self, spec: DenseFamily, num_classes: int, channels: int, make: MakeUnit) -> None:
        super().__init__()
        c = 2 * spec.growths[0]
        self.stem = conv(channels, c, 3)
        self.features = nn.Sequential()  # in order of use, which is the order of the units
        for block, growth in enumerate(spec.growths):
            layers = [DenseLayer(c + i * growth, growth, spec, make) for i in range(spec.depth)]
            self.features.add_module(f"block{block}", nn.Sequential(*layers))
            c += spec.depth * growth
            if block + 1 < STAGES:
                transition = Transition(c, spec.compressed(c), make)
                self.features.add_module(f"transition{block}", transition)
                c = spec.compressed(c)
        self.norm = nn.BatchNorm2d(c)
        self.head = nn.Linear(c, num_classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = self.features(self.stem(x))
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))
