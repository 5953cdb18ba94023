"""How a job uses the images of a dataset. Torch-free."""

from pydantic import Field

from models.core.spec import Int, SpecGroup


class Augment(SpecGroup):
    """Random changes of the training images, drawn per image and step."""

    crop_padding: Int = Field(
        default=0, ge=0, le=64, description="Zero border in pixels before a random crop; 0 is off"
    )
    flip: bool = Field(default=False, description="Mirror left to right with probability 1/2")


class ImageOptions(SpecGroup):
    """How the images of a dataset are used."""

    subset: Int | None = Field(
        default=None, ge=2, le=100_000_000, description="Training images to use, drawn by the seed"
    )
    image_size: Int | None = Field(
        default=None,
        ge=4,
        le=1024,
        description="Resize all images once to this height and width in pixels",
    )
    augment: Augment = Augment()
