"""Images brought to a size: by area means where they shrink, else bilinear."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from models.data.area import area_means
from models.data.fitting import central

CHUNK = 1024  # images resized or normalised at once


def resize(
    images: UInt8[Tensor, "n h w c"], size: int | tuple[int, int]
) -> UInt8[Tensor, "n new_h new_w c"]:
    """Images of a size: area means where they shrink, bilinear where not.

    Args:
        images: of one size.
        size: the new side of squares, or height and width, in pixels.
    """
    sides = (size, size) if isinstance(size, int) else size
    shrinks = sides[0] <= images.shape[1] and sides[1] <= images.shape[2]
    change = _shrunk if shrinks else _grown
    return torch.cat([change(chunk, sides) for chunk in images.split(CHUNK)]).contiguous()


def _shrunk(images: UInt8[Tensor, "n h w c"], sides: tuple[int, int]) -> UInt8[Tensor, "n i j c"]:
    return torch.from_numpy(area_means(images.numpy(), sides))


def _grown(images: UInt8[Tensor, "n h w c"], sides: tuple[int, int]) -> UInt8[Tensor, "n i j c"]:
    x = images.permute(0, 3, 1, 2).float()
    x = functional.interpolate(x, size=sides, mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def fitted(
    images: UInt8[Tensor, "n h w c"], size: int | tuple[int, int], how: str
) -> UInt8[Tensor, "n new_h new_w c"]:
    """Images of a size, whatever the shape they had.

    Args:
        images: of one size.
        size: as for :func:`resize`.
        how: ``crop`` resizes the largest central part that has the proportions of the size,
            ``squash`` the whole image.
    """
    sides = (size, size) if isinstance(size, int) else size
    return resize(central(images, sides) if how == "crop" else images, sides)
