"""Training samples: terrains under one water each, and their pooled fine floods as targets."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.errors import DataError, SpecError
from models.core.run import Run
from models.terrain import measures
from models.terrain.dem import rasters
from models.terrain.dem.hydrology import flow_accumulation
from models.terrain.dem.rasters import Elevation
from models.terrain.solver.engines import Scenario, advance_to_times, scenario_of
from models.terrain.solver.scheme import SCHEME
from models.terrain.solver.time_stepping import BoundaryConditions
from models.terrain.spec.terrains import Area, SyntheticTerrain
from models.terrain.spec.train import TerrainTrain
from models.terrain.spec.water import Water

WET_M = 0.1


class TrainingSample(NamedTuple):
    """A terrain under one water.

    Attributes:
        z: fine heights in m about 0, float32 [ny, nx].
        flow: :func:`models.terrain.dem.hydrology.flow_accumulation` of them; None for inputs
            ``heights``.
        datum: their mean in m, subtracted from them.
        boundary: boundary conditions of the coarse flood.
        scenario: opens floods on the terrain.
        dx: side of a coarse cell, m.
        name: of its source.
        water: index of the water.
    """

    z: Tensor
    flow: Tensor | None
    datum: float
    boundary: BoundaryConditions
    scenario: Scenario
    dx: float
    name: str
    water: int


def terrains(spec: TerrainTrain, run: Run, *, test: bool) -> Iterator[Elevation]:
    """Training or held-out terrains; a raster is cut into tiles, those with nodata dropped.

    Raises:
        DataError: if a raster has no whole tile with data.
    """
    scenes, tile = spec.scenes, spec.scenes.tile
    count = scenes.test if test else scenes.train
    first = scenes.train if test else 0
    for k in range(count if scenes.synthetic is not None else 0):
        synthetic = scenes.synthetic.model_copy(update={"variant": first + k})  # ty: ignore
        yield rasters.load(SyntheticTerrain(synthetic=synthetic), run, spec.seed)
    for source in scenes.test_rasters if test else scenes.rasters:
        whole = rasters.load(source, run, spec.seed)
        tile_count = 0
        for row in range(0, whole.z.shape[0] - tile + 1, tile):
            for column in range(0, whole.z.shape[1] - tile + 1, tile):
                part = (slice(row, row + tile), slice(column, column + tile))
                if not whole.missing[part].any():
                    tile_count += 1
                    area = Area(row=row, column=column, rows=tile, columns=tile)
                    yield rasters.cut(whole, area)
        if tile_count == 0:
            raise DataError(
                f"{whole.name}: no tile of {tile} x {tile} cells without nodata",
                hint="lower scenes.tile",
            )


def samples_of(spec: TerrainTrain, fine: Elevation, run: Run) -> Iterator[TrainingSample]:
    """A terrain under each water, one sample each."""
    datum, dx = float(fine.z.mean()), fine.dx * spec.factor
    z = torch.from_numpy(fine.z - np.float32(datum))
    flow = flow_accumulation(z) if spec.inputs == "flow" else None
    empty = torch.zeros(1, z.shape[0] // spec.factor, z.shape[1] // spec.factor)
    for index, water in enumerate(waters_of(spec)):
        scenario = scenario_of(spec, fine, WET_M, run, water)
        boundary = scenario.boundary_conditions(empty, datum, dx)
        yield TrainingSample(z, flow, datum, boundary, scenario, dx, fine.name, index)


def waters_of(spec: TerrainTrain) -> list[list[Water]]:
    """The waters of a training; every terrain is flooded by each of them separately."""
    return [spec.water, *spec.more_water]


def load(spec: TerrainTrain, run: Run) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """Training and held-out samples.

    Raises:
        SpecError: if their sizes differ.
    """
    splits = [
        [x for fine in terrains(spec, run, test=test) for x in samples_of(spec, fine, run)]
        for test in (False, True)
    ]
    sizes = {tuple(sample.z.shape) for split in splits for sample in split}
    if len(sizes) > 1:
        raise SpecError(
            f"scenes: terrains of {sorted(sizes)} cells; make scenes.tile equal to "
            "scenes.synthetic.rows and columns"
        )
    return splits[0], splits[1]


def digest(data: list[TrainingSample]) -> str:
    """SHA-256 of all heights, in hex."""
    sha = hashlib.sha256()
    for sample in data:
        sha.update(sample.z.numpy().tobytes())
    return sha.hexdigest()


def key_of(spec: TerrainTrain, sample: TrainingSample) -> str:
    """SHA-256, in hex, of everything that the pooled fine flood of a sample depends on."""
    scenario = sample.scenario
    inputs: list[Any] = [item.model_dump(mode="json") for item in scenario.water]
    inputs += [scenario.solver.model_dump(), SCHEME]
    inputs += [list(sample.z.shape), sample.datum, sample.dx, spec.factor, times_of(spec)]
    sha = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    sha.update(sample.z.numpy().tobytes())
    return sha.hexdigest()


def times_of(spec: TerrainTrain) -> list[float]:
    """Target times in s, the last one the end."""
    return [spec.duration_s * (k + 1) / spec.targets for k in range(spec.targets)]


def fine_depths(
    spec: TerrainTrain, run: Run, sample: TrainingSample
) -> Float[Tensor, "times nyc nxc"]:
    """Pooled depth of the fine flood at the target times, m.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if the flood blows up.
    """
    flood = sample.scenario.open(
        sample.z.numpy() + np.float32(sample.datum), sample.dx / spec.factor
    )
    depths = [
        measures.pooled(flood.depth[0], spec.factor)
        for _ in advance_to_times(flood, times_of(spec), run, lambda _: None)
    ]
    return torch.stack(depths)
