"""How a job uses the images of a dataset. Torch-free."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from models.core.errors import SpecError
from models.core.needs import Bound
from models.core.spec import Int, SpecGroup

MIN_SIDE = 4  # pixels; nets halve images twice
Loading = Literal["auto", "memory", "stream"]


def image_bounds(image_size: int | None, subset: int | None) -> tuple[Bound, ...]:
    """What a labelled set must have to train and test a classifier on it.

    Args:
        image_size: side in pixels to which its images are resized, if they are.
        subset: how many of its training images are used; all if None.
    """
    resize = f"give images.image_size of {MIN_SIDE} or more"
    sides = [
        Bound(side, MIN_SIDE, field="/images/image_size", remedy=resize)
        for side in ("height", "width")
        if image_size is None
    ]
    lower = Bound("train", subset or 2, field="/images/subset", remedy="lower images.subset")
    train = lower if subset else Bound("train", 2)
    return (Bound("classes", 2), Bound("test", 1), train, *sides)


class Augment(SpecGroup):
    """Random changes of the training images, drawn per image and step."""

    crop_padding: Int = Field(
        default=0, ge=0, le=64, description="Zero border in pixels before a random crop; 0 is off"
    )
    flip: bool = Field(default=False, description="Mirror left to right with probability 1/2")
    resized_crop: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Bring a random part to the size of the images, of at least this share of the"
        " area (0.08 is usual for photographs) and of 3:4 to 4:3; where images are streamed, a part"
        " of the whole picture as it was uploaded. null is off",
    )
    trivial: bool = Field(
        default=False,
        description="TrivialAugment: one of 14 changes an image (turned, sheared, shifted, colours,"
        " contrast, ...) at a random strength, after crop and flip",
    )
    erase: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability that a rectangle of 2 % to 33 % takes the mean colour",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Mix pairs of images and labels by a share of Beta(mixup, mixup); 0 is off."
        " With cutmix too, each step takes one of them",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Put a rectangle of another image into each, its area of Beta(cutmix, cutmix);"
        " 0 is off",
    )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, and with them their labels."""
        return bool(self.mixup or self.cutmix)


class ImageOptions(SpecGroup):
    """How the images of a dataset are used."""

    subset: Int | None = Field(
        default=None, ge=2, le=100_000_000, description="Training images to use, drawn by the seed"
    )
    image_size: Int | None = Field(
        default=None,
        ge=MIN_SIDE,
        le=1024,
        description="Resize all images once to this height and width in pixels",
    )
    fit: Literal["crop", "squash"] = Field(
        default="crop",
        description="What images that are no squares lose by it: crop, what lies beyond the central"
        " square on the longer side; squash, their proportions",
    )
    augment: Augment = Augment()


def check_one_size(image_size: int | None, counts: Mapping[str, int]) -> None:
    """Refuse images of several sizes that nothing brings to one.

    Args:
        image_size: height and width to which all are resized; None leaves them as they are.
        counts: of the dataset; ``sizes`` where its images have several.

    Raises:
        SpecError: naming the field.
    """
    if image_size is None and counts.get("sizes", 1) > 1:
        raise SpecError(
            f"images.image_size: the images of this dataset have {counts['sizes']} sizes; give the "
            "height and width to which all are resized, from 4 to 1024 pixels"
        )
