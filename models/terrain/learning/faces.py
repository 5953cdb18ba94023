"""Sills and friction of a subgrid's faces as free variables, under floods of their own terrain."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.core.run import Run
from models.terrain.learning.coarse_floods import GRADIENT_FLOODS, depths_by_faces
from models.terrain.learning.losses import relative
from models.terrain.learning.search import Matches, Searched, TuningTask, matches, search
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import is_tiny
from models.terrain.solver.scheme import Physics
from models.terrain.solver.subgrid import FaceChange, SubgridTerrain, changed

SILL_RATE_M, FRICTION_RATE = 0.02, 0.05  # steps of Adam: of shifts, of logarithms of the friction
MOST_LOG = 2.0  # friction factors stay within a factor of e^2, Manning's n within e


class TunedFaces(NamedTuple):
    """A subgrid with learned faces, and how it was found; at step 0 the one it began with."""

    terrain: SubgridTerrain
    best: Searched


class FloodConstants(NamedTuple):
    """What of a coarse flood is matched: the depths at ``duration_s``, by these constants."""

    physics: Physics
    duration_s: float
    by_reference: bool


def improve_faces(
    terrain: SubgridTerrain,
    dx: float,
    tasks: list[TuningTask],
    held_out: list[TuningTask],
    steps: int,
    run: Run,
) -> TunedFaces:
    """The subgrid with the best sills and friction of ``steps`` optimizer steps.

    Args:
        terrain: untrained, or with the faces of a net.
        dx: side of a coarse cell, m.
        tasks: floods of the same solver and duration, whose error is minimized.
        held_out: further ones, under which the best step is kept; none: the tasks are.
        steps: of Adam.
        run: checked for a stop.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if a flood blows up.
    """
    datum, scenario = float(terrain.lowest.mean()), tasks[0].scenario
    local = terrain.over(datum)
    floods, judges = (
        matches(some, local.lowest, datum, dx, local.tables) if some else None
        for some in (tasks, held_out)
    )
    assert floods is not None  # noqa: S101  # at least one task
    count = GRADIENT_FLOODS * (len(tasks) + len(held_out)) * (steps + 1)
    cells, solver, duration_s = local.lowest.numel(), scenario.solver, scenario.duration_s
    tiny = is_tiny(cells, dx, duration_s, solver, count)
    constants = FloodConstants(physics_of(solver, coarse=True), duration_s, tiny)
    best = learn(local, floods, judges, constants, steps, run)
    if best.step == 0:
        return TunedFaces(terrain, best)
    tables = changed(terrain.tables, terrain.lowest, *faces_of(best.values))
    return TunedFaces(terrain._replace(tables=tables), best)


def learn(
    local: SubgridTerrain,
    floods: Matches,
    judges: Matches | None,
    constants: FloodConstants,
    steps: int,
    run: Run,
) -> Searched:
    """Search changes of the faces, from none; arguments as of :func:`improve_faces`."""
    x, y = local.tables.x.sill, local.tables.y.sill
    leaves = [torch.zeros_like(sill).requires_grad_() for sill in (x, x, x, y, y, y)]

    def error(some: Matches) -> Tensor:
        b = len(some.boundaries)
        faces = faces_of([leaf.expand(b, -1, -1) for leaf in leaves])
        got = depths_by_faces(
            *faces, some.boundaries, constants.physics, [constants.duration_s],
            by_reference=constants.by_reference,
        )  # fmt: skip
        return relative(got, some.target, some.units)

    rates = [SILL_RATE_M, FRICTION_RATE, FRICTION_RATE] * 2
    return search(leaves, rates, error, floods, judges, steps, run)


def faces_of(six: list[Tensor]) -> tuple[FaceChange, FaceChange]:
    """Changes of the x and the y faces, from what is searched: shift, film and deep of both."""
    logs = [log.clamp(-MOST_LOG, MOST_LOG) for log in (*six[1:3], *six[4:])]
    return FaceChange(six[0], *logs[:2]), FaceChange(six[3], *logs[2:])
