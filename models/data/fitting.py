"""A picture brought to the size of a net's input, as nets for photographs expect it."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def central(images: Any, size: tuple[int, int]) -> Any:
    """The largest central part [..., i, j, c] with the proportions of a size; a view.

    Args:
        images: array or tensor [..., h, w, c].
        size: height and width, of which the ratio alone counts.
    """
    h, w = images.shape[-3:-1]
    scale = min(h / size[0], w / size[1])
    high, wide = (max(1, round(side * scale)) for side in size)
    top, left = (h - high) // 2, (w - wide) // 2
    return images[..., top : top + high, left : left + wide, :]


def fit(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int], margin: float
) -> UInt8[np.ndarray, "i j c"]:
    """Cropped centrally to the aspect ratio of the input, resized (bicubic, antialiased), cropped.

    Args:
        image: of any size.
        size: height and width of the input, in pixels.
        margin: ratio of the resized image's side to that of its central crop.
    """
    planes = [_fit(plane, *size, margin) for plane in np.moveaxis(image, 2, 0)]
    return np.stack(planes, axis=2)


def _fit(plane: np.ndarray, height: int, width: int, margin: float) -> np.ndarray:
    """One channel: central crop of the net's aspect ratio, resized, cropped to the input size."""
    h, w = plane.shape
    scale = min(h / height, w / width)
    part_h, part_w = round(height * scale), round(width * scale)
    part = _centre(plane, part_h, part_w)
    wide, high = round(width * margin), round(height * margin)
    resized = Image.fromarray(part).resize((wide, high), Image.Resampling.BICUBIC)
    return _centre(np.asarray(resized), height, width)


def _centre(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    return plane[top : top + height, left : left + width]
