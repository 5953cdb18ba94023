"""The downsampling net: a residual net in parallel with mean pooling (README, section Net).

Differences from the authors' net: the last convolution is initialized to zero, so that training
starts at mean pooling (with the default initialization the output is three times as rough as the
pooled terrain), and the net can have more inputs than heights: see :func:`input_features`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

CHANNELS_A_GROUP = 16
INPUT_CHANNELS = {"heights": 1, "flow": 4}  # channels of the input
WIDE = 4  # side of the wider pooling, in coarse cells


def conv3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution with replicate padding, without bias."""
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False, padding_mode="replicate")


def make_norm(kind: str, channels: int) -> nn.Module:
    """Batch norm, or group norm, which does not depend on the batch size."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, channels // CHANNELS_A_GROUP), channels)


class ResidualBlock(nn.Module):
    """Basic residual block: two 3 x 3 convolutions, 1 x 1 projection if the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv3(c_in, c_out, stride), make_norm(norm, c_out)
        self.conv2, self.norm2 = conv3(c_out, c_out), make_norm(norm, c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            project = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, make_norm(norm, c_out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hs ws"]:
        out = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class Downsampler(nn.Module):
    """Terrain to terrain, ``factor`` times smaller per side.

    Args:
        factor: 2, 4, 8, 16 or 32; halvings go to the stem, its pool and stages two to four, in
            this order; at 16 the net is the paper's, with 11,168,192 parameters at width 64.
        width: channels of the first stage.
        norm: ``batch`` or ``group``.
        inputs: ``heights`` as in the paper, or ``flow``; see :func:`input_features`.
    """

    def __init__(
        self, factor: int, width: int = 64, norm: str = "group", inputs: str = "heights"
    ) -> None:
        super().__init__()
        self.factor, self.inputs = factor, inputs
        halvings = round(math.log2(factor))
        strides = [2 if k < halvings else 1 for k in range(5)]
        self.stem = conv3(INPUT_CHANNELS[inputs], width, strides[0])
        self.stem_norm = make_norm(norm, width)
        self.pool = nn.MaxPool2d(3, strides[1], 1)
        stages, c_in = [], width
        for k, stride in enumerate((1, *strides[2:])):
            c_out = width * 2**k
            stages += [
                ResidualBlock(c_in, c_out, stride, norm),
                ResidualBlock(c_out, c_out, 1, norm),
            ]
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
            flow: :func:`models.terrain.dem.hydrology.flow_accumulation` of them; for inputs
                ``flow``.
        """
        features = z if flow is None else input_features(z, flow, self.factor)
        x = self.pool(torch.relu(self.stem_norm(self.stem(features))))
        return self.head(self.stages(x)) + avg_pool2d(z, self.factor)


def input_features(
    z: Float[Tensor, "b 1 h w"], flow: Float[Tensor, "b 2 h w"], factor: int
) -> Float[Tensor, "b 4 h w"]:
    """Input channels of a net with inputs ``flow``, each of order 1 on every terrain.

    Heights relative to the pooled terrain, the pooled terrain relative to a wider pooling (a kerb
    is then visible on a hillside too), depression depth, logarithm of the flow accumulation.

    Args:
        z: heights in m.
        flow: depression depth in m and flow accumulation in cells.
        factor: of the pooling.
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
    """Coarse heights in m; each terrain's mean is subtracted before the net and added after it."""
    datum = z.mean((1, 2), keepdim=True)
    return net((z - datum)[:, None], flow)[:, 0] + datum
