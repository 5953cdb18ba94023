"""Bodies of datasets."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from app.db.tables import Dataset
from app.schemas.errors import DatasetError
from app.schemas.page import Body, Cursor, Limit, Params
from models.core.spec import Sha256
from models.data.builtin import Builtin

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,120}$")]


class DatasetOptions(Body):
    """What a format needs to know beside the bytes."""

    cell_size_m: float | None = Field(
        default=None, gt=0, le=1e6, description="Edge of a cell in metres; elevation only"
    )
    nodata: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Stored value of cells without a height, where the file declares none;"
        " elevation only",
    )


class DatasetCreate(Body):
    """A dataset to upload."""

    name: Name = Field(description="What specs will call it; unique, not one of a built-in set")
    format: Literal["npz", "image_folder", "parquet", "elevation", "net"] = Field(
        description="npz without objects; zip of an image folder; parquet with images and labels; "
        "GeoTIFF, ASCII grid or npy of heights; net: a torch.export archive or safetensors weights"
    )
    options: DatasetOptions = DatasetOptions()
    sha256: Sha256 | None = Field(default=None, description="What the content must have")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.options.cell_size_m is not None and self.format != "elevation":
            raise ValueError(f"cell_size_m with format {self.format}; only elevation has cells")
        if self.options.nodata is not None and self.format != "elevation":
            raise ValueError(f"nodata with format {self.format}; only elevation has heights")
        return self


class DatasetQuery(Params):
    """Which page."""

    limit: Limit = 50
    cursor: Cursor | None = None


class DatasetRead(BaseModel):
    """Named immutable data that specs can refer to."""

    id: str = Field(description="The name, for a built-in set")
    object: Literal["dataset"] = "dataset"
    name: str
    builtin: bool = False
    description: str | None = None
    format: str | None
    options: dict[str, Any] = {}
    status: Literal["uploading", "checking", "ready", "failed"]
    sha256: str | None
    size_bytes: int | None
    counts: dict[str, float] = Field(description="What was found in it, once it is ready")
    contents: dict[str, Any] | None = Field(
        default=None, description="What was converted or assumed when it was read"
    )
    error: DatasetError | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def of(cls, row: Dataset) -> Self:
        """An uploaded dataset as it is answered."""
        read = cls.model_validate(row, from_attributes=True)
        return read.model_copy(update={"contents": row.counts.get("contents")})

    @field_validator("counts", mode="before")
    @classmethod
    def _numbers(cls, counts: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in counts.items() if name != "contents"}

    @classmethod
    def of_builtin(cls, entry: Builtin) -> Self:
        """A built-in dataset as it is answered."""
        return cls(
            id=entry.name,
            name=entry.name,
            builtin=True,
            description=entry.description,
            format=None,
            status="ready",
            sha256=None,
            size_bytes=None,
            counts=entry.counts,
        )
