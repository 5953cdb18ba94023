"""Bodies of predictions at once."""

import base64
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from app.schemas.page import Body, Params

MAX_IMAGES = 64
BODY_BYTES = 8 * 2**20  # of a request, base64 included


def _decoded(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError("not base64: give the bytes of a picture file in base64") from error
    return text


Picture = Annotated[
    str,
    Field(min_length=1, description="A picture file in base64"),
    AfterValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 1}),
]


class PredictRequest(Body):
    """Pictures to classify."""

    images: list[Picture] = Field(
        min_length=1, max_length=MAX_IMAGES, description="PNG, JPEG, WebP, TIFF, BMP, GIF or PPM"
    )

    def contents(self) -> list[bytes]:
        """The files."""
        return [base64.b64decode(image) for image in self.images]


class PredictOptions(Params):
    """How pictures are classified."""

    top: int = Field(default=5, ge=1, le=100, description="Likeliest classes to name, at most")
    other_sizes: Literal["resize", "refuse"] = Field(
        default="resize", description="What to do with pictures of another size than the net's"
    )


class ClassProbability(BaseModel):
    """A class and how likely it is."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    probability: float


class PredictionRead(BaseModel):
    """What a net says of pictures."""

    object: Literal["prediction"] = "prediction"
    model: str = Field(description="The version that was asked")
    predictions: list[list[ClassProbability]] = Field(
        description="For each picture the likeliest classes, the likeliest first"
    )
