"""Coarse heights as free variables, optimized by Adam under floods of their own terrain."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.core.run import Run
from models.terrain import measures
from models.terrain.dem.rasters import Elevation
from models.terrain.learning.coarse_floods import GRADIENT_FLOODS, depths
from models.terrain.learning.losses import relative
from models.terrain.learning.search import Matches, Searched, TuningTask, matches, search
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import Scenario, advance_to_times, is_tiny, scenario_of
from models.terrain.spec.floods import Tune
from models.terrain.spec.water import Waters

LR_M = 0.03  # step of Adam
WET_M = 0.1


def improve(
    start: np.ndarray,
    dx: float,
    tasks: list[TuningTask],
    steps: int,
    run: Run,
    held_out: list[TuningTask] | None = None,
) -> tuple[np.ndarray, Searched]:
    """The best heights in m [ny, nx] of ``steps`` optimizer steps on the error of depth.

    Args:
        start: coarse heights [ny, nx] in m.
        dx: side of a coarse cell, m.
        tasks: floods of the same solver and duration, whose error is minimized.
        steps: of Adam.
        run: checked for a stop.
        held_out: further floods, under which the best step is kept; none: the tasks are.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    datum, scenario, held_out = float(start.mean()), tasks[0].scenario, held_out or []
    z = torch.from_numpy(start - np.float32(datum))[None].clone().requires_grad_()
    floods = matches(tasks, z.detach(), datum, dx)
    judges = matches(held_out, z.detach(), datum, dx) if held_out else None
    physics, duration_s = physics_of(scenario.solver, coarse=True), scenario.duration_s
    count = GRADIENT_FLOODS * (len(tasks) + len(held_out)) * (steps + 1)
    tiny = is_tiny(start.size, dx, duration_s, scenario.solver, count)
    nowhere = _without_height(scenario, z)

    def error(some: Matches) -> Tensor:
        closed = torch.where(nowhere, some.boundaries[0].ground.z, z)
        beds = closed.expand(len(some.boundaries), -1, -1)
        got = depths(beds, some.boundaries, physics, [duration_s], by_reference=tiny)
        return relative(got, some.target, some.units)

    best = search([z], [LR_M], error, floods, judges, steps, run)
    return best.values[0][0].numpy() + np.float32(datum), best


def _without_height(scenario: Scenario, z: Tensor) -> Tensor:
    """Coarse cells that keep the wall which stands for missing heights."""
    if scenario.voids is None:
        return torch.zeros(z.shape[1:], dtype=torch.bool)
    return scenario.voids.on((z.shape[1], z.shape[2]))


def tasks_of(
    spec: Tune, waters: list[Waters], fine: Elevation, pooled: np.ndarray, factor: int, run: Run
) -> list[TuningTask]:
    """The fine floods of a terrain, each with the error of mean pooling as its unit.

    Args:
        spec: solver and duration.
        waters: of the floods.
        fine: the terrain.
        pooled: its mean pooling, m [nyc, nxc].
        factor: of the pooling.
        run: checked for a stop.

    Raises:
        SpecError: if the water does not fit the terrain.
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    return list(_tasks(spec, waters, fine, pooled, factor, run))


def _tasks(
    spec: Tune, waters: list[Waters], fine: Elevation, pooled: np.ndarray, factor: int, run: Run
) -> Iterator[TuningTask]:
    for index, water in enumerate(waters, 1):
        scenario = scenario_of(spec, fine, WET_M, run, water)
        target = measures.pooled(flooded(scenario, fine.z, fine.dx, run), factor).numpy()
        coarse = flooded(scenario, pooled, fine.dx * factor, run, coarse=True).numpy()
        yield TuningTask(scenario, target, max(float(np.abs(coarse - target).mean()), 1e-6))
        run.progress(index, len(waters), phase="fine floods", unit="flood")


def flooded(
    scenario: Scenario, z: np.ndarray, dx: float, run: Run, *, coarse: bool = False
) -> torch.Tensor:
    """Depth in m at the end [ny, nx].

    Args:
        scenario: of the flood.
        z: heights, m [ny, nx].
        dx: side of a cell, m.
        run: checked for a stop.
        coarse: whether the grid is a coarse one.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if the flood blows up.
    """
    flood = scenario.open(z, dx, coarse=coarse)
    for _ in advance_to_times(flood, [scenario.duration_s], run, lambda _: None):
        pass
    return flood.depth[0]
