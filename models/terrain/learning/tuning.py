"""Coarse heights as free variables, optimized by Adam under floods of their own terrain."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.core import optimizers
from models.core.run import Run
from models.terrain import measures
from models.terrain.dem.rasters import Elevation
from models.terrain.learning.coarse_floods import GRADIENT_FLOODS, depths
from models.terrain.learning.losses import relative
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import Scenario, advance_to_times, is_tiny, scenario_of
from models.terrain.solver.time_stepping import BoundaryConditions
from models.terrain.spec.floods import Tune

LR_M, LAST_SHARE = 0.03, 0.1  # step of Adam in m; share of it at the end
WET_M = 0.1


class TuningTask(NamedTuple):
    """A flood to match: its scenario, pooled fine depth in m [nyc, nxc], unit of the error in m."""

    scenario: Scenario
    target: np.ndarray
    unit: float


class TuningResult(NamedTuple):
    """The best heights in m [nyc, nxc], and their error: the mean over the tasks in their units."""

    z: np.ndarray
    error: float


def improve(
    start: np.ndarray, dx: float, tasks: list[TuningTask], steps: int, run: Run
) -> TuningResult:
    """The best heights of ``steps`` optimizer steps on the mean absolute error of depth.

    Args:
        start: coarse heights [ny, nx] in m.
        dx: side of a coarse cell, m.
        tasks: floods of the same solver and duration.
        steps: of Adam.
        run: checked for a stop.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    datum, scenario = float(start.mean()), tasks[0].scenario
    z = torch.from_numpy(start - np.float32(datum))[None].clone().requires_grad_()
    boundaries: list[BoundaryConditions] = [
        task.scenario.boundary_conditions(z.detach(), datum, dx) for task in tasks
    ]
    target = torch.from_numpy(np.stack([task.target for task in tasks]))[None]
    units, physics = (
        torch.tensor([task.unit for task in tasks]),
        physics_of(scenario.solver, coarse=True),
    )
    duration_s, floods = scenario.duration_s, GRADIENT_FLOODS * len(tasks) * (steps + 1)
    tiny = is_tiny(start.size, dx, duration_s, scenario.solver, floods)
    best, best_z = float("inf"), start
    optimiser = optimizers.Adam([z], lr=LR_M)
    nowhere = _without_height(scenario, z)
    for step in range(steps + 1):
        run.check_stop()
        closed = torch.where(nowhere, boundaries[0].ground.z, z)
        repeated = closed.expand(len(tasks), -1, -1)
        error = relative(
            depths(repeated, boundaries, physics, [duration_s], by_reference=tiny),
            target,
            units,
        )
        if error.item() < best:
            best, best_z = error.item(), z.detach()[0].numpy() + np.float32(datum)
        optimiser.param_groups[0]["lr"] = LR_M * (1 - (1 - LAST_SHARE) * step / steps)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        run.progress(min(step + 1, steps), steps, phase="tune")
    return TuningResult(best_z, best)


def _without_height(scenario: Scenario, z: Tensor) -> Tensor:
    """Coarse cells that keep the wall which stands for missing heights."""
    if scenario.voids is None:
        return torch.zeros(z.shape[1:], dtype=torch.bool)
    return scenario.voids.on((z.shape[1], z.shape[2]))


def tasks_of(
    spec: Tune, fine: Elevation, pooled: np.ndarray, factor: int, run: Run
) -> list[TuningTask]:
    """The fine floods of a terrain, each with the error of mean pooling as its unit.

    Args:
        spec: waters, solver and duration.
        fine: the terrain.
        pooled: its mean pooling, m [nyc, nxc].
        factor: of the pooling.
        run: checked for a stop.

    Raises:
        SpecError: if the water does not fit the terrain.
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    return list(_tasks(spec, fine, pooled, factor, run))


def _tasks(
    spec: Tune, fine: Elevation, pooled: np.ndarray, factor: int, run: Run
) -> Iterator[TuningTask]:
    for index, water in enumerate(spec.water, 1):
        scenario = scenario_of(spec, fine, WET_M, run, water)
        target = measures.pooled(flooded(scenario, fine.z, fine.dx, run), factor).numpy()
        coarse = flooded(scenario, pooled, fine.dx * factor, run, coarse=True).numpy()
        yield TuningTask(scenario, target, max(float(np.abs(coarse - target).mean()), 1e-6))
        run.progress(index, len(spec.water), phase="fine floods", unit="flood")


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
