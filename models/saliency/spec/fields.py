"""Spec fields of baselines and images, and field types that all specs share. Torch-free."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.needs import Bound, DatasetNeed
from models.core.spec import DatasetRef, Int, SpecGroup


def form(value: Any) -> str | None:
    """Discriminator of a field that takes a number, a list of numbers or a word."""
    forms = {int: "number", float: "number", list: "list", tuple: "list", str: "word"}
    return forms.get(type(value))


Pixels = Annotated[Int, Field(ge=1, le=4096)]
Extent = Annotated[
    Annotated[Pixels, Tag("number")]
    | Annotated[list[Pixels], Field(min_length=2, max_length=2), Tag("list")],
    Discriminator(
        form,
        custom_error_type="extent_form",
        custom_error_message="give a number of pixels from 1 to 4096, or [height, width]",
    ),
]


def pair(extent: int | list[int]) -> tuple[int, int]:
    """Height and width of an extent, in pixels."""
    return (extent, extent) if isinstance(extent, int) else (extent[0], extent[1])


class Plain(SpecGroup):
    """A baseline without parameters."""

    id: Literal["zero", "black", "white", "gray", "channel_mean", "dataset_mean"] = Field(
        description="zero: 0 after normalisation; black, white, gray: 0, 1, 0.5 before it; "
        "channel_mean: of this image; dataset_mean: the mean that the net's weights record"
    )


class Constant(SpecGroup):
    """One colour."""

    id: Literal["constant"]
    value: list[float] = Field(
        min_length=1, max_length=16, description="One number a channel, or one for all channels"
    )
    space: Literal["pixel", "normalised"] = Field(
        default="pixel", description="pixel: 0 is black and 1 white; normalised: as the net sees it"
    )

    @model_validator(mode="after")
    def _bounds(self) -> "Constant":
        low, high = (0.0, 1.0) if self.space == "pixel" else (-1000.0, 1000.0)
        if any(not low <= number <= high for number in self.value):
            raise ValueError(
                f"value {self.value} must lie in [{low:g}, {high:g}] in {self.space} space; "
                "divide 8-bit colours by 255"
            )
        return self


class Blur(SpecGroup):
    """The image itself, blurred."""

    id: Literal["blur"]
    sigma: float = Field(
        default=10.0, ge=0.1, le=100, description="Standard deviation of the Gaussian, in pixels"
    )


class Noise(SpecGroup):
    """A random baseline; scores are means over its draws."""

    id: Literal["uniform_noise", "shuffle"] = Field(
        description="uniform_noise: each value uniform from black to white; shuffle: the pixels of "
        "this image in random order"
    )
    draws: Int = Field(default=1, ge=1, le=64, description="Independent draws to average over")
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Added to the job's seed")


class GaussianNoise(SpecGroup):
    """Independent normal values around the mean of the net's data; scores are means over draws."""

    id: Literal["gaussian_noise"]
    sigma: float = Field(
        default=1.0, gt=0, le=100, description="Standard deviation, in units of the data's own"
    )
    draws: Int = Field(default=1, ge=1, le=64, description="Independent draws to average over")
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Added to the job's seed")


class ImageRef(DatasetRef):
    """One image of a dataset."""

    split: Literal["test", "train", "validation"] = Field(
        default="test", description="Part of a labelled set; sets of photographs have only one"
    )
    index: Int = Field(default=0, ge=0, le=10**8, description="Position in that part, from 0")

    @property
    def key(self) -> tuple[str, str, int]:
        """Identifies the image within a job."""
        return self.dataset, self.split, self.index

    def need(self, pointer: str, channels: int | None) -> DatasetNeed:
        """A set with such an image.

        Args:
            pointer: of this reference within the spec.
            channels: of the net's input, None if unknown; a grey image suits every net.
        """
        field, lower = f"{pointer}/index", "lower index"
        images = [
            Bound(part, self.index + 1, field=field, remedy=lower)
            for part in (self.split, "images")
        ]
        among = (Bound("channels", among=(1, channels)),) if channels else ()
        return DatasetNeed(
            pointer, {"labelled images": (images[0], *among), "photographs": (images[1],)}
        )


class OtherImage(SpecGroup):
    """Another image of any dataset, built in or uploaded, at the size of the net's input."""

    id: Literal["other_image"]
    image: ImageRef


class LocalMean(SpecGroup):
    """The mean colour around the removed region; that of the image if nothing is left."""

    id: Literal["local_mean"]
    ring: Int = Field(
        default=8,
        ge=1,
        le=256,
        description="Width of the surrounding ring that is averaged, pixels",
    )


class NoisyLinear(SpecGroup):
    """Removed pixels as weighted means of their neighbours, plus noise (Rong et al. 2022)."""

    id: Literal["noisy_linear"]
    noise: float = Field(
        default=0.01, ge=0, le=1, description="Standard deviation, as a share of the image's range"
    )
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Added to the job's seed")


class Inpainted(SpecGroup):
    """Removed pixels as a smooth continuation of their surroundings (biharmonic inpainting)."""

    id: Literal["inpainted"]


class DatasetSamples(DatasetRef):
    """Images drawn from a dataset, built in or uploaded; scores are means over the draws.

    They come from 64 images that are drawn once for the job; the explained image is left out.
    """

    id: Literal["dataset_samples"]
    split: Literal["test", "train", "validation"] = Field(
        default="train", description="Part of a labelled set; sets of photographs have only one"
    )
    draws: Int = Field(default=8, ge=1, le=32, description="Images to average over")
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Added to the job's seed")

    def need(self, pointer: str, channels: int | None) -> DatasetNeed:
        """A set with more images than draws.

        Args:
            pointer: of this reference within the spec.
            channels: of the net's input, None if unknown; a grey image suits every net.
        """
        field = f"{pointer}/draws"
        images = [
            Bound(part, self.draws + 1, field=field, remedy="lower draws")
            for part in (self.split, "images")
        ]
        among = (Bound("channels", among=(1, channels)),) if channels else ()
        return DatasetNeed(
            pointer, {"labelled images": (images[0], *among), "photographs": (images[1],)}
        )


Baseline = Annotated[
    Plain | Constant | Blur | Noise | GaussianNoise | OtherImage | DatasetSamples,
    Field(discriminator="id"),
]
LOCAL = (LocalMean, NoisyLinear, Inpainted)  # they fill removed regions from their surroundings
MapBaseline = Annotated[
    Plain | Constant | Blur | Noise | GaussianNoise | OtherImage | DatasetSamples | LocalMean
    | NoisyLinear | Inpainted,
    Field(discriminator="id"),
]  # fmt: skip


def draws(baseline: SpecGroup) -> int:
    """Number of images that a baseline draws: 1 unless it is random."""
    return getattr(baseline, "draws", 1)


def labels(parts: Sequence[Any]) -> list[str]:
    """A label for each part: its id, numbered from 1 if the id occurs more than once."""
    ids = [part.id for part in parts]
    return [
        name if ids.count(name) == 1 else f"{name}-{ids[: position + 1].count(name)}"
        for position, name in enumerate(ids)
    ]
