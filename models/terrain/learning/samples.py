"""Training terrains and their floods: what a coarse flood should come to."""

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
from models.terrain.dem.hydrology import drained
from models.terrain.dem.rasters import Elevation
from models.terrain.solver.engines import Scene, scene_of, stages
from models.terrain.solver.time_stepping import World
from models.terrain.spec.parts import Area, SyntheticTerrain, Water
from models.terrain.spec.train import TerrainTrain

WET_M = 0.1


class Lesson(NamedTuple):
    """A terrain under one water, and what a coarse flood on it should come to.

    Attributes:
        z: fine heights in m about 0, float32 [ny, nx].
        flow: :func:`models.terrain.dem.hydrology.drained` of them; None for inputs ``heights``.
        datum: their mean, taken off.
        world: surroundings of the coarse bed.
        scene: to open floods on it.
        dx: side of a coarse cell, m.
        name: where it is from.
        water: number of the water, from 0.
    """

    z: Tensor
    flow: Tensor | None
    datum: float
    world: World
    scene: Scene
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
        made = scenes.synthetic.model_copy(update={"variant": first + k})  # ty: ignore
        yield rasters.load(SyntheticTerrain(synthetic=made), run, spec.seed)
    for source in scenes.test_rasters if test else scenes.rasters:
        whole = rasters.load(source, run, spec.seed)
        found = 0
        for row in range(0, whole.z.shape[0] - tile + 1, tile):
            for column in range(0, whole.z.shape[1] - tile + 1, tile):
                part = (slice(row, row + tile), slice(column, column + tile))
                if not whole.missing[part].any():
                    found += 1
                    area = Area(row=row, column=column, rows=tile, columns=tile)
                    yield rasters.cut(whole, area)
        if found == 0:
            raise DataError(
                f"{whole.name}: no tile of {tile} x {tile} cells without nodata",
                hint="lower scenes.tile",
            )


def lessons_of(spec: TerrainTrain, fine: Elevation, run: Run) -> Iterator[Lesson]:
    """A terrain under each water."""
    datum, dx = float(fine.z.mean()), fine.dx * spec.factor
    z = torch.from_numpy(fine.z - np.float32(datum))
    flow = drained(z) if spec.inputs == "flow" else None
    empty = torch.zeros(1, z.shape[0] // spec.factor, z.shape[1] // spec.factor)
    for index, water in enumerate(waters_of(spec)):
        scene = scene_of(spec, fine, WET_M, run, water)
        yield Lesson(z, flow, datum, scene.world(empty, datum, dx), scene, dx, fine.name, index)


def waters_of(spec: TerrainTrain) -> list[list[Water]]:
    """The waters that flood every terrain, each by itself."""
    return [spec.water, *spec.more_water]


def load(spec: TerrainTrain, run: Run) -> tuple[list[Lesson], list[Lesson]]:
    """Training and held-out lessons.

    Raises:
        SpecError: if their sizes differ.
    """
    parts = [
        [x for fine in terrains(spec, run, test=test) for x in lessons_of(spec, fine, run)]
        for test in (False, True)
    ]
    sizes = {tuple(lesson.z.shape) for part in parts for lesson in part}
    if len(sizes) > 1:
        raise SpecError(
            f"scenes: terrains of {sorted(sizes)} cells; make scenes.tile equal to "
            "scenes.synthetic.rows and columns"
        )
    return parts[0], parts[1]


def digest(lessons: list[Lesson]) -> str:
    """SHA-256 of all heights, in hex."""
    found = hashlib.sha256()
    for lesson in lessons:
        found.update(lesson.z.numpy().tobytes())
    return found.hexdigest()


def key_of(spec: TerrainTrain, lesson: Lesson) -> str:
    """SHA-256, in hex, of all that the pooled fine flood of a lesson depends on."""
    scene = lesson.scene
    told: list[Any] = [item.model_dump(mode="json") for item in scene.water]
    told.append(scene.solver.model_dump())
    told += [list(lesson.z.shape), lesson.datum, lesson.dx, spec.factor, times_of(spec)]
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    found.update(lesson.z.numpy().tobytes())
    return found.hexdigest()


def times_of(spec: TerrainTrain) -> list[float]:
    """Target times in s, the last one the end."""
    return [spec.duration_s * (k + 1) / spec.targets for k in range(spec.targets)]


def fine_depths(spec: TerrainTrain, run: Run, lesson: Lesson) -> Float[Tensor, "times nyc nxc"]:
    """Pooled depth of the fine flood at the target times, m.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if the flood blows up.
    """
    flood = lesson.scene.open(lesson.z.numpy() + np.float32(lesson.datum), lesson.dx / spec.factor)
    found = [
        measures.pooled(flood.depth[0], spec.factor)
        for _ in stages(flood, times_of(spec), run, lambda _: None)
    ]
    return torch.stack(found)
