"""The net that makes terrain coarse: a residual net beside a mean pool (section 3 of the paper).

Departures: the last convolution starts at zero, so that training begins at mean pooling; at the
usual initialisation the output is three times as rough as the pooled terrain. And the net may look
at other things than heights: see :func:`sights`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

CHANNELS_A_GROUP = 16
SIGHTS = {"heights": 1, "flow": 4}  # channels of what a net looks at
WIDE = 4  # coarse cells a side of the second band


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
        inputs: ``heights`` as in the paper, or ``flow``; see :func:`sights`.
    """

    def __init__(
        self, factor: int, width: int = 64, norm: str = "group", inputs: str = "heights"
    ) -> None:
        super().__init__()
        self.factor, self.inputs = factor, inputs
        halvings = round(math.log2(factor))
        strides = [2 if k < halvings else 1 for k in range(5)]
        self.stem = conv3(SIGHTS[inputs], width, strides[0])
        self.stem_norm = make_norm(norm, width)
        self.pool = nn.MaxPool2d(3, strides[1], 1)
        stages, c_in = [], width
        for k, stride in enumerate((1, *strides[2:])):
            c_out = width * 2**k
            stages += [Block(c_in, c_out, stride, norm), Block(c_out, c_out, 1, norm)]
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(c_in, 1, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(
        self, z: Float[Tensor, "b 1 h w"], flow: Float[Tensor, "b 2 h w"] | None = None
    ) -> Float[Tensor, "b 1 hc wc"]:
        """Heights in m about 0, rows and columns multiples of the factor.

        Args:
            z: fine heights in m about 0.
            flow: :func:`models.terrain.dem.hydrology.drained` of them; for inputs ``flow``.
        """
        seen = z if flow is None else sights(z, flow, self.factor)
        x = self.pool(torch.relu(self.stem_norm(self.stem(seen))))
        return self.head(self.stages(x)) + avg_pool2d(z, self.factor)


def sights(
    z: Float[Tensor, "b 1 h w"], flow: Float[Tensor, "b 2 h w"], factor: int
) -> Float[Tensor, "b 4 h w"]:
    """What a net of inputs ``flow`` looks at, each of the order of 1 on every terrain.

    Heights over the pooled terrain and those of the pooled over a wider pooling, so that a kerb is
    seen on a hillside too; the depth of hollows; how much lies upstream.
    """

    def smooth(cells: int) -> Tensor:
        pooled = avg_pool2d(z, cells, ceil_mode=True)
        return interpolate(pooled, z.shape[2:], mode="bilinear", align_corners=False)

    near, wide = smooth(factor), smooth(WIDE * factor)
    parts = [2 * (z - near), near - wide, 4 * flow[:, :1]]
    return torch.cat([*map(torch.asinh, parts), flow[:, 1:].log2() / 8], 1)


def coarse(
    net: nn.Module, z: Float[Tensor, "b h w"], flow: Float[Tensor, "b 2 h w"] | None = None
) -> Float[Tensor, "b hc wc"]:
    """Coarse heights in m; each terrain's mean is taken off before the net and put back after."""
    datum = z.mean((1, 2), keepdim=True)
    return net((z - datum)[:, None], flow)[:, 0] + datum
