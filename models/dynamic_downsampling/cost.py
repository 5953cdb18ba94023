"""Operations of full and cheap steps, layer by layer (README, cost model). Torch-free."""

from fnmatch import fnmatchcase
from typing import NamedTuple

from models.dynamic_downsampling.fields import Downsample
from models.nets.spec import ConvShape, ResidualNet, conv_shapes


class StepCosts(NamedTuple):
    """Multiply-accumulates of the forward pass of one image (backward is about twice that)."""

    full_macs: int
    cheap_macs: int

    @property
    def ratio(self) -> float:
        """Cheap over full, r; the backward pass has the same ratio."""
        return self.cheap_macs / self.full_macs


def cheap_size(height: int, width: int, scale: float, multiple: int) -> tuple[int, int]:
    """Height and width of cheap images in pixels: the nearest multiples, never above the full.

    Args:
        height: of full images, in pixels.
        width: likewise.
        scale: of cheap images, in (0, 1].
        multiple: that height and width are rounded to, in pixels.
    """

    def snap(size: int) -> int:
        return min(size, max(1, round(scale * size / multiple)) * multiple)

    return (height, width) if scale == 1 else (snap(height), snap(width))


def pooled_kernel(kernel: int, rule: str) -> int:
    """Side k' of the pooled filter; the window is q = k - k' + 1 (README, section 2)."""
    if kernel == 1:
        return 1
    return kernel - kernel // 2 if rule == "half" else kernel - 1


def is_named(name: str, layers: str | list[str]) -> bool:
    """Whether ``kernel_layers`` asks for this layer; auto starts from all."""
    return isinstance(layers, str) or any(fnmatchcase(name, pattern) for pattern in layers)


def conv_macs(shape: ConvShape, kernel: int) -> int:
    """Multiply-accumulates of a convolution with a filter of side ``kernel``, for one image."""
    height, width = shape.out
    return kernel * kernel * shape.c_in * shape.c_out * height * width


def _cheap_kernel(shape: ConvShape, down: Downsample, full: frozenset[str]) -> int:
    named = is_named(shape.name, down.kernel_layers) and shape.name not in full
    if down.kernel_pool == "none" or not named:
        return shape.kernel
    return pooled_kernel(shape.kernel, down.kernel_rule)


def step_costs(
    net: ResidualNet,
    down: Downsample,
    shape: tuple[int, int, int],
    classes: int,
    scale: float,
    unpooled: frozenset[str] = frozenset(),
) -> StepCosts:
    """Count convolutions and classifier of a full step and of a cheap one of this scale.

    Pooled convolutions keep the output size of the full ones, so only k'^2 / k^2 changes.

    Args:
        net: which net.
        down: what cheap steps leave out.
        shape: channels, height and width in pixels of a full image.
        classes: outputs of the classifier.
        scale: of the cheap images.
        unpooled: convolutions that cheap steps leave full although ``down`` names them.
    """
    channels, height, width = shape
    head = net.features * classes
    size = cheap_size(height, width, scale, down.size_multiple)
    full = conv_shapes(net, channels, height, width)
    cheap = conv_shapes(net, channels, *size)
    return StepCosts(
        sum(conv_macs(conv, conv.kernel) for conv in full) + head,
        sum(conv_macs(conv, _cheap_kernel(conv, down, unpooled)) for conv in cheap) + head,
    )
