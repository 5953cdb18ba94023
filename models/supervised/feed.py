"""Images of the coming steps, decoded ahead, where a set is not in memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from models.core import ranks
from models.core.errors import SpecError
from models.data import order
from models.data.images import ImageData, crop_keys
from models.data.loader import BrokenOffError, PictureRequest
from models.data.stored import StoredImages
from models.supervised.hooks import Hooks
from models.supervised.spec import SupervisedSpec

FORMAT = 1  # of the order of images and of their random changes
FIELDS = {"seed": "/seed", "batch_size": "/batch_size", "images": "/images", "set": "/data"}


class Plan:
    """Which images each step takes: a function of spec and data alone.

    Args:
        data: trained on.
        spec: names batch size, seed and length.
        hooks: say how many batches a step takes, and their size.
    """

    def __init__(self, data: ImageData, spec: SupervisedSpec, hooks: Hooks) -> None:
        self._count, self._spec, self._hooks = len(data.train), spec, hooks
        self._set = data.digest
        self._size = spec.batch(self._count)
        self._per_epoch, self._total = spec.steps(self._count)

    def chosen(self, step: int, batches: int) -> list[Int64[Tensor, "b"]]:
        """Indices of this rank's training images in each of some batches, on the CPU.

        Args:
            step: of the first, from 0; none may pass the end of its epoch.
            batches: how many.
        """
        epoch, index = divmod(step, self._per_epoch)
        ends = index * self._size, (index + batches) * self._size
        taken = order.chosen(self._count, self._spec.seed, epoch, *ends)
        return [ranks.share(part) for part in taken.split(self._size)]

    def draws(self, step: int, batches: int) -> list[int]:
        """Numbers that key the random changes of some batches, other ones in each process."""
        return [(step + k) * ranks.world_size() + ranks.rank() for k in range(batches)]

    def describe(self) -> dict[str, Any] | None:
        """What the images of a step depend on besides its number; None of a set in memory."""
        if not self._set:
            return None
        known = {"format": FORMAT, "seed": self._spec.seed, "batch_size": self._size}
        return known | {"images": self._count, "set": self._set}

    def check(self, saved: Mapping[str, Any] | None) -> None:
        """Refuse to go on in the middle of other images.

        Args:
            saved: of :meth:`describe`, by the training that is gone on with.

        Raises:
            SpecError: naming what differs.
        """
        here = self.describe()
        if here is None or saved is None:
            return
        for name, value in here.items():
            if saved.get(name) != value:
                raise SpecError(
                    f"the checkpoint's training took its images by {name} {saved.get(name)}, this"
                    f" one by {value}: give the same, or leave resume_from out",
                    pointer=FIELDS.get(name, "/resume_from"),
                )

    def requests(self, images: StoredImages, step: int) -> Iterator[list[PictureRequest]]:
        """What the steps from ``step`` on ask of a loader."""
        while step < self._total:
            batches = self._hooks.mode_of(step).batches
            chosen, least = self.chosen(step, batches), self._spec.images.augment.resized_crop
            crops = None
            if least is not None:
                crops = crop_keys(chosen, least, self._spec.seed, self.draws(step, batches))
            yield images.requests(torch.cat(chosen), self._hooks.size_of(step), crops)
            step += batches


class ImageFeed:
    """Decodes the images of steps in their order, ahead of them.

    Args:
        images: for training.
        plan: of all steps.
    """

    def __init__(self, images: StoredImages, plan: Plan) -> None:
        self._images, self._plan = images, plan
        self._batches: Iterator[Tensor] = iter(())

    def take(self, step: int) -> UInt8[Tensor, "b h w c"]:
        """The images of a step, on the device; steps must follow each other, or start anew.

        Raises:
            DataError: naming a picture that cannot be used.
        """
        try:
            return next(self._batches)
        except (StopIteration, BrokenOffError):  # the first step, or the first after a test
            self._batches = self._images.read(lambda: self._plan.requests(self._images, step))
            return next(self._batches)
