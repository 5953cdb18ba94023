"""Spec field of the images to explain: a list, or a range of one dataset. Torch-free."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from models.core.needs import Bound, DatasetNeed
from models.core.spec import DatasetRef, Int
from models.saliency.spec.fields import ImageRef


class ImageRange(DatasetRef):
    """Consecutive images of one part of a dataset."""

    split: Literal["test", "train", "validation"] = Field(
        default="test", description="Part of a labelled set; sets of photographs have only one"
    )
    first: Int = Field(default=0, ge=0, le=10**8, description="Position of the first, from 0")
    count: Int = Field(ge=1, le=100_000, description="How many images")

    def at(self, position: int) -> ImageRef:
        """The image at a position of the range, from 0."""
        return ImageRef(
            dataset=self.dataset,
            sha256=self.sha256,
            read=self.read,
            split=self.split,
            index=self.first + position,
        )

    def need(self, pointer: str, channels: int | None) -> DatasetNeed:
        """A set that holds all of the range.

        Args:
            pointer: of this reference within the spec.
            channels: of the net's input, None if unknown; a grey image suits every net.
        """
        last, field = self.first + self.count, f"{pointer}/count"
        labelled, photographs = (
            Bound(part, last, field=field, remedy="lower first or count")
            for part in (self.split, "images")
        )
        among = (Bound("channels", among=(1, channels)),) if channels else ()
        return DatasetNeed(
            pointer, {"labelled images": (labelled, *among), "photographs": (photographs,)}
        )


class RangeImages(Sequence[ImageRef]):
    """The images of a range as a sequence; none is kept."""

    def __init__(self, images: ImageRange) -> None:
        self._range = images

    def __len__(self) -> int:
        return self._range.count

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self._range.at(each) for each in range(len(self))[position]]
        return self._range.at(range(len(self))[position])


Images = Annotated[
    Annotated[list[ImageRef], Field(min_length=1, max_length=1000), Tag("list")]
    | Annotated[ImageRange, Tag("range")],
    Discriminator(
        lambda value: "list" if isinstance(value, list | tuple) else "range",
        custom_error_type="images_form",
        custom_error_message='give a list of images, or {"dataset": name, "count": how many}',
    ),
]
