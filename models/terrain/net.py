"""The net that makes terrain coarse: a residual net beside a mean pool (section 3 of the paper).

Departure: the last convolution starts at zero, so that training begins at mean pooling; at the
usual initialisation the output is three times as rough as the pooled terrain.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

CHANNELS_A_GROUP = 16


def conv3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that repeats the edge, without bias."""
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False, padding_mode="replicate")


def make_norm(kind: str, channels: int) -> nn.Module:
    """Batch norm, or group norm, which does not mind small batches."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, channels // CHANNELS_A_GROUP), channels)


class Block(nn.Module):
    """Two convolutions added to the input, projected where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv3(c_in, c_out, stride), make_norm(norm, c_out)
        self.conv2, self.norm2 = conv3(c_out, c_out), make_norm(norm, c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            project = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, make_norm(norm, c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Downsampler(nn.Module):
    """Terrain to terrain, ``factor`` times smaller per side.

    Args:
        factor: 2, 4, 8, 16 or 32; halvings go to the stem, its pool and stages two to four, in
            this order; at 16 the net is the paper's, with 11,168,192 parameters at width 64.
        width: channels of the first stage.
        norm: ``batch`` or ``group``.
    """

    def __init__(self, factor: int, width: int = 64, norm: str = "group") -> None:
        super().__init__()
        self.factor = factor
        halvings = round(math.log2(factor))
        strides = [2 if k < halvings else 1 for k in range(5)]
        self.stem, self.stem_norm = conv3(1, width, strides[0]), make_norm(norm, width)
        self.pool = nn.MaxPool2d(3, strides[1], 1)
        stages, c_in = [], width
        for k, stride in enumerate((1, *strides[2:])):
            c_out = width * 2**k
            stages += [Block(c_in, c_out, stride, norm), Block(c_out, c_out, 1, norm)]
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(c_in, 1, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, z: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 hc wc"]:
        """Heights in m about 0, rows and columns multiples of the factor."""
        x = self.pool(torch.relu(self.stem_norm(self.stem(z))))
        return self.head(self.stages(x)) + avg_pool2d(z, self.factor)


def coarse(net: nn.Module, z: Float[Tensor, "b h w"]) -> Float[Tensor, "b hc wc"]:
    """Coarse heights in m; each terrain's mean is taken off before the net and put back after."""
    datum = z.mean((1, 2), keepdim=True)
    return net((z - datum)[:, None])[:, 0] + datum
