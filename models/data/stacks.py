"""Images of one size gathered into one array, allocated once."""

import numpy as np
from jaxtyping import UInt8

from models.core.errors import DataError

DECODED_BYTES = 8 * 2**30  # of all images of one part in memory


class Stack:
    """An array of ``count`` images, filled one by one; the first decides the size."""

    def __init__(self, count: int) -> None:
        self._count, self._filled = count, 0
        self._array = np.empty((0, 0, 0, 0), dtype=np.uint8)

    def add(self, image: UInt8[np.ndarray, "h w c"], name: str) -> None:
        """Append an image; grey ones among colour images become grey colour.

        Raises:
            DataError: if it differs in size from the first, or all would not fit into memory.
        """
        if self._filled == 0:
            check_bytes(self._count * image.size, name)
            self._array = np.empty((self._count, *image.shape), dtype=np.uint8)
        height, width, channels = self._array.shape[1:]
        if channels == 1 < image.shape[2]:
            check_bytes(self._count * height * width * image.shape[2], name)
            self._array = np.repeat(self._array, image.shape[2], axis=3)
            channels = image.shape[2]
        if image.shape[:2] != (height, width) or image.shape[2] not in (1, channels):
            raise DataError(
                f"{name}: {' x '.join(map(str, image.shape))}, but the first image is "
                f"{height} x {width} x {channels}; the images have several sizes",
                hint="give the size to which all are resized: images.image_size",
            )
        self._array[self._filled] = image
        self._filled += 1

    def images(self) -> UInt8[np.ndarray, "n h w c"]:
        """All images; there must be as many as promised.

        Raises:
            DataError: if there are fewer.
        """
        if self._filled < self._count:
            raise DataError(f"{self._filled} images where {self._count} were promised")
        return self._array


def check_bytes(wanted_bytes: int, name: str) -> None:
    """Refuse what would not fit into memory, before it is allocated.

    Raises:
        DataError: if ``wanted_bytes`` is over the limit.
    """
    if wanted_bytes > DECODED_BYTES:
        raise DataError(
            f"{name}: decoded, the images take {wanted_bytes} bytes; the limit is {DECODED_BYTES}"
        )
