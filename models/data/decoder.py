"""One encoded picture to the image that a net is trained on, whole or at a smaller size."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from models.core.errors import DataError
from models.data.augment import Box, CropKey, crop_box
from models.data.decode import decode
from models.data.picture_index import PictureReader
from models.data.sizing import fitted, resize

REDUCTIONS = (8, 4, 2)  # divisors of the sides at which a JPEG can be decoded


@dataclass(frozen=True)
class Decoder:
    """Makes the images of a part, one by one, as the in-memory source does; may be pickled.

    Attributes:
        reader: of the encoded pictures.
        size: height and width in pixels.
        fit: ``crop`` or ``squash``, as in :func:`models.data.sizing.fitted`; None refuses images of
            another size.
        channels: to which grey images are repeated; a colour one is refused where it is 1.
    """

    reader: PictureReader
    size: tuple[int, int]
    fit: str | None
    channels: int

    def shape(self, size: tuple[int, int] | None = None) -> tuple[int, int, int]:
        """Height, width and channels of the images, or of smaller ones."""
        return *(size or self.size), self.channels

    def image(
        self, position: int, size: tuple[int, int] | None = None, crop: CropKey | None = None
    ) -> UInt8[np.ndarray, "h w c"]:
        """The image at a position of the part.

        Args:
            position: from 0.
            size: smaller height and width, for which a JPEG is decoded at a part of its size.
            crop: chooses a random part of the picture; None: what ``fit`` leaves of it.

        Raises:
            DataError: naming the picture.
        """
        content = self.reader.read(position)
        used: list[_Used] = []

        def divisor(height: int, width: int) -> int:
            self._check(height, width, position)
            box = crop_box(crop, height, width) if crop else Box(0, 0, height, width)
            ratio = 0.0 if size is None else _ratio(box, size)
            used.append(_Used(box, height, next((x for x in REDUCTIONS if x <= ratio), 1)))
            return used[0].divisor

        try:
            pixels = decode(content, "", reduced=divisor)
        except DataError:
            decode(content, self.reader.name(position))
            raise
        return self._matched(self._brought(pixels, used[0], size, crop), position)

    def _brought(
        self,
        pixels: UInt8[np.ndarray, "i j c"],
        used: "_Used",
        size: tuple[int, int] | None,
        crop: CropKey | None,
    ) -> UInt8[np.ndarray, "h w c"]:
        """A decoded picture at the size of an image, or a smaller one."""
        box = used.box
        if size is not None and _ratio(box, size) >= 1:
            divisor = 1 if len(pixels) == used.height else used.divisor  # of a JPEG alone
            within = [x / divisor for x in box] if crop else _central(pixels, size, self.fit)
            return reduced(pixels, size, *within)
        if crop is not None:
            part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
            return resize(torch.tensor(part)[None], size or self.size)[0].numpy()
        if self.fit is not None:
            return fitted(torch.tensor(pixels)[None], size or self.size, self.fit)[0].numpy()
        return pixels

    def _check(self, height: int, width: int, position: int) -> None:
        """Refuse a picture that should have the size of the others, and has not.

        Raises:
            DataError: naming it.
        """
        if self.fit is None and (height, width) != self.size:
            raise DataError(
                f"{self.reader.name(position)}: {height} x {width} pixels, but the first image"
                f" is {self.size[0]} x {self.size[1]}; the images have several sizes",
                hint="give the size to which all are resized: images.image_size",
            )

    def _matched(
        self, pixels: UInt8[np.ndarray, "h w k"], position: int
    ) -> UInt8[np.ndarray, "h w c"]:
        if pixels.shape[2] == self.channels:
            return pixels
        if pixels.shape[2] == 1:
            return np.repeat(pixels, self.channels, axis=2)
        raise DataError(
            f"{self.reader.name(position)}: a colour picture, in a set that began with grey ones",
            hint="save all pictures in grey, or all in colour; or use loading memory",
        )


class _Used(NamedTuple):
    """The part of a picture that an image is made of, in its pixels; what it may be reduced by."""

    box: Box
    height: int
    divisor: int


def _ratio(box: Box, size: tuple[int, int]) -> float:
    """How many times a part of a picture is larger than the image to make of it."""
    return min(box.height / size[0], box.width / size[1])


def _central(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int], how: str | None
) -> tuple[float, float, float, float]:
    """Top, left, height and width of what ``fit`` leaves of an image, in pixels."""
    height, width = image.shape[:2]
    if how != "crop":
        return 0.0, 0.0, float(height), float(width)
    scale = min(height / size[0], width / size[1])
    high, wide = size[0] * scale, size[1] * scale
    return (height - high) / 2, (width - wide) / 2, high, wide


def reduced(
    image: UInt8[np.ndarray, "h w c"],
    size: tuple[int, int],
    top: float,
    left: float,
    height: float,
    width: float,
) -> UInt8[np.ndarray, "new_h new_w c"]:
    """A part of an image at a smaller size: weighted means of areas that need not be whole pixels.

    Images that were decoded at a part of their size do not come out in whole multiples of the size
    that is wanted: means of whole pixels would then be off by up to half of one.

    Args:
        image: whole.
        size: height and width of the result in pixels.
        top: of the part, in pixels of the image.
        left: likewise.
        height: likewise, at least that of the result.
        width: likewise.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    ends = min(left + width, picture.width), min(top + height, picture.height)
    hamming = Image.Resampling.HAMMING
    small = picture.resize((size[1], size[0]), hamming, (left, top, *ends))
    return np.array(small).reshape(*size, image.shape[2])
