"""Random changes of training images beyond shifts and mirroring, keyed by seed and step.

A change of one image is drawn by (seed, step, position in the batch), one of a batch by (seed,
step), so a resumed run goes on with the same, and images that are decoded as they are needed get
what those in memory get.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.data.spec import Augment
from models.data.trivial_augment import changed, draw

CROP, ERASE, MIX, TRIVIAL = 1, 2, 3, 4  # streams of random numbers
TRIES = 10  # for a rectangle that fits
CROP_RATIOS = (3 / 4, 4 / 3)  # width over height (Szegedy et al., arXiv 1409.4842, section 6)
ERASED_AREA, ERASED_RATIOS = (0.02, 1 / 3), (0.3, 3.3)  # Zhong et al., arXiv 1708.04896, table 1


class Box(NamedTuple):
    """A rectangle in pixels, from the top left corner."""

    top: int
    left: int
    height: int
    width: int


class CropKey(NamedTuple):
    """What the random part of an image depends on: seed, step, position, and its least share."""

    seed: int
    step: int
    position: int
    least: float


def _numbers(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def crop_box(key: CropKey, height: int, width: int) -> Box:
    """The part of an image that is brought to the size of the net's input.

    Its area is a uniform share of the image's from ``key.least`` to 1, its proportions log-uniform
    from 3:4 to 4:3; the largest central part of allowed proportions if ten draws do not fit.

    Args:
        key: of the image.
        height: of the image in pixels.
        width: of the image in pixels.
    """
    numbers = _numbers(key.seed, CROP, key.step, key.position)
    box = _rectangle(numbers, height, width, (key.least, 1.0), CROP_RATIOS)
    if box is not None:
        return box
    ratio = min(max(width / height, CROP_RATIOS[0]), CROP_RATIOS[1])
    high, wide = min(height, round(width / ratio)), min(width, round(height * ratio))
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def _rectangle(
    numbers: np.random.Generator,
    height: int,
    width: int,
    shares: tuple[float, float],
    ratios: tuple[float, float],
) -> Box | None:
    """A rectangle of a random area and of random proportions, somewhere within; None: none fits."""
    for area, ratio, y, x in numbers.random((TRIES, 4)).tolist():
        pixels = height * width * (shares[0] + area * (shares[1] - shares[0]))
        proportion = math.exp(math.log(ratios[0]) + ratio * math.log(ratios[1] / ratios[0]))
        high, wide = round(math.sqrt(pixels / proportion)), round(math.sqrt(pixels * proportion))
        if 0 < high <= height and 0 < wide <= width:
            return Box(int(y * (height - high + 1)), int(x * (width - wide + 1)), high, wide)
    return None


def erased(
    x: Float[Tensor, "b c h w"], probability: float, seed: int, step: int
) -> Float[Tensor, "b c h w"]:
    """Images of which some have a rectangle of the mean colour (Zhong et al., arXiv 1708.04896).

    Args:
        x: normalised, so that the mean is 0.
        probability: that an image has one.
        seed: of the job.
        step: with the seed it keys the draws.
    """
    b, _, h, w = x.shape
    boxes = [_erased_box(_numbers(seed, ERASE, step, k), probability, h, w) for k in range(b)]
    places = torch.tensor(boxes)
    if x.is_cuda:
        places = places.pin_memory().to(x.device, non_blocking=True)
    top, left, high, wide = places.T[:, :, None]
    rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    in_rows = (rows >= top) & (rows < top + high)
    in_columns = (columns >= left) & (columns < left + wide)
    return x.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def _erased_box(numbers: np.random.Generator, probability: float, h: int, w: int) -> Box:
    drawn = numbers.random() < probability
    box = _rectangle(numbers, h, w, ERASED_AREA, ERASED_RATIOS) if drawn else None
    return box or Box(0, 0, 0, 0)


def trivially_changed(
    images: UInt8[Tensor, "b i j c"], seed: int, step: int
) -> UInt8[Tensor, "b i j c"]:
    """Images of which each has one change of TrivialAugment (``trivial_augment.py``).

    Args:
        images: of a batch.
        seed: of the job.
        step: with the seed it keys the draws.
    """
    draws = [draw(_numbers(seed, TRIVIAL, step, k)) for k in range(len(images))]
    return changed(images, draws)


def mixed(
    x: Float[Tensor, "b c h w"],
    shares: Float[Tensor, "b classes"],
    augment: Augment,
    seed: int,
    step: int,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b classes"]]:
    """Each image mixed with another of the batch, and its label with the other's.

    ``mixup`` is a weighted mean (Zhang et al., arXiv 1710.09412), ``cutmix`` a rectangle of the
    other (Yun et al., arXiv 1905.04899); where both are asked for, each step takes one at random.

    Args:
        x: images of the step.
        shares: their labels.
        augment: parameters of the beta distributions of the mixing share.
        seed: of the job.
        step: with the seed it keys the draws.
    """
    numbers = _numbers(seed, MIX, step)
    cuts = numbers.random() < 0.5 if augment.mixup and augment.cutmix else bool(augment.cutmix)
    alpha = augment.cutmix if cuts else augment.mixup
    share = float(numbers.beta(alpha, alpha))
    other = x.flip(0)
    if cuts:
        box = _cut(numbers, share, *x.shape[2:])
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        x = x.clone()
        x[:, :, rows, columns] = other[:, :, rows, columns]
        share = 1 - box.height * box.width / (x.shape[2] * x.shape[3])
    else:
        x = x * share + other * (1 - share)
    return x, shares * share + shares.flip(0) * (1 - share)


def _cut(numbers: np.random.Generator, share: float, h: int, w: int) -> Box:
    """A rectangle of 1 - share of the area around a random point, as far as it lies within."""
    side = math.sqrt(1 - share)
    y, x = numbers.random(2) * (h, w)
    top, end = (round(min(max(v, 0), h)) for v in (y - side * h / 2, y + side * h / 2))
    left, right = (round(min(max(v, 0), w)) for v in (x - side * w / 2, x + side * w / 2))
    return Box(top, left, end - top, right - left)
