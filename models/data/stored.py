"""Images that stay encoded until they are asked for: as slices like a tensor, or batch by batch."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from models.data.augment import CropKey
from models.data.loader import Batches, Loader, PictureRequest


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
        self,
        index: Int64[Tensor, "b"],
        size: tuple[int, int] | None = None,
        crops: Sequence[CropKey] | None = None,
    ) -> list[PictureRequest]:
        """What the loader is asked for, to give some of the images.

        Args:
            index: of the images.
            size: smaller height and width; None: as they are.
            crops: choose a random part of each.
        """
        rows = zip(self._positions[index].tolist(), crops or [None] * len(index), strict=True)
        return [PictureRequest(self._part, x, size, crop) for x, crop in rows]

    def split(self, size: int) -> Iterator[UInt8[Tensor, "b h w c"]]:
        """All images in order, ``size`` at a time, decoded ahead."""
        parts = torch.arange(len(self)).split(size)
        return self.read(lambda: (self.requests(part) for part in parts))

    def read(self, batches: Batches) -> Iterator[UInt8[Tensor, "b h w c"]]:
        """Batches by the requests of each, decoded ahead; ``batches`` makes their iterator."""
        for pixels in self._loader.read(batches):
            yield pixels.to(self.device, non_blocking=True)  # the host waits for no GPU
