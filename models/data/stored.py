"""Images that stay encoded until they are asked for: as slices like a tensor, or batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from models.core.errors import DataError
from models.data.decode import decode
from models.data.loader import Batches, Loader, PictureRequest
from models.data.picture_index import PictureReader
from models.data.sizing import fitted

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

    def image(
        self, position: int, size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "h w c"]:
        """The image at a position of the part.

        Args:
            position: from 0.
            size: smaller height and width, for which a JPEG is decoded at a part of its size.

        Raises:
            DataError: naming the picture.
        """
        content = self.reader.read(position)
        try:
            divisor = partial(self._divisor, size=size, position=position)
            pixels = decode(content, "", reduced=divisor)
        except DataError:
            decode(content, self.reader.name(position))
            raise
        if size is not None and min(pixels.shape[0] / size[0], pixels.shape[1] / size[1]) >= 1:
            pixels = reduced(pixels, size, self.fit or "squash")
        elif self.fit is not None:
            pixels = fitted(torch.tensor(pixels)[None], size or self.size, self.fit)[0].numpy()
        return self._matched(pixels, position)

    def _divisor(self, height: int, width: int, size: tuple[int, int] | None, position: int) -> int:
        """By what a picture may be reduced, so that ``size`` pixels of what is used of it are left.

        Args:
            height: of the picture, in pixels.
            width: of the picture, in pixels.
            size: of the image to make of it; None: not reduced.
            position: names it in errors.

        Raises:
            DataError: if the picture should have the size of the others, and has not.
        """
        if self.fit is None and (height, width) != self.size:
            raise DataError(
                f"{self.reader.name(position)}: {height} x {width} pixels, but the first image"
                f" is {self.size[0]} x {self.size[1]}; the images have several sizes",
                hint="give the size to which all are resized: images.image_size",
            )
        if size is None:
            return 1
        ratio = min(height / size[0], width / size[1])
        return next((x for x in REDUCTIONS if x <= ratio), 1)

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


def reduced(
    image: UInt8[np.ndarray, "h w c"], size: tuple[int, int], how: str
) -> UInt8[np.ndarray, "new_h new_w c"]:
    """An image brought to a smaller size by weighted means of areas that need not be whole pixels.

    Images that were decoded at a part of their size do not come out in whole multiples of the size
    that is wanted: means of whole pixels would then be off by up to half of one.

    Args:
        image: at least of that size.
        size: height and width in pixels.
        how: as in :func:`models.data.sizing.fitted`.
    """
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    high, wide = (size[0] * scale, size[1] * scale) if how == "crop" else (height, width)
    left, top = (width - wide) / 2, (height - high) / 2
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    box = (left, top, left + wide, top + high)
    small = picture.resize((size[1], size[0]), Image.Resampling.HAMMING, box)
    return np.array(small).reshape(*size, image.shape[2])


class StoredImages:
    """Images uint8 [n, h, w, c] of which none is in memory; answers as far as a tensor would.

    Args:
        loader: decodes them.
        part: name of their decoder there.
        positions: of the images in the part, int64 [n] on the CPU.
        shape: height, width and channels.
        device: on which batches are wanted.
    """

    def __init__(
        self,
        loader: Loader,
        part: str,
        positions: Int64[Tensor, "n"],
        shape: tuple[int, int, int],
        device: str,
    ) -> None:
        self._loader, self._part, self._positions = loader, part, positions
        self._device = device
        self.shape = (len(positions), *shape)
        self.is_cuda = torch.device(device).type == "cuda"

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def device(self) -> torch.device:
        """On which batches are wanted."""
        return torch.device(self._device)

    def __getitem__(self, which: int | slice | Int64[Tensor, "b"]) -> UInt8[Tensor, "..."]:
        """One image [h, w, c], or some [b, h, w, c], on the device."""
        if isinstance(which, int):
            return self[torch.tensor([which])][0]
        index = torch.arange(len(self))[which] if isinstance(which, slice) else which.cpu()
        made = np.empty((len(index), *self.shape[1:]), dtype=np.uint8)
        for row, request in enumerate(self.requests(index)):
            made[row] = self._loader.image(request)
        return torch.from_numpy(made).to(self.device)

    def requests(
        self, index: Int64[Tensor, "b"], size: tuple[int, int] | None = None
    ) -> list[PictureRequest]:
        """What the loader is asked for, to give some of the images.

        Args:
            index: of the images.
            size: smaller height and width; None: as they are.
        """
        return [PictureRequest(self._part, x, size) for x in self._positions[index].tolist()]

    def split(self, size: int) -> Iterator[UInt8[Tensor, "b h w c"]]:
        """All images in order, ``size`` at a time, decoded ahead."""
        parts = torch.arange(len(self)).split(size)
        for pixels in self._loader.read(lambda: (self.requests(part) for part in parts)):
            yield self.moved(pixels)

    def read(self, batches: Batches) -> Iterator[UInt8[Tensor, "b h w c"]]:
        """Batches by the requests of each, decoded ahead; ``batches`` makes their iterator."""
        return (self.moved(pixels) for pixels in self._loader.read(batches))

    def moved(self, pixels: UInt8[np.ndarray, "b h w c"]) -> UInt8[Tensor, "b h w c"]:
        """A batch on the device; the host does not wait for it."""
        tensor = torch.from_numpy(pixels)
        if not self.is_cuda:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)
