"""Specs of the terrain kinds. Torch-free."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.errors import SpecError
from models.core.spec import ArtifactInfo, ArtifactRef, Estimate, Int, MetricInfo, Part, Spec
from models.terrain.parts import (
    CELL_STEPS,
    CELLS,
    METHODS,
    DatasetTerrain,
    Factor,
    Method,
    Rain,
    Solver,
    Synthetic,
    SyntheticTerrain,
    Terrain,
    Valley,
    Waters,
)

DEEP_M = 2.0  # water that the estimate of steps reckons with
TINY = {"rows": 32, "columns": 32, "cell_size_m": 10.0, "roads": 1, "levees": 1}


def steps_of(duration_s: float, dx: float, solver: Solver) -> int:
    """Time steps to expect, for water of ``DEEP_M``."""
    courant = solver.alpha * dx
    dt = courant / (9.8 + DEEP_M) if solver.reference_mode else courant / math.sqrt(9.8 * DEEP_M)
    return math.ceil(duration_s / dt)


def size_of(
    terrain: Terrain, counts: Mapping[str, Mapping[str, int]]
) -> tuple[int, int, float] | None:
    """Rows, columns and cell size in metres of a terrain, where known before it is read."""
    if isinstance(terrain, SyntheticTerrain):
        made = terrain.synthetic
        return made.rows, made.columns, made.cell_size_m
    if not isinstance(terrain, DatasetTerrain):
        return None
    known = counts.get(terrain.dataset, {})
    size = terrain.cell_size_m or known.get("cell_size_m")
    area = terrain.area
    rows, columns = known.get("rows"), known.get("columns")
    if area is not None:
        rows, columns = area.rows, area.columns
    return (rows, columns, float(size)) if rows and columns and size else None


def check_work(cells: int, steps: int, way_out: str) -> None:
    """Refuse what no machine here would finish.

    Raises:
        SpecError: with the numbers and a way out.
    """
    if cells > CELLS:
        raise SpecError(f"{cells:,} cells; at most {CELLS:,} are allowed: {way_out}")
    if cells * steps > CELL_STEPS:
        raise SpecError(
            f"about {cells * steps:.2g} cell-steps; at most {CELL_STEPS:.0g} are allowed: {way_out}"
        )


class _OnTerrain(Spec):
    """Fields of every kind that looks at one terrain."""

    terrain: Terrain = Field(description="The fine terrain")

    @model_validator(mode="after")
    def _not_too_large(self) -> "_OnTerrain":
        if isinstance(self.terrain, SyntheticTerrain):
            made = self.terrain.synthetic
            check_work(made.rows * made.columns, 0, "lower terrain.synthetic.rows or columns")
        return self


class _Flood(_OnTerrain):
    """Fields of kinds that flood one terrain."""

    water: Waters = Field(
        default=[Valley(type="valley")], description="All that enters and leaves; edges are closed"
    )
    solver: Solver = Solver()
    duration_s: float = Field(default=3600.0, gt=0, le=1e7, description="Simulated seconds")

    def estimate(self, counts: Mapping[str, Mapping[str, int]]) -> Estimate:
        """Cells and steps of the fine flood.

        Raises:
            SpecError: if there are more than a job may ask for.
        """
        size = size_of(self.terrain, counts)
        if size is None:
            return Estimate()
        rows, columns, dx = size
        steps = steps_of(self.duration_s, dx, self.solver)
        check_work(rows * columns, steps, "use terrain.area, a shorter duration_s or a coarser DEM")
        return Estimate(
            details={"cells": rows * columns, "steps": steps, "cell_steps": rows * columns * steps}
        )


class TerrainSimulate(_Flood):
    """Flood a terrain: depths at asked times, greatest depth, arrival, where the water went."""

    entry: ClassVar[str] = "models.terrain.simulate:simulate"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("time_s", "s", None, "simulated seconds"),
        MetricInfo("volume_m3", "m3", None, "water on the terrain"),
        MetricInfo("entered_m3", "m3", None, "rain and inflow so far"),
        MetricInfo("left_m3", "m3", None, "through outlets and held levels so far"),
        MetricInfo("balance_error", "1", "min", "|volume - entered + left| / entered"),
        MetricInfo("wet_share", "1", None, "cells deeper than wet_depth_m"),
        MetricInfo("deepest_m", "m", None, "greatest depth"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("depth/t*.tif", "raster", "depth in metres at a time, GeoTIFF"),
        ArtifactInfo("max_depth.tif", "raster", "greatest depth of each cell, GeoTIFF"),
        ArtifactInfo("arrival.tif", "raster", "s until a cell was wet; nodata where never"),
        ArtifactInfo("volume.csv", "table", "water entered, left, present, a row an output time"),
        ArtifactInfo("flood.png", "image", "greatest depth over the hillshade"),
        ArtifactInfo("flood.gif", "image", "the flood over time"),
        ArtifactInfo("report.json", "report", "all figures of the result, versions"),
    )
    smallest: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.simulate",
        "terrain": {"synthetic": TINY},
        "duration_s": 120.0,
        "outputs": 2,
    }

    kind: Literal["terrain.simulate"]
    outputs: Int = Field(default=6, ge=1, le=200, description="Output times, evenly spread")
    wet_depth_m: float = Field(default=0.05, ge=1e-4, le=10, description="Depth that counts as wet")
    animation: bool = Field(default=True, description="Leave flood.gif as well")


class TerrainDownsample(_OnTerrain):
    """Make a terrain coarse, by a baseline or a trained net; GeoTIFF in, GeoTIFF out."""

    entry: ClassVar[str] = "models.terrain.downsample:downsample"
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("moved_rms_m", "m", None, "root mean square difference from mean pooling"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("coarse.tif", "raster", "the coarse terrain in metres, GeoTIFF"),
        ArtifactInfo("coarse.png", "image", "fine and coarse terrain, and their difference"),
        ArtifactInfo("report.json", "report", "sizes, padding, method, versions"),
    )
    smallest: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.downsample",
        "terrain": {"synthetic": TINY},
        "factor": 8,
    }

    kind: Literal["terrain.downsample"]
    factor: Factor = 16
    method: Method = Field(default="mean", description="Baseline; used where no net is given")
    net: ArtifactRef | None = Field(default=None, description="weights of a terrain.train job")
    edges: Literal["pad", "crop"] = Field(
        default="pad", description="Rows and columns that do not fill a coarse cell"
    )


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
        ArtifactInfo("extent.png", "image", "hits, misses, false alarms"),
        ArtifactInfo("report.json", "report", "all figures, versions"),
    )
    smallest: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.compare",
        "terrain": {"synthetic": TINY},
        "duration_s": 120.0,
        "factor": 4,
        "methods": ["mean", "channel"],
        "optimise_steps": 2,
    }

    kind: Literal["terrain.compare"]
    factor: Factor = 16
    methods: list[Method] = Field(default=list(METHODS), min_length=1, max_length=6)
    nets: list[ArtifactRef] = Field(default=[], max_length=8, description="weights to compare")
    optimise_steps: Int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Adam steps on the coarse terrain itself, from the first net or mean pooling",
    )


class Scenes(Part):
    """Terrains to train on: generated ones, and tiles of rasters, split by source."""

    synthetic: Synthetic | None = Field(
        default=Synthetic(), description="Pattern of the generated terrains; null: none"
    )
    train: Int = Field(default=32, ge=0, le=100_000, description="Generated terrains to train on")
    test: Int = Field(default=8, ge=0, le=10_000, description="Generated terrains held out")
    rasters: list[DatasetTerrain] = Field(default=[], max_length=1000, description="To train on")
    test_rasters: list[DatasetTerrain] = Field(default=[], max_length=1000, description="Held out")
    tile: Int = Field(
        default=256, ge=16, le=8192, description="Rows and columns of a raster's tile"
    )


class TerrainTrain(Spec):
    """Train a net to make terrain coarse so that the coarse flood is the fine one, pooled."""

    entry: ClassVar[str] = "models.terrain.train:train"
    resumable: ClassVar[bool] = True
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("loss", "m2 or m", "min", "mean loss of an epoch's steps"),
        MetricInfo(
            "test_mae_m", "m", "min", "mean |coarse - pooled fine depth|, held-out terrains"
        ),
        MetricInfo("error_ratio", "1", "min", "test_mae_m over that of mean pooling"),
        MetricInfo("test_csi_01", "1", "max", "critical success index at 0.1 m"),
        MetricInfo("skipped", "1", "min", "steps left out for a loss or gradient not finite"),
    )
    artifacts: ClassVar[tuple[ArtifactInfo, ...]] = (
        ArtifactInfo("weights.safetensors", "weights", "the net of the best epoch"),
        ArtifactInfo("checkpoints/step-*.safetensors", "checkpoint", "state to resume from"),
        ArtifactInfo("history.csv", "table", "a row an epoch"),
        ArtifactInfo("history.png", "image", "loss and error ratio over the epochs"),
        ArtifactInfo("report.json", "report", "all figures, data hash, versions"),
    )
    smallest: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.train",
        "scenes": {"synthetic": TINY, "train": 2, "test": 1},
        "factor": 8,
        "duration_s": 60.0,
        "epochs": 2,
        "batch_size": 2,
        "width": 8,
    }

    kind: Literal["terrain.train"]
    scenes: Scenes = Scenes()
    factor: Factor = 16
    water: Waters = [Valley(type="valley"), Rain(type="rain", mm_per_h=0.0)]
    solver: Solver = Solver()
    duration_s: float = Field(default=3600.0, gt=0, le=1e6)
    targets: Int = Field(default=1, ge=1, le=20, description="Times whose depth is matched")
    loss: Literal["mse", "huber", "l1"] = "huber"
    terrain_weight: float = Field(
        default=0.0, ge=0, le=1e3, description="Of the pull towards mean pooling"
    )
    epochs: Int = Field(default=30, ge=1, le=10_000)
    batch_size: Int = Field(default=8, ge=1, le=1024)
    lr: float = Field(default=1e-3, gt=0, le=1, description="Of Adam; falls as a cosine to zero")
    width: Int = Field(
        default=64, ge=8, le=256, multiple_of=8, description="Channels of the first stage"
    )
    norm: Literal["group", "batch"] = "group"

    @model_validator(mode="after")
    def _fits(self) -> "TerrainTrain":
        scenes, f = self.scenes, self.factor
        if scenes.synthetic is not None and (
            scenes.synthetic.rows % f or scenes.synthetic.columns % f
        ):
            raise ValueError(f"scenes.synthetic: rows and columns must be multiples of factor {f}")
        if scenes.rasters and scenes.tile % f:
            raise ValueError(f"scenes.tile: {scenes.tile} must be a multiple of factor {f}")
        if not scenes.rasters and not (scenes.synthetic and scenes.train):
            raise ValueError("scenes: give rasters, or synthetic with train at least 1")
        if not scenes.test_rasters and not (scenes.synthetic and scenes.test):
            raise ValueError("scenes: give test_rasters, or synthetic with test at least 1")
        names = {item.dataset for item in scenes.rasters}
        both = sorted(names & {item.dataset for item in scenes.test_rasters})
        if both:
            raise ValueError(f"scenes: {both[0]} is in rasters and test_rasters; split by source")
        if self.solver.froude is not None or self.solver.reference_mode:
            raise ValueError("solver: froude and reference_mode cannot be trained through")
        return self

    def estimate(self, counts: Mapping[str, Mapping[str, int]]) -> Estimate:
        """Optimizer steps, and cell-steps of the fine floods of generated terrains."""
        made, scenes = self.scenes.synthetic, self.scenes
        if made is None or scenes.rasters:
            return Estimate()
        steps = steps_of(self.duration_s, made.cell_size_m, self.solver)
        fine = (scenes.train + scenes.test) * made.rows * made.columns
        check_work(made.rows * made.columns, steps, "use smaller terrains or a shorter duration_s")
        total = self.epochs * math.ceil(scenes.train / self.batch_size)
        return Estimate(total_steps=total, details={"fine_cell_steps": fine * steps})
