"""The plain net that a training with cheap steps starts from."""

from torch import nn

from models.core import device
from models.data.images import ImageData
from models.dynamic_downsampling.spec import Downsampled
from models.nets.build import build_net


def new_net(spec: Downsampled, data: ImageData, on: str = "cpu") -> nn.Module:
    """With the initial weights of the seed, on a device."""
    device.seed_all(spec.seed)
    return build_net(spec.net(), len(data.classes), data.channels).to(on)
