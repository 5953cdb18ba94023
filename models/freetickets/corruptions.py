"""Corrupted test images as in CIFAR-10-C: formulas and constants for 32 px, keyed noise.

After Hendrycks and Dietterich (arXiv 1903.12261): 14 of their 15 kinds; frost needs photographs.
Borders are continued where theirs are mirrored. Every run sees the same images.
"""

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.core.device import generator
from models.data.sizing import CHUNK
from models.freetickets import image_ops

Pixels = Float[Tensor, "n h w c"]
Noise = torch.Generator
SEVERITIES = 5


class Kind(NamedTuple):
    """A corruption: what it does to images on 0..1, and its constants at severities 1 to 5."""

    apply: Callable[[Tensor, Any, Noise], Tensor]
    constants: tuple[Any, ...]


def corrupt(pixels: UInt8[Tensor, "n h w c"], kind: str, severity: int) -> UInt8[Tensor, "n h w c"]:
    """Corrupted images of the same size.

    Args:
        pixels: on any device; the work is done on the CPU.
        kind: a key of ``KINDS``.
        severity: 1 to 5.
    """
    apply, constants = KINDS[kind]
    parts = []
    for index, chunk in enumerate(pixels.cpu().split(CHUNK)):
        numbers = generator(severity, kind, index)
        x = apply(chunk.float() / 255, constants[severity - 1], numbers).clamp(0, 1)
        parts.append((x * 255).to(torch.uint8))
    return torch.cat(parts).to(pixels.device)


def _gaussian(x: Pixels, c: float, numbers: Noise) -> Pixels:
    return x + c * torch.randn(x.shape, generator=numbers)


def _shot(x: Pixels, c: float, numbers: Noise) -> Pixels:
    return torch.poisson(x * c, generator=numbers) / c


def _impulse(x: Pixels, c: float, numbers: Noise) -> Pixels:
    draw = torch.rand(x.shape, generator=numbers)
    return x.masked_fill(draw < c / 2, 0.0).masked_fill(draw > 1 - c / 2, 1.0)


def _defocus(x: Pixels, c: tuple[float, float], _: Noise) -> Pixels:
    """A disk of radius c[0] pixels, its edge softened over 3 x 3 pixels with deviation c[1]."""
    reach = math.ceil(c[0]) + 1
    coordinates = torch.arange(-reach, reach + 1).float()
    disk = (coordinates[:, None] ** 2 + coordinates**2 <= c[0] ** 2).float()
    soft = torch.exp(-0.5 * (torch.arange(-1, 2) / c[1]) ** 2)
    soft = soft[:, None] * soft
    kernel = functional.conv2d(disk[None, None], soft[None, None], padding=1)
    return image_ops.filtered(x, kernel[0, 0] / kernel.sum())


def _glass(x: Pixels, c: tuple[float, int, int], numbers: Noise) -> Pixels:
    """Blur, then each pixel takes the value of one within c[1] pixels, c[2] times; blur again.

    Their code means to swap the two, but assigns views: the published images are made like this.
    """
    sigma, reach, times = c
    x = image_ops.blurred(x, sigma)
    every = torch.arange(len(x))
    n, height, width, _ = x.shape
    for _ in range(times):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                across, down = torch.randint(-reach, reach, (2, n), generator=numbers)
                x[:, row, column] = x[every, row + down, column + across]
    return image_ops.blurred(x, sigma)


def _motion(x: Pixels, c: tuple[int, float], numbers: Noise) -> Pixels:
    return image_ops.moved(x, *c, (-45.0, 45.0), numbers)


def _zoom(x: Pixels, c: int, _: Noise) -> Pixels:
    """Mean of the image and its magnifications by 1, 1.01 and so on, ``c`` of them."""
    factors = [1 + 0.01 * number for number in range(c)]
    return (x + sum(image_ops.magnified(x, factor) for factor in factors)) / (c + 1)


def _snow(x: Pixels, c: tuple[float, ...], numbers: Noise) -> Pixels:
    """Blown flakes, twice (the second upside down), over a whitened image."""
    mean, std, zoom, threshold, radius, sigma, share = c
    flakes = mean + std * torch.randn((*x.shape[:3], 1), generator=numbers)
    flakes = image_ops.magnified(flakes, zoom)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    flakes = image_ops.moved(flakes, int(radius), sigma, (-135.0, -45.0), numbers)
    grey = x @ torch.tensor([0.299, 0.587, 0.114])[:, None] if x.shape[3] == 3 else x
    white = share * x + (1 - share) * torch.maximum(x, grey * 1.5 + 0.5)
    return white + flakes + flakes.flip(1, 2)


def _fog(x: Pixels, c: tuple[float, float], numbers: Noise) -> Pixels:
    top = x.amax((1, 2, 3), keepdim=True)
    side = 2 ** math.ceil(math.log2(max(x.shape[1:3])))
    haze = image_ops.plasma(len(x), side, c[1], numbers)[:, : x.shape[1], : x.shape[2], None]
    return (x + c[0] * haze) * top / (top + c[0])


def _brightness(x: Pixels, c: float, _: Noise) -> Pixels:
    """Value of HSV plus c: all channels in proportion, so that hue and saturation stay."""
    value = x.amax(3, keepdim=True)
    return torch.where(value > 0, x / value.clamp(min=1e-6), 1.0) * (value + c).clamp(max=1)


def _contrast(x: Pixels, c: float, _: Noise) -> Pixels:
    mean = x.mean((1, 2), keepdim=True)
    return (x - mean) * c + mean


def _elastic(x: Pixels, c: tuple[float, float, float], numbers: Noise) -> Pixels:
    """A random affine map, then displacements that change slowly; c in shares of the side."""
    amount, smooth, corner = (share * x.shape[1] for share in c)
    return image_ops.displaced(image_ops.sheared(x, corner, numbers), amount, smooth, numbers)


def _pixelate(x: Pixels, c: float, _: Noise) -> Pixels:
    def coarse(image: Image.Image) -> Image.Image:
        small = (max(1, int(image.width * c)), max(1, int(image.height * c)))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _each(x, coarse)


def _jpeg(x: Pixels, c: int, _: Noise) -> Pixels:
    def packed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=c)
        return Image.open(buffer)

    return _each(x, packed)


def _each(x: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Images of one or three channels, one by one, through Pillow."""
    grey = x.shape[3] == 1
    results = []
    for image in (x * 255).round().to(torch.uint8).numpy():
        changed = np.asarray(change(Image.fromarray(image[:, :, 0] if grey else image)))
        results.append(torch.from_numpy(changed.copy()))
    return torch.stack(results).view(x.shape).float() / 255


KINDS: dict[str, Kind] = {
    "gaussian_noise": Kind(_gaussian, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Kind(_shot, (500.0, 250.0, 100.0, 75.0, 50.0)),
    "impulse_noise": Kind(_impulse, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Kind(_defocus, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "glass_blur": Kind(
        _glass, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    ),
    "motion_blur": Kind(_motion, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "zoom_blur": Kind(_zoom, (6, 11, 16, 21, 26)),
    "snow": Kind(
        _snow,
        (
            (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8),
        ),
    ),
    "fog": Kind(_fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": Kind(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Kind(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Kind(
        _elastic,
        (
            (0.0, 0.0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
    ),
    "pixelate": Kind(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Kind(_jpeg, (80, 65, 58, 50, 40)),
}
