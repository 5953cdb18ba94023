"""TrivialAugment: one change of fourteen for each image, at a random strength.

Müller and Hutter, arXiv 2103.10158, table 1, wide space: 31 strengths, all alike likely. Shifts are
shares of the side, 32 of 224 pixels at most, so that images of any size change alike.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

LEVELS = 31
SHEAR, SHIFT, TURN, BLEND = 0.99, 32 / 224, 135.0, 0.99  # at the highest; a turn in degrees
LUMA = (0.2989, 0.587, 0.114)
CENTRE, AROUND = 5 / 13, 1 / 13  # of the filter that blurs, as PIL has it


class Draw(NamedTuple):
    """What one image is to become.

    Attributes:
        change: index into ``CHANGES``.
        strength: from -1 to 1; changes without a direction take its magnitude.
    """

    change: int
    strength: float


def draw(numbers: np.random.Generator) -> Draw:
    """A change and its strength."""
    change, level, sign = (int(numbers.integers(n)) for n in (len(CHANGES), LEVELS, 2))
    return Draw(change, (2 * sign - 1) * level / (LEVELS - 1))


def changed(images: UInt8[Tensor, "b i j c"], draws: Sequence[Draw]) -> UInt8[Tensor, "b i j c"]:
    """Each image after its change; what comes from beyond the border is black.

    Args:
        images: on any device.
        draws: one an image.
    """
    images = images.clone()
    for index, change in enumerate(CHANGES.values()):
        which = [k for k, each in enumerate(draws) if each.change == index]
        if which and change is not None:
            places = _on(torch.tensor(which), images)
            strengths = _on(torch.tensor([draws[k].strength for k in which]), images)
            images[places] = change(images[places], strengths)
    return images


def _on(x: Tensor, images: Tensor) -> Tensor:
    """On the device of the images, without waiting for it."""
    return x.pin_memory().to(images.device, non_blocking=True) if images.is_cuda else x


def _moved(images: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Pixels from the places (xs, ys) [b, i, j], the nearest; black from beyond the border."""
    h, w = images.shape[1:3]
    x, y = xs.round().long(), ys.round().long()
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    return images[rows, y.clamp(0, h - 1), x.clamp(0, w - 1)] * inside[..., None]


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of each pixel, float32 [1, i, j]."""
    h, w = images.shape[1:3]
    y, x = torch.meshgrid(
        *(torch.arange(n, device=images.device, dtype=torch.float32) for n in (h, w)),
        indexing="ij",
    )
    return x[None], y[None]


def _shear_x(images: Tensor, v: Tensor) -> Tensor:
    x, y = _grid(images)
    return _moved(images, x + SHEAR * v[:, None, None] * y, y.expand(len(v), -1, -1))


def _shear_y(images: Tensor, v: Tensor) -> Tensor:
    x, y = _grid(images)
    return _moved(images, x.expand(len(v), -1, -1), y + SHEAR * v[:, None, None] * x)


def _shift_x(images: Tensor, v: Tensor) -> Tensor:
    x, y = _grid(images)
    shift = SHIFT * images.shape[2] * v[:, None, None]
    return _moved(images, x + shift, y.expand(len(v), -1, -1))


def _shift_y(images: Tensor, v: Tensor) -> Tensor:
    x, y = _grid(images)
    shift = SHIFT * images.shape[1] * v[:, None, None]
    return _moved(images, x.expand(len(v), -1, -1), y + shift)


def _turn(images: Tensor, v: Tensor) -> Tensor:
    """About the centre."""
    (x, y), (h, w) = _grid(images), images.shape[1:3]
    angle = (math.radians(TURN) * v)[:, None, None]
    x, y = x - (w - 1) / 2, y - (h - 1) / 2
    xs = angle.cos() * x - angle.sin() * y + (w - 1) / 2
    return _moved(images, xs, angle.sin() * x + angle.cos() * y + (h - 1) / 2)


def _blend(images: Tensor, base: Tensor, v: Tensor) -> Tensor:
    """Away from the base or towards it, by the strength."""
    factor = (1 + BLEND * v)[:, None, None, None]
    mixed = factor * images.float() + (1 - factor) * base
    return mixed.clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Float[Tensor, "b i j 1"]:
    """Brightness in whole numbers: that of colours, or the mean of other channels."""
    c = images.shape[3]
    shares = images.new_tensor(LUMA if c == 3 else [1 / c] * c, dtype=torch.float32)
    return (images.float() @ shares).floor()[..., None]


def _brightness(images: Tensor, v: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images, dtype=torch.float32), v)


def _colour(images: Tensor, v: Tensor) -> Tensor:
    return _blend(images, _grey(images), v)


def _contrast(images: Tensor, v: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), v)


def _sharpness(images: Tensor, v: Tensor) -> Tensor:
    """Against a blurred image, which keeps its border; an image that is all border stays."""
    if min(images.shape[1:3]) < 3:
        return images
    c = images.shape[3]
    kernel = torch.full((c, 1, 3, 3), AROUND, device=images.device)
    kernel[:, :, 1, 1] = CENTRE
    blurred = images.float()
    inner = functional.conv2d(blurred.permute(0, 3, 1, 2), kernel, groups=c).round()
    blurred[:, 1:-1, 1:-1] = inner.permute(0, 2, 3, 1)
    return _blend(images, blurred, v)


def _posterize(images: Tensor, v: Tensor) -> Tensor:
    """Keep 8 to 2 bits."""
    dropped = (6 * v.abs()).round().to(torch.uint8)
    mask = (255 << dropped.int()).to(torch.uint8)
    return images & mask[:, None, None, None]


def _solarize(images: Tensor, v: Tensor) -> Tensor:
    """Invert what is as bright as a limit, from 255 down to 0."""
    limit = (255 * (1 - v.abs()))[:, None, None, None]
    return torch.where(images >= limit, 255 - images, images)


def _auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel to the whole range, if it has more than one value."""
    low, high = (f(images.float(), (1, 2)) for f in (torch.amin, torch.amax))
    span = high - low
    scale = torch.where(span > 0, 255 / span, 1.0)[:, None, None]
    low = torch.where(span > 0, low, 0.0)[:, None, None]
    return ((images.float() - low) * scale).clamp(0, 255).to(torch.uint8)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    """Values of each channel spread over their ranks, as PIL does it."""
    b, h, w, c = images.shape
    flat = images.permute(0, 3, 1, 2).reshape(b * c, h * w).long()
    counts = flat.new_zeros(b * c, 256).scatter_add_(1, flat, torch.ones_like(flat))
    step = (h * w - counts.gather(1, flat.amax(1, keepdim=True))) // 255
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table[:, 0] = 0
    spread = torch.where(step > 0, table.gather(1, flat), flat)
    return spread.view(b, c, h, w).permute(0, 2, 3, 1).to(torch.uint8)


Change = Callable[[Tensor, Tensor], Tensor]
CHANGES: dict[str, Change | None] = {
    "identity": None,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "shift_x": _shift_x,
    "shift_y": _shift_y,
    "turn": _turn,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
}
