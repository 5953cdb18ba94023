"""Small generated image sets for tests and first runs."""

import torch
from torch import Tensor

from models.core.device import generator


def blobs(count: int, classes: int, size: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of one smooth random pattern a class under noise.

    Args:
        count: images.
        classes: patterns; labels cycle through them.
        size: height and width in pixels, a multiple of 4.
        channels: of an image.
        seed: of the noise; the patterns are always the same.

    Returns:
        uint8 [count, size, size, channels] and int64 [count].
    """
    coarse = torch.randn(classes, channels, 4, 4, generator=generator(0, "patterns", classes))
    patterns = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    labels = torch.arange(count) % classes
    noise = torch.randn(count, channels, size, size, generator=generator(seed, "noise", 0))
    images = (patterns[labels] + 0.5 * noise) * 48 + 128
    return images.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous(), labels
