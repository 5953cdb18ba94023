"""Image sets as tensors on the device: loading, normalisation, batches, augmentation.

Images stay uint8 NHWC; one gather a batch crops, mirrors and selects. Every random number is keyed
by (seed, epoch) or (seed, step): a resumed run continues with the same batches, and a schedule of
cheap steps changes none of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from models.core.device import generator
from models.core.run import Run
from models.core.spec import DatasetRef
from models.data import selection
from models.data.augment import CropKey, crop_box, erased, trivially_changed
from models.data.builtin import BUILTIN
from models.data.sizing import CHUNK, fitted, resize
from models.data.spec import Augment, ImageOptions
from models.data.stored import StoredImages

Pixels = Tensor | StoredImages  # both answer to len, shape, device, slices, index and split


def _none(_: int) -> int:
    """Nothing is held out."""
    return 0


@dataclass(frozen=True)
class ImageData:
    """Training and test images of one size on one device.

    Images are tensors, or decoded each time they are asked for.

    Attributes:
        train: uint8 [n, h, w, c].
        train_labels: int64 [n], classes from 0.
        test: uint8 [m, h, w, c].
        test_labels: int64 [m].
        classes: names by label.
        mean: of each channel over the training images, of values in [0, 1].
        std: of each channel over the training images, of values in [0, 1].
        validation: uint8 [v, h, w, c], held out of the training images; none by default.
        validation_labels: int64 [v].
        digest: of the set and the order of its images, where they are decoded as they are needed.
    """

    train: Pixels
    train_labels: Tensor
    test: Pixels
    test_labels: Tensor
    classes: list[str]
    mean: list[float]
    std: list[float]
    validation: Pixels = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    validation_labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    digest: str = ""

    @property
    def watched(self) -> Literal["validation", "test"]:
        """The part that is tested during a training: that for validation, where there is one."""
        return "validation" if len(self.validation) else "test"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.shape[1], self.train.shape[2]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.shape[3]


def load(
    ref: DatasetRef, options: ImageOptions, run: Run, seed: int, held: Callable[[int], int] = _none
) -> ImageData:
    """Read a built-in or uploaded set onto the run's device.

    Args:
        ref: the set; its bytes are among the inputs of the run unless it is built in.
        options: part of the images to take, and their size.
        run: names device and inputs.
        seed: chooses the part.
        held: how many of so many training images to hold out for validation.

    Raises:
        DataError: if the data is not there or cannot be used, or its training images are all
            alike.
        SpecError: if more images are asked for than there are.
    """
    if ref.dataset in BUILTIN:
        from models.data import samples

        arrays = samples.images(ref.dataset)
    else:
        from models.data import files

        size = options.image_size
        fit = None if size is None else lambda image: _fitted(image, size, options.fit)
        arrays = files.read_images(run.input(ref), ref.read, fit)
    train = [torch.from_numpy(array) for array in arrays.train]
    test = [torch.from_numpy(array) for array in arrays.test]
    if options.subset is not None:
        train = selection.subset(train, options.subset, seed)
    if options.image_size is not None and train[0].shape[1:3] != (options.image_size,) * 2:
        train[0], test[0] = (fitted(x[0], options.image_size, options.fit) for x in (train, test))
    if (train[0] == train[0][:1]).all():
        raise selection.all_alike(len(train[0]), ref.dataset)
    train, validation = selection.hold_out(train, held(len(train[1])), seed)
    return from_tensors(train, test, arrays.classes, run.device, validation)


def from_tensors(
    train: list[Tensor],
    test: list[Tensor],
    classes: list[str],
    device: str,
    validation: list[Tensor] | None = None,
) -> ImageData:
    """Image data on a device; mean and deviation come from the training images.

    Args:
        train: images uint8 [n, h, w, c] and labels int64 [n].
        test: likewise.
        classes: names of the labels.
        device: torch device.
        validation: likewise, held out of the training images, if any are.
    """
    mean, std = statistics(train[0])
    x, labels, test_x, test_labels = (tensor.to(device) for tensor in (*train, *test))
    data = ImageData(x, labels, test_x, test_labels, classes, mean, std)
    if validation is None:
        return data
    pixels, labels = (tensor.to(device) for tensor in validation)
    return replace(data, validation=pixels, validation_labels=labels)


def _fitted(
    image: UInt8[np.ndarray, "h w c"], size: int, how: str
) -> UInt8[np.ndarray, "size size c"]:
    return fitted(torch.tensor(image)[None], size, how)[0].numpy()


def statistics(images: UInt8[Tensor, "n h w c"]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values in [0, 1]; a constant one has 1."""
    return moments(histogram(images))


def histogram(images: UInt8[Tensor, "n h w c"]) -> Int64[Tensor, "c 256"]:
    """How often each value of a pixel comes, by channel."""
    return torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(3)]
    )


def moments(counts: Int64[Tensor, "c 256"]) -> tuple[list[float], list[float]]:
    """:func:`statistics` of the images of a :func:`histogram`."""
    counts = counts.double()  # so the sums are exact
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 0, variance, 1.0).sqrt()
    return mean.tolist(), std.tolist()


def normalise(
    images: UInt8[Tensor, "n h w c"], mean: list[float], std: list[float]
) -> Float[Tensor, "n c h w"]:
    """(x / 255 - mean) / std in float32; the memory stays in the order NHWC."""
    scale, shift = _affine(tuple(mean), tuple(std), images.device)
    return (images.float() * scale + shift).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Kept on the device: making a tensor there from numbers makes the host wait for the GPU."""
    scale = torch.tensor(std, device=device).reciprocal()
    return scale / 255, -torch.tensor(mean, device=device) * scale


def batch(
    data: ImageData, chosen: Int64[Tensor, "b"], augment: Augment, seed: int, step: int
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, "b"]]:
    """Normalised, augmented training images and their labels.

    Args:
        data: the set.
        chosen: indices of the images, on the CPU.
        augment: what may change at random.
        seed: of the job.
        step: from 0; the random changes depend on (seed, step) and the position in the batch.
    """
    return batches(data, [chosen], augment, seed, [step])


def batches(
    data: ImageData,
    chosen: Sequence[Int64[Tensor, "b"]],
    augment: Augment,
    seed: int,
    steps: Sequence[int],
    pixels: UInt8[Tensor, "kb i j c"] | None = None,
) -> tuple[Float[Tensor, "kb c i j"], Int64[Tensor, "kb"]]:
    """Batches of successive steps as one; each image is what :func:`batch` makes of it.

    Args:
        data: on the device.
        chosen: indices of the training images of each batch, on the CPU.
        augment: random changes.
        seed: of the job.
        steps: number of each batch, from 0; with the seed it keys the random changes.
        pixels: of these images, where they are decoded already. At a smaller size the random
            changes are the same but for shifts, which are rounded to whole pixels of that size.
    """
    pairs = zip(chosen, steps, strict=True)
    draws = torch.cat(
        [_draws(part, augment, generator(seed, "augment", step)) for part, step in pairs], 1
    )
    if data.train.is_cuda:  # the host goes on to the next step while the GPU is in this one
        draws = draws.pin_memory().to(data.train.device, non_blocking=True)
    index = draws[0]
    images = data.train[index] if pixels is None else pixels
    if augment.resized_crop is not None and pixels is None:
        keys = crop_keys(chosen, augment.resized_crop, seed, steps)
        images = torch.stack([_cropped(x, key) for x, key in zip(images, keys, strict=True)])
    if len(draws) > 1:
        images = _augmented(images, augment.crop_padding, draws[1:], data.size)
    lengths = [len(part) for part in chosen]
    if augment.trivial:
        parts = zip(images.split(lengths), steps, strict=True)
        images = torch.cat([trivially_changed(part, seed, step) for part, step in parts])
    x = normalise(images, data.mean, data.std)
    if augment.erase:
        parts = zip(x.split(lengths), steps, strict=True)
        x = torch.cat([erased(part, augment.erase, seed, step) for part, step in parts])
    return x, data.train_labels[index]


def crop_keys(
    chosen: Sequence[Int64[Tensor, "b"]], least: float, seed: int, steps: Sequence[int]
) -> list[CropKey]:
    """What the random part of each image of some batches depends on; as in :func:`batches`."""
    pairs = zip(chosen, steps, strict=True)
    return [CropKey(seed, step, k, least) for part, step in pairs for k in range(len(part))]


def _cropped(image: UInt8[Tensor, "h w c"], key: CropKey) -> UInt8[Tensor, "h w c"]:
    """A random part of an image at the size of the whole."""
    h, w = image.shape[:2]
    top, left, high, wide = crop_box(key, h, w)
    part = image[None, top : top + high, left : left + wide].contiguous()
    return resize(part, (h, w))[0]


def _draws(
    chosen: Int64[Tensor, "b"], augment: Augment, numbers: torch.Generator
) -> Int64[Tensor, "k b"]:
    """All that a batch depends on, as one tensor on the CPU: index, then top, left and mirror."""
    b, p = len(chosen), augment.crop_padding
    if not (p or augment.flip):
        return chosen[None]
    corner = torch.randint(0, 2 * p + 1, (2, b), generator=numbers)
    mirrored = torch.rand(1, b, generator=numbers) < 0.5 * augment.flip
    return torch.cat([chosen[None], corner, mirrored.long()])


def _augmented(
    images: UInt8[Tensor, "b h w c"], p: int, draws: Int64[Tensor, "3 b"], size: tuple[int, int]
) -> UInt8[Tensor, "b h w c"]:
    """Crop from the zero-padded image and mirror, each image its own way, by one gather.

    ``p`` and ``draws`` count in pixels of images of ``size``.
    """
    b, h, w, _ = images.shape
    device = images.device
    top, left, mirrored = draws[:, :, None]
    if (h, w) != size:
        shift = torch.stack([(top - p) * h / size[0], (left - p) * w / size[1]]).round().long()
        p = math.ceil(p * max(h / size[0], w / size[1]))
        top, left = shift + p
    rows = torch.arange(h, device=device) + top  # [b, h]
    columns = torch.arange(w, device=device).expand(b, w)
    columns = torch.where(mirrored > 0, w - 1 - columns, columns) + left  # [b, w]
    padded = functional.pad(images, (0, 0, p, p, p, p))
    return padded[torch.arange(b, device=device)[:, None, None], rows[:, :, None], columns[:, None]]


def evaluation_batches(
    data: ImageData, size: int | None = None, part: Literal["validation", "test"] = "test"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and labels of a part, in order.

    Images are float32 [b, c, h, w], labels int64 [b]; b is ``size`` but for the last, and without
    one what a net keeps in memory: 1,024, and fewer above 64 x 64 pixels.
    """
    size = size or max(1, min(CHUNK, CHUNK * 64 * 64 // (data.size[0] * data.size[1])))
    if part == "test":
        pixels, known = data.test, data.test_labels
    else:
        pixels, known = data.validation, data.validation_labels
    pairs = zip(pixels.split(size), known.split(size), strict=True)
    for images, labels in pairs:
        yield normalise(images, data.mean, data.std), labels
