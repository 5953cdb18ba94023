"""Where things are on a terrain, where it is wet at first, where it is measured. Torch-free."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, model_validator

from models.core.needs import ArtifactNeed, Bound, DatasetNeed, Need
from models.core.spec import ArtifactRef, DatasetRef, SpecGroup

Position = Annotated[list[float], Field(min_length=2, max_length=3)]
Crs = Annotated[
    str | None,
    Field(
        default=None,
        pattern=r"^EPSG:\d{4,6}$",
        description="Of the coordinates, x or longitude first; null: as of the terrain",
    ),
]
FromCorner = Annotated[
    list[Annotated[float, Field(ge=0, le=1e7)]], Field(min_length=2, max_length=2)
]


class PointPlace(SpecGroup):
    """A point as GeoJSON, in the coordinates of the terrain."""

    type: Literal["Point"]
    coordinates: Position
    crs: Crs = None

    @property
    def positions(self) -> list[list[float]]:
        """The one position."""
        return [self.coordinates]


class LinePlace(SpecGroup):
    """A line as GeoJSON, in the coordinates of the terrain."""

    type: Literal["LineString"]
    coordinates: list[Position] = Field(min_length=2, max_length=1000)
    crs: Crs = None

    @property
    def positions(self) -> list[list[float]]:
        """The vertices."""
        return self.coordinates


Place = Annotated[PointPlace | LinePlace, Discriminator("type")]


class Gauge(SpecGroup):
    """A point or a line at which the flood is measured over time.

    The discharge over a line is positive from its left to its right, seen from its first point.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9 _.-]{1,40}$")
    x_m: float | None = Field(default=None, ge=0, le=1e7, description="Point: from the left edge")
    y_m: float | None = Field(default=None, ge=0, le=1e7, description="Point: from the upper edge")
    line_m: list[FromCorner] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="Line: [x, y] of its points, from the left and the upper edge",
    )
    geometry: Place | None = Field(
        default=None, description="Point or line as GeoJSON, in the coordinates of the terrain"
    )

    @model_validator(mode="after")
    def _one(self) -> "Gauge":
        check_point(self.x_m, self.y_m)
        given = [self.x_m, self.line_m, self.geometry]
        if sum(value is not None for value in given) != 1:
            raise ValueError("give x_m and y_m, line_m or geometry, one of the three")
        return self


def check_point(x_m: float | None, y_m: float | None) -> None:
    """Refuse half a point.

    Raises:
        ValueError: if one of the two is missing.
    """
    if (x_m is None) != (y_m is None):
        raise ValueError("give both x_m and y_m")


class MarksRef(DatasetRef):
    """An uploaded table of surveyed levels."""

    def need(self, pointer: str) -> DatasetNeed:
        """Surveyed levels; ``pointer`` is that of this reference within the spec."""
        return DatasetNeed(pointer, {"surveyed levels": (Bound("marks", 1),)})


class StateRef(ArtifactRef):
    """The last state of a ``terrain.simulate`` job with ``save_state``."""

    def need(self, pointer: str) -> ArtifactNeed:
        """A state; ``pointer`` is that of this reference within the spec."""
        return ArtifactNeed(pointer, ("state",), ("terrain.simulate",))


def needs_of(group: Any, names: tuple[str, ...], pointer: str) -> Iterator[Need]:
    """Needs of the references among the fields of a group."""
    for name in names:
        if group is not None and (given := getattr(group, name)) is not None:
            yield given.need(f"{pointer}/{name}")
