"""Where a terrain comes from, and how it is made coarse: fields of the specs. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from models.core.needs import TOLERANCE, WEIGHTS, ArtifactNeed, Bound, DatasetNeed
from models.core.spec import PROJECT, ArtifactRef, DatasetRef, Int, SpecGroup
from models.data.builtin import BUILTIN

NodataCells = Annotated[
    Literal["wall", "open"],
    Field(
        description="What cells without a height are to water: a wall, or an opening that it leaves"
        " by; no rain falls there"
    ),
]
SUBGRID_FILE = "subgrid.nc"
CELLS = 50_000_000


class Area(SpecGroup):
    """A rectangle of cells of a raster."""

    row: Int = Field(default=0, ge=0, description="First row, from the top")
    column: Int = Field(default=0, ge=0, description="First column")
    rows: Int = Field(ge=2, le=50_000)
    columns: Int = Field(ge=2, le=50_000)


class DatasetTerrain(DatasetRef):
    """An uploaded elevation, or the built-in ``jacksboro_dem``."""

    cell_size_m: float | None = Field(
        default=None,
        ge=1e-3,
        le=1e6,
        description="Side of a cell in metres, where neither the file (npy, degrees) nor the"
        " upload tells it",
    )
    nodata: float | Literal["nan"] | None = Field(
        default=None,
        description='Stored value of cells without a height, where none is declared; "nan" for NaN',
    )
    project: str | None = Field(
        default=None,
        pattern=PROJECT,
        description="Reference system in metres to which the raster is brought, utm or EPSG: and a"
        " number; cell_size_m is then that of the result. As at its upload where left out",
    )
    area: Area | None = Field(default=None, description="Part of it; all where left out")

    def need(self, pointer: str, *more: Bound) -> DatasetNeed:
        """An elevation that holds the area and whose cell size is known.

        Args:
            pointer: of this reference within the spec.
            more: bounds beside these.
        """
        bounds = [self._cell_size(f"{pointer}/cell_size_m"), *more]
        for count in ("rows", "columns"):
            bounds.append(Bound(count, 2))
            if self.area is not None:
                last = getattr(self.area, count.removesuffix("s")) + getattr(self.area, count)
                remedy = "move or shrink the area"
                bounds.append(Bound(count, last, field=f"{pointer}/area", remedy=remedy))
        return DatasetNeed(pointer, {"an elevation": tuple(bounds)})

    def _cell_size(self, field: str) -> Bound:
        given = self.cell_size_m
        if given is None:
            return Bound("cell_size_m", field=field, remedy="give cell_size_m", required=True)
        if self.dataset in BUILTIN:  # in degrees: any square is an assumption
            return Bound("cell_size_m")
        low, high = given * (1 - TOLERANCE), given * (1 + TOLERANCE)
        return Bound("cell_size_m", low, high, field=field, remedy="leave cell_size_m out")


class ArtifactTerrain(ArtifactRef):
    """A GeoTIFF that another job left, or the ``subgrid.nc`` of a ``terrain.downsample`` job."""

    area: Area | None = None

    def need(self, pointer: str) -> ArtifactNeed:
        """A raster in metres; ``pointer`` is that of this reference within the spec."""
        return ArtifactNeed(pointer, ("raster",), names=("*.tif", SUBGRID_FILE))


class Synthetic(SpecGroup):
    """Hills of spectral noise with a tilted valley, its channel, levees, roads and buildings."""

    rows: Int = Field(default=256, ge=8, le=8192)
    columns: Int = Field(default=256, ge=8, le=8192)
    cell_size_m: float = Field(default=5.0, ge=0.1, le=1000)
    relief_m: float = Field(default=3.0, ge=0, le=1000, description="Height of the hills")
    slope: float = Field(
        default=0.002, ge=0, le=0.5, description="Fall of the valley, to the right"
    )
    channel_depth_m: float = Field(default=2.0, ge=0, le=100)
    channel_width_cells: float = Field(default=4.0, ge=1, le=1000)
    levee_height_m: float = Field(default=1.5, ge=0, le=100)
    levees: Int = Field(default=2, ge=0, le=64, description="Walls of 2 cells along the valley")
    roads: Int = Field(default=2, ge=0, le=64, description="Dams across it, with one gap each")
    buildings: Int = Field(default=0, ge=0, le=10_000, description="Blocks of 5 to 10 m")
    variant: Int = Field(default=0, ge=0, lt=2**31, description="Which one; part of its seed")


class SyntheticTerrain(SpecGroup):
    """A generated terrain."""

    synthetic: Synthetic


def _terrain_tag(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    for name, tag in (("dataset", "dataset"), ("job", "artifact"), ("synthetic", "synthetic")):
        if name in keys:
            return tag
    return None


FORMS = '{"dataset": name} of an elevation, {"job": id, "artifact": name} of a GeoTIFF'
Terrain = Annotated[
    Annotated[DatasetTerrain, Tag("dataset")]
    | Annotated[ArtifactTerrain, Tag("artifact")]
    | Annotated[SyntheticTerrain, Tag("synthetic")],
    Discriminator(
        _terrain_tag,
        custom_error_type="terrain_form",
        custom_error_message=f'give {FORMS}, or {{"synthetic": {{...}}}}',
    ),
]
Map = Annotated[
    Annotated[DatasetTerrain, Tag("dataset")] | Annotated[ArtifactTerrain, Tag("artifact")],
    Discriminator(
        _terrain_tag,
        custom_error_type="terrain_form",
        custom_error_message=f"give {FORMS}, on the cells of the terrain",
    ),
]
HeightMethod = Literal["mean", "max", "min", "bilinear", "bilateral", "channel"]
SubgridMethod = Literal["subgrid", "learned"]
Method = HeightMethod | SubgridMethod
METHODS: tuple[Method, ...] = ("mean", "max", "min", "bilinear", "bilateral", "channel", "subgrid")
LEARNED_FACTORS = (4, 8, 16)  # with a trained net of faces in the package
Factor = Annotated[
    Literal[2, 4, 8, 16, 32], Field(description="Fine cells a coarse cell, per side")
]


def check_learned(factor: int) -> None:
    """Refuse factors without a trained net of faces.

    Raises:
        ValueError: naming those with one.
    """
    if factor not in LEARNED_FACTORS:
        raise ValueError(
            f"method: learned has nets for factors 4, 8 and 16, not {factor}; take one of those,"
            " subgrid, which needs no net, or in terrain.downsample a net of your own"
        )


def net_need(pointer: str) -> ArtifactNeed:
    """A net of ``terrain.train`` at a pointer of the spec."""
    return ArtifactNeed(pointer, WEIGHTS, ("terrain.train",))


def subgrid_need(pointer: str) -> ArtifactNeed:
    """A subgrid of ``terrain.downsample`` at a pointer of the spec."""
    return ArtifactNeed(pointer, ("raster",), ("terrain.downsample",), names=(SUBGRID_FILE,))
