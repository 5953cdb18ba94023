"""Specs of the terrain kinds. Torch-free."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.errors import SpecError
from models.core.needs import Need
from models.core.spec import (
    VECTOR,
    ArtifactInfo,
    ArtifactOrVersion,
    ArtifactRef,
    Estimate,
    Int,
    MetricInfo,
    Spec,
    SpecGroup,
)
from models.terrain.spec.infiltration import GreenAmpt, Infiltration
from models.terrain.spec.observed import Observed
from models.terrain.spec.places import Gauge, needs_of
from models.terrain.spec.solver import CELL_STEPS, Solver, cap_solver
from models.terrain.spec.start import Start
from models.terrain.spec.terrains import (
    CELLS,
    METHODS,
    SUBGRID_FILE,
    DatasetTerrain,
    Factor,
    Map,
    Method,
    NodataCells,
    SyntheticTerrain,
    Terrain,
    check_learned,
    net_need,
    subgrid_need,
)
from models.terrain.spec.water import (
    Water,
    Waters,
    check_differentiable,
    hold_floods,
    hold_series,
    series_needs,
)

DEEP_M = 2.0  # depth assumed by the estimate of steps
STEPS_MAX = 10**15  # counts stay exact in JSON readers that use float64
MAPS = ("manning_map", "rain_map")
READINGS = 20_000  # of a gauge, at most


def steps_of(duration_s: float, dx: float, solver: Solver) -> int:
    """Estimated number of time steps, for water of ``DEEP_M``.

    Raises:
        SpecError: for more than ``STEPS_MAX``, which no run would ever finish.
    """
    courant = solver.courant * dx
    speed = 9.8 + DEEP_M if solver.reference_mode else math.sqrt(9.8 * DEEP_M)
    if not duration_s * speed <= STEPS_MAX * courant:
        message = f"alpha {solver.courant:g} makes time steps so short that there are too many"
        raise SpecError(message, f"give a larger alpha; at most {STEPS_MAX:g} steps are taken")
    return math.ceil(duration_s * speed / courant)


def shape_of(terrain: Terrain, counts: Mapping[str, Mapping[str, Any]]) -> tuple[int, int] | None:
    """Rows and columns of a terrain or map; None if unknown before it is read."""
    if isinstance(terrain, SyntheticTerrain):
        return terrain.synthetic.rows, terrain.synthetic.columns
    if terrain.area is not None:
        return terrain.area.rows, terrain.area.columns
    known = counts.get(terrain.dataset, {}) if isinstance(terrain, DatasetTerrain) else {}
    return (known["rows"], known["columns"]) if {"rows", "columns"} <= known.keys() else None


def size_of(
    terrain: Terrain, counts: Mapping[str, Mapping[str, Any]]
) -> tuple[int, int, float] | None:
    """Rows, columns and cell size in m of a terrain; None if unknown before it is read."""
    shape = shape_of(terrain, counts)
    if isinstance(terrain, SyntheticTerrain):
        size: float | None = terrain.synthetic.cell_size_m
    elif isinstance(terrain, DatasetTerrain):
        size = terrain.cell_size_m or counts.get(terrain.dataset, {}).get("cell_size_m")
    else:
        size = None
    return (shape[0], shape[1], float(size)) if shape and size else None


def check_work(cells: int, steps: int, hint: str) -> None:
    """Refuse floods with too many cells or cell-steps.

    Raises:
        SpecError: with the numbers and the hint.
    """
    if cells > CELLS:
        raise SpecError(f"{cells:,} cells; at most {CELLS:,} are allowed: {hint}")
    if cells * steps > CELL_STEPS:
        raise SpecError(
            f"about {cells * steps:.2g} cell-steps; at most {CELL_STEPS:.0g} are allowed: {hint}"
        )


VIEW_FILES = (
    ArtifactInfo("ground.tif", "raster", "height of the ground in metres, GeoTIFF"),
    ArtifactInfo("view.json", "view", "what the page's viewer of rasters shows"),
)


class _OnTerrain(Spec):
    """Fields of every kind that looks at one terrain."""

    terrain: Terrain = Field(description="The fine terrain")

    def needs(self) -> Iterator[Need]:
        """An elevation whose cell size is known, or a raster of a job."""
        yield from super().needs()
        if not isinstance(self.terrain, SyntheticTerrain):
            yield self.terrain.need("/terrain")

    @model_validator(mode="after")
    def _not_too_large(self) -> "_OnTerrain":
        if isinstance(self.terrain, SyntheticTerrain):
            made = self.terrain.synthetic
            check_work(made.rows * made.columns, 0, "lower terrain.synthetic.rows or columns")
        return self


class _Flood(_OnTerrain):
    """Fields of kinds that flood one terrain."""

    water: list[Water] | None = Field(
        default=None,
        max_length=64,
        description="All that enters and leaves; edges are closed. Null: nothing beside start;"
        " without start a valley of 50 m3/s, above 20 km2 rain of 50 mm/h and open edges",
    )
    solver: Solver = Solver()
    duration_s: float = Field(default=3600.0, gt=0, le=1e7, description="Simulated seconds")
    manning_map: Map | None = Field(
        default=None, description="Roughness of each cell, s/m^(1/3), in place of solver.manning"
    )
    rain_map: Map | None = Field(
        default=None, description="What the rain is multiplied with, cell by cell"
    )

    infiltration: Infiltration | None = Field(
        default=None, description="Water that goes into the ground; null: none"
    )
    nodata_cells: NodataCells = "wall"
    start: Start | None = Field(default=None, description="Water at 0 s; null: none")
    observed: Observed | None = Field(
        default=None, description="What was seen of this flood: extent, surveyed levels"
    )

    @model_validator(mode="after")
    def _has_water(self) -> "_Flood":
        if self.water == [] and self.start is None:
            raise ValueError("water: give at least one item, or start")
        if isinstance(self.infiltration, GreenAmpt) and self.on_subgrid:
            raise ValueError(
                "infiltration: green_ampt has no form for a subgrid, whose cells are wet in part;"
                " take constant, or leave the subgrid out"
            )
        return self

    @property
    def on_subgrid(self) -> bool:
        """Whether a flood of this job has cells with a subgrid."""
        return getattr(self.terrain, "artifact", None) == SUBGRID_FILE

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:
        """Cap solvers that could be unstable; series of earlier releases hold their first value."""
        return cap_solver(stored.get("solver")) + hold_series(stored.get("water"), "water")

    def needs(self) -> Iterator[Need]:
        """Series of the water; maps are rasters too."""
        yield from super().needs()
        yield from series_needs(self.water or (), "/water")
        yield from needs_of(self, MAPS, "")
        yield from needs_of(self.start, ("depth_map", "level_map", "state"), "/start")
        if self.infiltration is not None:
            yield from self.infiltration.needs("/infiltration")
        yield from needs_of(self.observed, ("extent", "marks"), "/observed")

    def _check_maps(self, counts: Mapping[str, Mapping[str, Any]]) -> None:
        shape = shape_of(self.terrain, counts)
        for name in MAPS:
            given = getattr(self, name)
            cells = None if given is None else shape_of(given, counts)
            if shape and cells and cells != shape:
                raise SpecError(
                    f"{name} has {cells[0]} x {cells[1]} cells, the terrain {shape[0]} x"
                    f" {shape[1]}: cut both by area",
                    pointer=f"/{name}",
                )

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Cells and steps of the fine flood.

        Raises:
            SpecError: if there are more than a job may ask for, or a map has other cells.
        """
        self._check_maps(counts)
        size = size_of(self.terrain, counts)
        if size is None:
            return Estimate()
        rows, columns, dx = size
        steps = steps_of(self.duration_s, dx, self.solver)
        check_work(rows * columns, steps, "use terrain.area, a shorter duration_s or a coarser DEM")
        work = rows * columns * steps
        details = {"cells": rows * columns, "steps": steps, "cell_steps": work}
        return Estimate(work=work, work_unit="cell-steps", details=details)


class TerrainSimulate(_Flood):
    """Flood a terrain: depths at asked times, greatest depth, arrival, where the water went."""

    entry: ClassVar[str] = "models.terrain.simulate:simulate"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("time_s", "s", None, "simulated seconds"),
        MetricInfo("volume_m3", "m3", None, "water on the terrain"),
        MetricInfo("entered_m3", "m3", None, "rain, inflow and from held levels so far"),
        MetricInfo("left_m3", "m3", None, "through outlets and into held levels so far"),
        MetricInfo("infiltrated_m3", "m3", None, "that went into the ground so far"),
        MetricInfo("balance_error", "1", "min", "|volume - entered + left| / entered"),
        MetricInfo("wet_share", "1", None, "cells deeper than wet_depth_m"),
        MetricInfo("deepest_m", "m", None, "greatest depth"),
        MetricInfo("supercritical_share", "1", None, "wet cells with a Froude number above 1"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("depth/t*.tif", "raster", "depth in metres at a time, GeoTIFF"),
        ArtifactInfo("depth.nc", "raster", "depth over time, NetCDF by the CF conventions"),
        ArtifactInfo("max_depth.tif", "raster", "greatest depth of each cell, GeoTIFF"),
        ArtifactInfo("max_level.tif", "raster", "greatest level of the water, where it was wet"),
        ArtifactInfo("arrival.tif", "raster", "s until a cell was wet; nodata where never"),
        ArtifactInfo("max_speed.tif", "raster", "greatest speed, m/s"),
        ArtifactInfo("max_discharge.tif", "raster", "greatest depth times speed, m2/s"),
        ArtifactInfo("max_hazard.tif", "raster", "greatest depth times (speed + 0.5 m/s), m2/s"),
        ArtifactInfo("duration.tif", "raster", "s that a cell was wet"),
        ArtifactInfo("infiltrated.tif", "raster", "that went into the ground, m", on_request=True),
        ArtifactInfo("volume.csv", "table", "water entered, left, present, a row an output time"),
        ArtifactInfo("gauges.csv", "table", "readings over time, a column each", on_request=True),
        ArtifactInfo("marks.csv", "table", "surveyed and modelled levels", on_request=True),
        ArtifactInfo("flood.png", "image", "greatest depth over the hillshade"),
        ArtifactInfo("maxima.png", "image", "speed, hazard, arrival, time under water"),
        VECTOR,
        ArtifactInfo("gauges.png", "image", "readings of the gauges over time", on_request=True),
        ArtifactInfo("extent.png", "image", "hits, misses, false alarms", on_request=True),
        ArtifactInfo("flood.gif", "image", "the flood over time"),
        ArtifactInfo("flood.webp", "image", "the flood over time, in all colours"),
        ArtifactInfo(
            "state.safetensors", "state", "depth and discharges at the end", on_request=True
        ),
        *VIEW_FILES,
        ArtifactInfo("report.json", "report", "all figures of the result, versions"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "valley": {"water": [{"type": "valley", "discharge_m3_s": 50.0}], "duration_s": 7200.0},
        "cloudburst": {
            "water": [
                {"type": "valley", "discharge_m3_s": 1.0},
                {"type": "rain", "mm_per_h": 60.0},
            ],
            "duration_s": 3600.0,
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.simulate",
        "terrain": {"dataset": "jacksboro_dem"},
        "duration_s": 7200.0,
        "outputs": 12,
    }

    kind: Literal["terrain.simulate"] = Field(init=False)
    outputs: Int = Field(default=6, ge=1, le=200, description="Output times, evenly spread")
    wet_depth_m: float = Field(default=0.05, ge=1e-4, le=10, description="Depth that counts as wet")
    animation: bool = Field(default=True, description="Leave flood.gif and flood.webp as well")
    maxima: bool = Field(
        default=True,
        description="Leave the greatest speed, discharge and hazard and the time under water too;"
        " looked at every 32 steps",
    )
    gauges: list[Gauge] = Field(
        default=[], max_length=64, description="Points and lines measured over time"
    )
    gauge_every_s: float | None = Field(
        default=None, ge=0.01, le=1e7, description="Between two readings; null: 200 over the flood"
    )
    save_state: bool = Field(
        default=False, description="Leave state.safetensors, from which another job can start"
    )

    @model_validator(mode="after")
    def _can_be_measured(self) -> "TerrainSimulate":
        names = [gauge.name for gauge in self.gauges]
        if len(set(names)) < len(names):
            raise ValueError("gauges: two have the same name")
        every = self.gauge_every_s
        if every is not None and not self.duration_s / READINGS <= every <= self.duration_s:
            raise ValueError(
                f"gauge_every_s: {every:g} s; from {self.duration_s / READINGS:g} s ({READINGS:,}"
                f" readings) to duration_s, {self.duration_s:g} s"
            )
        return self

    @property
    def readings_s(self) -> list[float]:
        """Times of the gauges' readings, the start included; none without gauges."""
        if not self.gauges:
            return []
        every = self.gauge_every_s or self.duration_s / 200
        count = math.floor(self.duration_s / every * (1 + 1e-9))
        times = [min(k * every, self.duration_s) for k in range(count + 1)]
        return times if times[-1] == self.duration_s else [*times, self.duration_s]


class Tune(SpecGroup):
    """Floods of this one terrain under which its coarse heights are improved."""

    water: list[Waters] = Field(
        min_length=1, max_length=16, description="Floods, each by itself; one terrain serves all"
    )
    validation: list[Waters] = Field(
        default=[],
        max_length=16,
        description="Further floods: the step that is best under them is kept; none: under water",
    )
    steps: Int = Field(
        default=50, ge=1, le=10_000, description="Adam steps on the heights or the subgrid's faces"
    )
    solver: Solver = Solver()
    duration_s: float = Field(default=3600.0, gt=0, le=1e7, description="Simulated seconds")

    @model_validator(mode="after")
    def _can_be_differentiated(self) -> "Tune":
        if self.solver.froude is not None or self.solver.reference_mode:
            raise ValueError("tune.solver: froude and reference_mode cannot be tuned through")
        for name, floods in (("water", self.water), ("validation", self.validation)):
            check_differentiable([item for water in floods for item in water], f"tune.{name}")
        return self


class TerrainDownsample(_OnTerrain):
    """Make a terrain coarse, by a baseline or a trained net; GeoTIFF in, GeoTIFF out."""

    entry: ClassVar[str] = "models.terrain.downsample:downsample"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("moved_rms_m", "m", None, "root mean square difference from mean pooling"),
        MetricInfo("error_ratio", "1", "min", "tuning: error of depth over that of mean pooling"),
        MetricInfo("start_ratio", "1", "min", "the same before the tuning"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("coarse.tif", "raster", "the coarse terrain in metres, GeoTIFF"),
        ArtifactInfo(
            "subgrid.nc",
            "raster",
            "methods subgrid and learned: tables of the cells and faces, NetCDF",
            on_request=True,
        ),
        ArtifactInfo("coarse.png", "image", "fine and coarse terrain, and their difference"),
        VECTOR,
        *VIEW_FILES,
        ArtifactInfo("report.json", "report", "sizes, padding, method, versions"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mean": {"method": "mean", "factor": 16},
        "channel": {"method": "channel", "factor": 16},
        "tuned": {
            "method": "mean",
            "factor": 16,
            "tune": {"water": [[{"type": "valley"}]], "steps": 50},
        },
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.downsample",
        "terrain": {"dataset": "jacksboro_dem"},
        "factor": 8,
        "method": "channel",
    }

    kind: Literal["terrain.downsample"] = Field(init=False)
    factor: Factor = 16
    method: Method = Field(
        default="mean",
        description="Baseline; used where no net is given. subgrid: what the fine heights store and"
        " convey, for floods on coarse cells; learned: the same with faces that a trained net"
        " corrects (factors 4, 8, 16)",
    )
    net: ArtifactOrVersion | None = Field(
        default=None, description="weights of a terrain.train job"
    )
    edges: Literal["pad", "crop"] = Field(
        default="pad", description="Rows and columns that do not fill a coarse cell"
    )
    tune: Tune | None = Field(
        default=None, description="Improve the result by floods of this terrain; costs fine floods"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "TerrainDownsample":
        if self.method == "subgrid" and self.net is not None:
            raise ValueError(
                "method: subgrid takes no net; leave net out, or give method learned a net of"
                " terrain.train with learn: faces"
            )
        if self.method == "learned" and self.net is None:
            check_learned(self.factor)
        return self

    @property
    def on_subgrid(self) -> bool:
        """Whether the coarse terrain has a subgrid."""
        return self.method in ("subgrid", "learned")

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:
        """Cap solvers that could be unstable; series of earlier releases hold their first value."""
        tune = stored.get("tune") or {}
        return cap_solver(tune.get("solver")) + hold_floods(tune.get("water"), "tune.water")

    def needs(self) -> Iterator[Need]:
        """Beside the terrain a net of ``terrain.train``, where one is named."""
        yield from super().needs()
        if self.net is not None:
            yield net_need("/net")
        for name in ("water", "validation"):
            for index, water in enumerate(getattr(self.tune, name) if self.tune else ()):
                yield from series_needs(water, f"/tune/{name}/{index}")

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Cells and steps of the fine floods of a tuning.

        Raises:
            SpecError: if there are more than a job may ask for.
        """
        size = size_of(self.terrain, counts)
        if size is None:
            return Estimate()
        rows, columns, dx = size
        if self.tune is None:
            return Estimate(work=rows * columns, work_unit="cells")
        floods = len(self.tune.water) + len(self.tune.validation)
        steps = floods * steps_of(self.tune.duration_s, dx, self.tune.solver)
        check_work(rows * columns, steps, "use terrain.area, fewer floods or a shorter duration_s")
        details = {"cells": rows * columns, "steps": steps}
        return Estimate(work=rows * columns * steps, work_unit="cell-steps", details=details)


class TerrainCompare(_Flood):
    """Flood the fine terrain, then coarse ones of every method, and measure their error."""

    entry: ClassVar[str] = "models.terrain.compare:compare"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("mae_m", "m", "min", "mean |coarse depth - pooled fine depth|"),
        MetricInfo("error_ratio", "1", "min", "mae_m over that of mean pooling"),
        MetricInfo("csi_01", "1", "max", "hits / (hits + misses + false alarms) at 0.1 m"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("metrics.csv", "table", "a row a method"),
        ArtifactInfo("coarse/*.tif", "raster", "the coarse terrain of a method, GeoTIFF"),
        ArtifactInfo("depth/*.tif", "raster", "depth at the end, GeoTIFF"),
        ArtifactInfo("depths.png", "image", "depth of every method over the hillshade"),
        ArtifactInfo("differences.png", "image", "coarse less pooled fine depth"),
        VECTOR,
        ArtifactInfo("extent.png", "image", "hits, misses, false alarms"),
        *VIEW_FILES,
        ArtifactInfo("report.json", "report", "all figures, versions"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "baselines": {"factor": 16},
        "optimised": {"factor": 16, "methods": ["mean", "channel"], "optimise_steps": 50},
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.compare",
        "terrain": {"synthetic": {"rows": 128, "columns": 128, "cell_size_m": 10.0}},
        "duration_s": 1800.0,
        "factor": 8,
    }

    kind: Literal["terrain.compare"] = Field(init=False)
    factor: Factor = 16
    methods: list[Method] = Field(
        default=list(METHODS),
        min_length=1,
        max_length=len(METHODS) + 1,
        description="Ways to make it coarse; learned: a subgrid with faces that a trained net"
        " corrects (factors 4, 8, 16)",
    )
    subgrids: list[ArtifactRef] = Field(
        default=[],
        max_length=8,
        description="subgrid.nc of terrain.downsample jobs on this terrain, such as tuned ones",
    )
    nets: list[ArtifactOrVersion] = Field(
        default=[], max_length=8, description="weights to compare"
    )
    optimise_steps: Int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Adam steps on the coarse terrain itself, from the first net or mean pooling",
    )

    @model_validator(mode="after")
    def _can_be_optimised(self) -> "TerrainCompare":
        if self.optimise_steps:
            check_differentiable(self.water or [], "water with optimise_steps")
        if self.optimise_steps and self.infiltration is not None:
            raise ValueError("infiltration: it has no derivative; leave optimise_steps out")
        if self.optimise_steps and self.start is not None:
            raise ValueError("start: a flood that begins with water is not optimised through")
        if self.start is not None and self.start.state is not None:
            raise ValueError("start.state is of one terrain; give depth_map for several")
        if "learned" in self.methods:
            check_learned(self.factor)
        return self

    @property
    def on_subgrid(self) -> bool:
        """Whether one of the coarse terrains has a subgrid."""
        return not {"subgrid", "learned"}.isdisjoint(self.methods) or bool(self.subgrids)

    def needs(self) -> Iterator[Need]:
        """Beside the terrain subgrids of ``terrain.downsample``, nets of ``terrain.train``."""
        yield from super().needs()
        for index, _ in enumerate(self.subgrids):
            yield subgrid_need(f"/subgrids/{index}")
        for index, _ in enumerate(self.nets):
            yield net_need(f"/nets/{index}")

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """As every flood's.

        Raises:
            SpecError: if the terrain has fewer rows or columns than a coarse cell.
        """
        shape = shape_of(self.terrain, counts)
        if shape and min(shape) < self.factor:
            raise SpecError(
                f"a terrain of {shape[0]} x {shape[1]} cells is smaller than a coarse cell of"
                f" {self.factor} x {self.factor}: lower factor",
                pointer="/factor",
            )
        return super().estimate(counts)
