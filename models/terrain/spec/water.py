"""Water that enters, leaves or is held, constant or a series: fields of the specs. Torch-free."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from models.core.needs import Bound, DatasetNeed
from models.core.spec import DatasetRef, SpecGroup
from models.terrain.spec.places import LinePlace, PointPlace, check_point
from models.terrain.spec.stacks import RainStack

Side = Literal["left", "right", "top", "bottom"]
Compass = Literal["west", "east", "north", "south"]
COMPASS = {"west": "left", "east": "right", "north": "top", "south": "bottom"}
Edge = Annotated[
    Side,
    BeforeValidator(
        lambda name: COMPASS.get(name, name) if isinstance(name, str) else name,
        json_schema_input_type=Side | Compass,
    ),
    Field(description="top is north and left is west, also where the file's rows run northwards"),
]
Metres = Annotated[float, Field(gt=0, le=1e7)]


class Moment(SpecGroup):
    """A value at a time; between two moments it changes linearly."""

    time_s: float = Field(ge=0, le=1e9)
    value: float = Field(ge=0, le=1e7)


class SeriesRef(DatasetRef):
    """An uploaded series: CSV of a time and values."""

    column: str | None = Field(
        default=None,
        max_length=200,
        description="Of its values; may be left out where there is one. A unit in its name is"
        " converted",
    )

    def need(self, pointer: str) -> DatasetNeed:
        """A series; ``pointer`` is that of this reference within the spec."""
        return DatasetNeed(pointer, {"a series": (Bound("moments", 1),)})


def _series_tag(value: Any) -> str:
    return "moments" if isinstance(value, list) else "dataset"


SomeMoments = Annotated[list[Moment], Field(min_length=1, max_length=1000), Tag("moments")]
SeriesField = Annotated[
    SomeMoments | Annotated[SeriesRef, Tag("dataset")], Discriminator(_series_tag)
]


class Varying(SpecGroup):
    """Something constant, or a series of moments."""

    series: SeriesField | None = Field(
        default=None,
        description="Over time, times rising: at most 1,000 moments here, or a dataset of format"
        " series",
    )
    before: Literal["nothing", "hold"] = Field(
        default="nothing",
        description="Until the first moment of a series: nothing, or its first value (hold). The"
        " last value holds to the end",
    )

    @model_validator(mode="before")
    @classmethod
    def _say_what_is_before(cls, data: Any) -> Any:
        """Write the default of ``before`` out: specs of earlier releases are told by its lack."""
        if isinstance(data, dict) and data.get("series") is not None:
            return {"before": "nothing"} | data
        return data

    def check(self, constant: float | None, name: str) -> None:
        """Refuse both or neither, ``hold`` without a series, and times that do not increase.

        Raises:
            ValueError: naming what to give.
        """
        if (constant is None) == (self.series is None):
            raise ValueError(f"give {name} or series, one of the two")
        if self.series is None and self.before == "hold":
            raise ValueError("before: hold needs a series; leave it out")
        check_rising(self.series)


def check_rising(series: Any) -> None:
    """Refuse moments whose times do not increase.

    Raises:
        ValueError: if they do not.
    """
    times = [moment.time_s for moment in series] if isinstance(series, list) else []
    if any(b <= a for a, b in pairwise(times)):
        raise ValueError("series: the times must rise")


class Segment(SpecGroup):
    """A stretch of an edge of the terrain."""

    edge: Edge
    centre_m: float | None = Field(
        default=None,
        ge=0,
        le=1e7,
        description="From the edge's upper or left end; None: its middle",
    )
    length_m: Metres | None = Field(default=None, description="None: the whole edge")
    geometry: LinePlace | None = Field(
        default=None,
        description="In place of centre_m and length_m: a line along the edge as GeoJSON, in the"
        " coordinates of the terrain",
    )

    @model_validator(mode="after")
    def _placed_once(self) -> "Segment":
        if self.geometry is not None and (self.centre_m, self.length_m) != (None, None):
            raise ValueError("give geometry, or centre_m and length_m")
        return self


class Inflow(Segment, Varying):
    """Water entering through an edge."""

    type: Literal["inflow"]
    discharge_m3_s: float | None = Field(default=None, ge=0, le=1e7)

    @model_validator(mode="after")
    def _one(self) -> "Inflow":
        self.check(self.discharge_m3_s, "discharge_m3_s")
        return self


class Outflow(Segment):
    """Water leaving through an edge, at Manning's normal depth."""

    type: Literal["outflow"]
    slope: float = Field(default=0.001, gt=0, le=1, description="Of the ground beyond the edge")


class LevelMoment(SpecGroup):
    """A water level at a time; between two moments it changes linearly."""

    time_s: float = Field(ge=0, le=1e9)
    value: float = Field(ge=-1e4, le=1e4)


SomeLevels = Annotated[list[LevelMoment], Field(min_length=1, max_length=1000), Tag("moments")]
LevelsField = Annotated[
    SomeLevels | Annotated[SeriesRef, Tag("dataset")], Discriminator(_series_tag)
]


class Level(Segment):
    """A water level held along an edge, such as a sea or a lake; a series is a tide or a surge."""

    type: Literal["level"]
    level_m: float | None = Field(
        default=None, ge=-1e4, le=1e4, description="Height above the terrain's datum"
    )
    series: LevelsField | None = Field(
        default=None,
        description="Height over time, m: at most 1,000 moments here, or a dataset of format"
        " series; the last value holds to the end",
    )
    before: Literal["refuse", "hold"] = Field(
        default="refuse",
        description="A series that begins after 0 s: refused, or its first value is held before it",
    )

    @model_validator(mode="after")
    def _one(self) -> "Level":
        if (self.level_m is None) == (self.series is None):
            raise ValueError("give level_m or series, one of the two")
        if self.series is None and self.before == "hold":
            raise ValueError("before: hold needs a series; leave it out")
        check_rising(self.series)
        if isinstance(self.series, list):
            check_begin(self.series[0].time_s, self.before)
        return self


def check_begin(first_s: float, before: str) -> None:
    """Refuse a series of levels that begins late, unless its first value is to be held.

    Raises:
        ValueError: naming the way out.
    """
    if first_s > 0 and before != "hold":
        raise ValueError(
            f"series: the first level is at {first_s:g} s and none is known before; begin it at"
            " 0 s, or set before to hold"
        )


class Source(Varying):
    """Water entering in a disc, such as a spring or a burst pipe."""

    type: Literal["source"]
    x_m: float | None = Field(default=None, ge=0, le=1e7, description="From the left edge")
    y_m: float | None = Field(default=None, ge=0, le=1e7, description="From the upper edge")
    geometry: PointPlace | None = Field(
        default=None,
        description="In place of x_m and y_m: a GeoJSON point in the coordinates of the terrain",
    )
    radius_m: float = Field(default=0.0, ge=0, le=1e6, description="0: one cell")
    discharge_m3_s: float | None = Field(default=None, ge=0, le=1e7)

    @model_validator(mode="after")
    def _one(self) -> "Source":
        self.check(self.discharge_m3_s, "discharge_m3_s")
        check_point(self.x_m, self.y_m)
        if (self.x_m is None) == (self.geometry is None):
            raise ValueError("give x_m and y_m, or geometry")
        return self

    @property
    def centre_m(self) -> tuple[float, float]:
        """Distances from the left and the upper edge; of a geometry once it is placed."""
        return self.x_m or 0.0, self.y_m or 0.0


class Rain(Varying):
    """Rain on every cell, the same everywhere or a stack of fields."""

    type: Literal["rain"]
    mm_per_h: float | None = Field(default=None, ge=0, le=1e4)
    stack: RainStack | None = Field(
        default=None, description="Rain that varies in time and space, in place of a number"
    )

    @model_validator(mode="after")
    def _one(self) -> "Rain":
        if self.stack is None:
            self.check(self.mm_per_h, "mm_per_h (or stack)")
        elif (self.mm_per_h, self.series) != (None, None):
            raise ValueError("give mm_per_h, series or stack, one of the three")
        elif self.before == "hold":
            raise ValueError("before: hold needs a series; leave it out")
        return self


class Valley(SpecGroup):
    """Inflow at the middle of the edge opposite to the lowest border cell, outflow there."""

    type: Literal["valley"]
    discharge_m3_s: float = Field(default=50.0, gt=0, le=1e7)
    length_m: Metres = Field(default=100.0, description="Of both segments")
    slope: float = Field(default=0.001, gt=0, le=1)


Water = Annotated[Inflow | Outflow | Level | Source | Rain | Valley, Field(discriminator="type")]
Waters = Annotated[list[Water], Field(min_length=1, max_length=64)]


def check_differentiable(water: list[Any], field: str) -> None:
    """Refuse levels that change and stacks of rain, where a flood is differentiated.

    Raises:
        ValueError: naming ``field``.
    """
    if any(isinstance(item, Level) and item.series is not None for item in water):
        raise ValueError(f"{field}: a level that changes has no derivative here; give level_m")
    if any(isinstance(item, Rain) and item.stack is not None for item in water):
        raise ValueError(f"{field}: a stack of rain has no derivative here; give a series")


def series_needs(water: Any, pointer: str) -> Iterator[DatasetNeed]:
    """Needs of the series and stacks that items of water name.

    Args:
        water: items of a spec.
        pointer: of the list within the spec.
    """
    for index, item in enumerate(water):
        if isinstance(series := getattr(item, "series", None), SeriesRef):
            yield series.need(f"{pointer}/{index}/series")
        if isinstance(item, Rain) and item.stack is not None:
            yield item.stack.need(f"{pointer}/{index}/stack")


def hold_series(water: Any, field: str) -> list[str]:
    """Let stored series (JSON) hold their first value before it, as they did; return warnings.

    Args:
        water: items of a spec; changed in place where ``before`` is missing.
        field: where they are, for the warnings.
    """
    warnings = []
    for index, item in enumerate(water if isinstance(water, list) else ()):
        series = item.get("series") if isinstance(item, dict) else None
        if not isinstance(series, list) or not series or "before" in item:
            continue
        item["before"] = "hold"
        if series[0]["time_s"] > 0:
            warnings.append(
                f"{field}.{index}.series begins at {series[0]['time_s']:g} s; its first value is"
                " used before, as when it was stored: set before to nothing for none"
            )
    return warnings


def hold_floods(floods: Any, field: str) -> list[str]:
    """:func:`hold_series` of each of several stored floods."""
    several = enumerate(floods if isinstance(floods, list) else ())
    return [line for index, water in several for line in hold_series(water, f"{field}.{index}")]
