"""Bodies of datasets."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.db.tables import Dataset
from app.schemas.errors import DatasetError
from app.schemas.page import Body, Cursor, Limit, Params
from models.core.spec import PROJECT, Sha256
from models.data.builtin import Builtin

IMAGES = ("npz", "image_folder", "parquet", "idx")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,120}$")]


class DatasetOptions(Body):
    """What a format needs to know beside the bytes."""

    cell_size_m: float | None = Field(
        default=None, gt=0, le=1e6, description="Edge of a cell in metres; elevation only"
    )
    label: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Column of the labels; parquet only. Without it one called label, labels or "
        "fine_label, or the only one that the file declares to hold classes",
    )
    split: Literal["named", "hold_out"] | None = Field(
        default=None,
        description="Images only. named (default): parts by the names train, validation and test "
        "of folders, files or arrays; hold_out: such names mean nothing, a fifth of each class is "
        "held out for testing",
    )
    nodata: Annotated[float, Field(allow_inf_nan=False)] | Literal["nan"] | None = Field(
        default=None,
        description="Stored value of cells without a height, where the file declares none;"
        ' "nan" for NaN; elevation only',
    )
    project: str | None = Field(
        default=None,
        pattern=PROJECT,
        description="Reference system in metres to which a raster is brought wherever it is read,"
        " utm or EPSG: and a number, such as for one in degrees; cell_size_m is then that of the"
        " result, about that of the file when null; elevation only",
    )


class DatasetCreate(Body):
    """A dataset to upload."""

    name: Name = Field(description="What specs will call it; unique, not one of a built-in set")
    format: Literal[
        "npz",
        "image_folder",
        "parquet",
        "idx",
        "elevation",
        "net",
        "series",
        "marks",
        "regions",
        "netcdf",
    ] = Field(
        description="npz without objects; zip of an image folder, or one picture; parquet with "
        "images and labels; zip of IDX files as MNIST has them; GeoTIFF, ASCII grid or npy of "
        "heights; net: a torch.export archive or safetensors weights; series: CSV of times and "
        "values; marks: CSV of x, y and surveyed water levels; regions: boxes or masks of "
        "images, as COCO's JSON, CSV or a zip of PNG; netcdf: fields over time on a grid"
    )
    options: DatasetOptions = DatasetOptions()
    sha256: Sha256 | None = Field(default=None, description="What the content must have")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        options = self.options
        if options.cell_size_m is not None and self.format != "elevation":
            raise ValueError(f"cell_size_m with format {self.format}; only elevation has cells")
        if options.label is not None and self.format != "parquet":
            raise ValueError(f"label with format {self.format}; only parquet has columns")
        if options.split is not None and self.format not in IMAGES:
            raise ValueError(f"split with format {self.format}; only images have parts")
        if options.nodata is not None and self.format != "elevation":
            raise ValueError(f"nodata with format {self.format}; only elevation has heights")
        if options.project is not None and self.format != "elevation":
            raise ValueError(f"project with format {self.format}; only elevation is projected")
        return self


class DatasetQuery(Params):
    """Which page."""

    limit: Limit = 50
    cursor: Cursor | None = None


class LeftOut(BaseModel):
    """Files, columns or arrays that were not read."""

    what: str
    count: int
    reason: str


class DatasetContents(BaseModel):
    """What an import took, assumed and left out, and how parts and labels were chosen."""

    model_config = ConfigDict(extra="allow")

    taken: dict[str, int] = Field(description="Files by ending, or arrays by name")
    left_out: list[LeftOut]
    split: str | None = Field(description="How training, validation and test parts were chosen")
    label: str | None = Field(description="How the labels were chosen")
    sizes: str | None = Field(description="Height x width in pixels, or their range")
    notes: list[str] = Field(description="What was changed in images, and what to be aware of")


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
    counts: dict[str, int | float] = Field(description="What it holds, once it is ready")
    contents: DatasetContents | None = Field(
        default=None,
        description="What was taken, assumed and left out; once it is ready",
    )
    error: DatasetError | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def of(cls, row: Dataset) -> Self:
        """An uploaded dataset as it is answered."""
        return cls.model_validate(row, from_attributes=True)

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
