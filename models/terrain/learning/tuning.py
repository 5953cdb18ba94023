"""Coarse heights as free variables: improved by Adam under floods of their own terrain."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from models.core import optimizers
from models.core.run import Run
from models.terrain import measures
from models.terrain.dem.rasters import Elevation
from models.terrain.learning.coarse_floods import depths
from models.terrain.learning.losses import relative
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import Scene, scene_of, stages
from models.terrain.solver.time_stepping import World
from models.terrain.spec.floods import Tune

LR_M, LAST_SHARE = 0.03, 0.1  # metres a step of Adam, and what it has fallen to at the end
WET_M = 0.1


class Task(NamedTuple):
    """A flood that the heights are to give: pooled fine depth in m, and the error's unit in m."""

    scene: Scene
    target: np.ndarray
    unit: float


class Tuned(NamedTuple):
    """The best heights in m, and their error: the mean over the tasks in their units."""

    z: np.ndarray
    error: float


def improve(start: np.ndarray, dx: float, tasks: list[Task], steps: int, run: Run) -> Tuned:
    """Heights in m after so many steps on the mean absolute error of depth, the best on the way.

    Args:
        start: coarse heights [ny, nx] in m.
        dx: side of a coarse cell, m.
        tasks: of one solver and duration.
        steps: of Adam.
        run: to hear of a stop.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    datum, scene = float(start.mean()), tasks[0].scene
    z = torch.from_numpy(start - np.float32(datum))[None].clone().requires_grad_()
    worlds: list[World] = [task.scene.world(z.detach(), datum, dx) for task in tasks]
    target = torch.from_numpy(np.stack([task.target for task in tasks]))[None]
    units, physics = (
        torch.tensor([task.unit for task in tasks]),
        physics_of(scene.solver, coarse=True),
    )
    best, kept = float("inf"), start
    optimiser = optimizers.Adam([z], lr=LR_M)
    for step in range(steps + 1):
        run.check_stop()
        every = z.expand(len(tasks), -1, -1)
        error = relative(
            depths(every, worlds, physics, [scene.duration_s], scene.solver), target, units
        )
        if error.item() < best:
            best, kept = error.item(), z.detach()[0].numpy() + np.float32(datum)
        optimiser.param_groups[0]["lr"] = LR_M * (1 - (1 - LAST_SHARE) * step / steps)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        run.progress(min(step + 1, steps), steps, phase="tune")
    return Tuned(kept, best)


def tasks_of(spec: Tune, fine: Elevation, pooled: np.ndarray, factor: int, run: Run) -> list[Task]:
    """The fine floods of a terrain, each in units of the error of ``pooled``, its mean pooling.

    Raises:
        SpecError: if the water does not fit the terrain.
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    return list(_tasks(spec, fine, pooled, factor, run))


def _tasks(
    spec: Tune, fine: Elevation, pooled: np.ndarray, factor: int, run: Run
) -> Iterator[Task]:
    for index, water in enumerate(spec.water, 1):
        scene = scene_of(spec, fine, WET_M, run, water)
        target = measures.pooled(flooded(scene, fine.z, fine.dx, run), factor).numpy()
        coarse = flooded(scene, pooled, fine.dx * factor, run, coarse=True).numpy()
        yield Task(scene, target, max(float(np.abs(coarse - target).mean()), 1e-6))
        run.progress(index, len(spec.water), phase="fine floods", unit="flood")


def flooded(
    scene: Scene, z: np.ndarray, dx: float, run: Run, *, coarse: bool = False
) -> torch.Tensor:
    """Depth in m at the end [ny, nx].

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if the flood blows up.
    """
    flood = scene.open(z, dx, coarse=coarse)
    for _ in stages(flood, [scene.duration_s], run, lambda _: None):
        pass
    return flood.depth[0]
