"""Spec of ``terrain.train``. Torch-free."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from models.core.errors import SpecError
from models.core.needs import ArtifactNeed, Bound, Need
from models.core.spec import (
    VECTOR,
    ArtifactInfo,
    ArtifactRef,
    Estimate,
    Int,
    MetricInfo,
    Spec,
    SpecGroup,
)
from models.terrain.spec.floods import check_work, steps_of
from models.terrain.spec.solver import Solver, cap_solver
from models.terrain.spec.terrains import DatasetTerrain, Factor, Synthetic
from models.terrain.spec.water import (
    Rain,
    Valley,
    Waters,
    check_differentiable,
    hold_floods,
    hold_series,
    series_needs,
)

OF_HEIGHTS = {"terrain_weight", "width", "norm", "inputs"}  # fields of nets that learn heights


class Scenes(SpecGroup):
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
        ArtifactInfo("floods.safetensors", "samples", "pooled fine floods, for other trainings"),
        ArtifactInfo("history.csv", "table", "a row an epoch"),
        ArtifactInfo("history.png", "image", "loss and error ratio over the epochs"),
        VECTOR,
        ArtifactInfo("report.json", "report", "all figures, data hash, versions"),
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {
            "scenes": {
                "synthetic": {"rows": 128, "columns": 128, "cell_size_m": 10.0},
                "train": 16,
                "test": 4,
            },
            "factor": 8,
            "duration_s": 1800.0,
            "epochs": 10,
            "width": 32,
        },
        "flow": {"factor": 8, "inputs": "flow"},
    }
    example: ClassVar[Mapping[str, Any]] = {
        "kind": "terrain.train",
        "scenes": {
            "synthetic": {"rows": 64, "columns": 64, "cell_size_m": 10.0},
            "train": 8,
            "test": 4,
        },
        "factor": 8,
        "duration_s": 600.0,
        "epochs": 10,
        "batch_size": 4,
        "width": 16,
    }

    kind: Literal["terrain.train"] = Field(init=False)
    scenes: Scenes = Scenes()
    factor: Factor = 16
    water: Waters = [Valley(type="valley"), Rain(type="rain", mm_per_h=0.0)]
    more_water: list[Waters] = Field(
        default=[], max_length=15, description="Further floods of every terrain, each by itself"
    )
    solver: Solver = Solver()
    duration_s: float = Field(default=3600.0, gt=0, le=1e6)
    targets: Int = Field(default=1, ge=1, le=20, description="Times whose depth is matched")
    floods: ArtifactRef | None = Field(
        default=None, description="floods.safetensors of another training; not done again"
    )
    loss: Literal["mse", "huber", "l1", "relative"] = Field(
        default="huber", description="relative: l1, each flood's over that of mean pooling"
    )
    terrain_weight: float = Field(
        default=0.0, ge=0, le=1e3, description="Of the pull towards mean pooling"
    )
    epochs: Int = Field(default=30, ge=1, le=10_000)
    batch_size: Int = Field(default=8, ge=1, le=1024)
    lr: float = Field(default=1e-3, gt=0, le=1, description="Of Adam; falls as a cosine to zero")
    width: Int = Field(
        default=64, ge=8, le=256, multiple_of=8, description="Channels of the first stage"
    )
    learn: Literal["heights", "faces"] = Field(
        default="heights",
        description="heights: one of each coarse cell; faces: sills and friction of a subgrid, for"
        " method learned, on the CPU",
    )
    norm: Literal["group", "batch"] = "group"
    inputs: Literal["heights", "flow"] = Field(
        default="heights", description="flow: heights by scale, hollows, cells upstream"
    )

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
        given = OF_HEIGHTS & self.model_fields_set
        if self.learn == "faces" and given:
            raise ValueError(
                f"{min(given)}: is of nets that learn heights; leave it out with learn: faces"
            )
        every = [self.water, *self.more_water]
        check_differentiable([item for water in every for item in water], "water")
        return self

    @classmethod
    def upgrade(cls, stored: dict[str, Any]) -> list[str]:
        """Cap solvers that could be unstable; series of earlier releases hold their first value."""
        held = hold_series(stored.get("water"), "water")
        held += hold_floods(stored.get("more_water"), "more_water")
        return cap_solver(stored.get("solver")) + held

    def needs(self) -> Iterator[Need]:
        """Elevations of a tile or more; floods of another training."""
        yield from super().needs()
        tile, remedy = self.scenes.tile, "lower scenes.tile"
        for name in ("rasters", "test_rasters"):
            for index, raster in enumerate(getattr(self.scenes, name)):
                bounds = [
                    Bound(count, tile, field="/scenes/tile", remedy=remedy)
                    for count in ("rows", "columns")
                ]
                yield raster.need(f"/scenes/{name}/{index}", *bounds)
        yield from series_needs(self.water, "/water")
        for index, water in enumerate(self.more_water):
            yield from series_needs(water, f"/more_water/{index}")
        if self.floods is not None:
            kinds, names = ("terrain.train",), ("floods.safetensors",)
            yield ArtifactNeed("/floods", ("samples",), kinds, names)

    def _check_tiles(self) -> None:
        """Refuse areas below a tile, and tiles that differ from generated terrains in size."""
        scenes, tile = self.scenes, self.scenes.tile
        rasters = [*scenes.rasters, *scenes.test_rasters]
        areas = [raster.area for raster in rasters if raster.area is not None]
        small = [area for area in areas if min(area.rows, area.columns) < tile]
        if small:
            raise SpecError(
                f"scenes.tile {tile}: an area of {small[0].rows} x {small[0].columns} cells holds"
                " no tile: lower scenes.tile or enlarge the area",
                pointer="/scenes/tile",
            )
        made = scenes.synthetic if scenes.train or scenes.test else None
        if rasters and made is not None and {made.rows, made.columns} != {tile}:
            raise SpecError(
                f"scenes.tile {tile}: the generated terrains have {made.rows} x {made.columns}"
                " cells: make scenes.tile equal to scenes.synthetic.rows and columns, or"
                " scenes.synthetic null",
                pointer="/scenes/tile",
            )

    def _check_batch(self) -> None:
        scenes, waters = self.scenes, 1 + len(self.more_water)
        samples = waters * scenes.train
        if self.batch_size > samples and "batch_size" in self.model_fields_set:
            raise SpecError(
                f"batch_size {self.batch_size} is more than the {samples} samples of"
                " scenes.train and its waters: lower it or leave it out",
                pointer="/batch_size",
            )

    def estimate(self, counts: Mapping[str, Mapping[str, Any]]) -> Estimate:
        """Optimizer steps, and cell-steps of the fine floods of generated terrains.

        Raises:
            SpecError: if terrains differ in size, or hold fewer samples than a step takes.
        """
        made, scenes = self.scenes.synthetic, self.scenes
        self._check_tiles()
        if made is None or scenes.rasters:
            return Estimate()
        self._check_batch()
        steps = steps_of(self.duration_s, made.cell_size_m, self.solver)
        waters = 1 + len(self.more_water)
        fine = waters * (scenes.train + scenes.test) * made.rows * made.columns
        check_work(made.rows * made.columns, steps, "use smaller terrains or a shorter duration_s")
        total = self.epochs * math.ceil(waters * scenes.train / self.batch_size)
        # an epoch floods the training terrains, coarse: fewer cells and steps, forth and back
        coarse = self.epochs * waters * scenes.train * made.rows * made.columns * steps
        work = fine * steps + 3 * coarse / self.factor**3
        details = {"fine_cell_steps": fine * steps}
        return Estimate(total_steps=total, work=work, work_unit="cell-steps", details=details)
