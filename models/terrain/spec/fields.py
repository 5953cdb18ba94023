"""Fields of the terrain specs: where a terrain comes from, its water, the solver. Torch-free."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from models.core.needs import TOLERANCE, WEIGHTS, ArtifactNeed, Bound, DatasetNeed
from models.core.spec import ArtifactRef, DatasetRef, Int, SpecGroup
from models.data.builtin import BUILTIN
from models.terrain.spec.places import LinePlace, MarksRef, PointPlace, StateRef, check_point

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
NodataCells = Annotated[
    Literal["wall", "open"],
    Field(
        description="What cells without a height are to water: a wall, or an opening that it leaves"
        " by; no rain falls there"
    ),
]
SUBGRID_FILE = "subgrid.nc"
Metres = Annotated[float, Field(gt=0, le=1e7)]
CELLS = 50_000_000
CELL_STEPS = 1e13  # what one job may ask of the solver; hours on a GPU, a day on a few cores


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


class Start(SpecGroup):
    """The water on a terrain at 0 s, at rest except where a state is taken up."""

    depth_m: float | None = Field(default=None, ge=0, le=1e4, description="The same everywhere")
    level_m: float | None = Field(
        default=None, ge=-1e4, le=1e4, description="All ground below it is filled to it"
    )
    depth_map: Map | None = Field(default=None, description="Depth in m of each cell")
    level_map: Map | None = Field(default=None, description="Level in m of each cell")
    state: StateRef | None = Field(
        default=None,
        description="state.safetensors of a terrain.simulate job on the same terrain: depths and"
        " discharges; its time counts from 0 s again",
    )

    @model_validator(mode="after")
    def _one(self) -> "Start":
        names = list(Start.model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"start: give one of {', '.join(names)}")
        return self


class Observed(SpecGroup):
    """What was seen of a flood, to compare its greatest depth with."""

    extent: Map | None = Field(
        default=None, description="Raster of what was wet: 0 dry, any other value wet"
    )
    marks: MarksRef | None = Field(
        default=None, description="Surveyed levels, a dataset of format marks"
    )
    wet_depth_m: float = Field(
        default=0.1, ge=1e-4, le=10, description="Modelled depth that counts as wet"
    )

    @model_validator(mode="after")
    def _any(self) -> "Observed":
        if self.extent is None and self.marks is None:
            raise ValueError("observed: give extent, marks or both")
        return self


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
    """Rain on every cell."""

    type: Literal["rain"]
    mm_per_h: float | None = Field(default=None, ge=0, le=1e4)

    @model_validator(mode="after")
    def _one(self) -> "Rain":
        self.check(self.mm_per_h, "mm_per_h")
        return self


class Valley(SpecGroup):
    """Inflow at the middle of the edge opposite to the lowest border cell, outflow there."""

    type: Literal["valley"]
    discharge_m3_s: float = Field(default=50.0, gt=0, le=1e7)
    length_m: Metres = Field(default=100.0, description="Of both segments")
    slope: float = Field(default=0.001, gt=0, le=1)


Water = Annotated[Inflow | Outflow | Level | Source | Rain | Valley, Field(discriminator="type")]
Waters = Annotated[list[Water], Field(min_length=1, max_length=64)]


def check_constant_levels(water: list[Any], field: str) -> None:
    """Refuse levels that change, where a flood is differentiated.

    Raises:
        ValueError: naming ``field``.
    """
    if any(isinstance(item, Level) and item.series is not None for item in water):
        raise ValueError(f"{field}: a level that changes has no derivative here; give level_m")


def series_needs(water: Any, pointer: str) -> Iterator[DatasetNeed]:
    """Needs of the series that items of water name.

    Args:
        water: items of a spec.
        pointer: of the list within the spec.
    """
    for index, item in enumerate(water):
        if isinstance(series := getattr(item, "series", None), SeriesRef):
            yield series.need(f"{pointer}/{index}/series")


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


THETA, THETA_MAX = 0.8, 0.95
AUTHORS_THETA, AUTHORS_ALPHA = 0.7, 0.7  # of the authors' code, with their step


def alpha_max(theta: float, *, authors_step: bool = False) -> float:
    """Largest Courant number with a margin of 10 % to the limit of linear stability.

    Args:
        theta: weight of a face's own discharge, 0..1.
        authors_step: for steps dx / (g + h), at most half of dx / sqrt(g h).
    """
    return min(1.0, (1.8 if authors_step else 0.9) * math.sqrt(theta / 2))


class Solver(SpecGroup):
    """Constants of the shallow-water scheme.

    The scheme is linearly stable in two dimensions for Courant numbers up to sqrt(theta / 2), of
    steps dx / sqrt(g h); friction does not lower the limit. At theta 1 waves of finite height grow
    at every Courant number.
    """

    manning: float = Field(default=0.05, gt=0, le=1, description="Roughness, s/m^(1/3)")
    theta: float | None = Field(
        default=None,
        gt=0,
        le=THETA_MAX,
        description="Weight of a face's own discharge; 0.8 where left out, 0.7 in reference_mode;"
        " 0.9 suits floods of streets without bores",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Courant number, at most 0.9 sqrt(theta / 2), the default; 1.8 sqrt(theta / 2)"
        " and 0.7 in reference_mode",
    )
    h_dry_m: float = Field(default=1e-5, ge=1e-7, le=0.01, description="No flow below this depth")
    limiter: bool = Field(default=True, description="No cell gives more water than it has")
    froude: float | None = Field(
        default=None, gt=0, le=10, description="Largest Froude number; 1 suits steep ground"
    )
    reference_mode: bool = Field(
        default=False,
        description="The authors' scheme: their time step, friction and outflow, no dry rule,"
        " no limiter",
    )

    @property
    def own_weight(self) -> float:
        """``theta``, or its default."""
        if self.theta is not None:
            return self.theta
        return AUTHORS_THETA if self.reference_mode else THETA

    @property
    def courant(self) -> float:
        """``alpha``, or its default."""
        if self.alpha is not None:
            return self.alpha
        most = alpha_max(self.own_weight, authors_step=self.reference_mode)
        return min(AUTHORS_ALPHA, most) if self.reference_mode else most

    @model_validator(mode="after")
    def _stable(self) -> "Solver":
        most = alpha_max(self.own_weight, authors_step=self.reference_mode)
        if self.alpha is not None and self.alpha > most:
            raise ValueError(
                f"alpha: {self.alpha} makes deep water unstable; at most {most:.4g} at theta"
                f" {self.own_weight}: lower it, or leave it out"
            )
        return self


def cap_solver(solver: Any) -> list[str]:
    """Bring a stored solver (JSON) within the stability limits, in place; return the warnings."""
    if not isinstance(solver, dict):
        return []
    theta, authors, warnings = solver.get("theta"), bool(solver.get("reference_mode")), []
    if theta is not None and theta > THETA_MAX:
        warnings.append(f"solver.theta {theta} is unstable; {THETA_MAX} is used")
        theta = solver["theta"] = THETA_MAX
    weight = Solver(theta=theta, reference_mode=authors).own_weight
    most = alpha_max(weight, authors_step=authors)
    if (solver.get("alpha") or 0.0) > most:
        warnings.append(
            f"solver.alpha {solver['alpha']} makes deep water unstable; {most:.4g} is used"
        )
        solver["alpha"] = most
    return warnings


HeightMethod = Literal["mean", "max", "min", "bilinear", "bilateral", "channel"]
Method = Literal["mean", "max", "min", "bilinear", "bilateral", "channel", "subgrid"]
METHODS: tuple[Method, ...] = ("mean", "max", "min", "bilinear", "bilateral", "channel", "subgrid")
Factor = Annotated[
    Literal[2, 4, 8, 16, 32], Field(description="Fine cells a coarse cell, per side")
]


def net_need(pointer: str) -> ArtifactNeed:
    """A net of ``terrain.train`` at a pointer of the spec."""
    return ArtifactNeed(pointer, WEIGHTS, ("terrain.train",))
