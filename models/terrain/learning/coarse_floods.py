"""Coarse floods that torch can differentiate by their beds, on the engine that suits them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from models.core import ranks
from models.terrain.learning.samples import Lesson, times_of
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import is_tiny
from models.terrain.solver.gpu.engine import can_run
from models.terrain.solver.gpu.layout import Worlds, layout, worlds_of
from models.terrain.solver.gpu.rollout import GpuTape
from models.terrain.solver.scheme import Ground, Physics, dry
from models.terrain.solver.time_stepping import Clock, World, advance
from models.terrain.spec.floods import steps_of
from models.terrain.spec.parts import Solver
from models.terrain.spec.train import TerrainTrain

STEPS_MARGIN = 4  # of the tape: more steps than the estimate, for deep water


def depths(
    z: Float[Tensor, "b ny nx"],
    worlds: list[World],
    physics: Physics,
    times: list[float],
    solver: Solver,
) -> Float[Tensor, "times b ny nx"]:
    """Depth in m at the asked times in s, on the CPU; autograd's own where the flood is tiny.

    Raises:
        SpecError: if a Froude cap is asked for.
        UnstableError: if a flood blows up.
    """
    ground = worlds[0].ground
    if physics.froude is None and is_tiny(3 * z[0].numel(), ground.dx, 3 * times[-1], solver):
        return torch.cat(
            [_by_reference(z[k : k + 1], w, physics, times) for k, w in enumerate(worlds)], 1
        )
    from models.terrain.solver.cpu.rollout import rollout  # loading numba takes a second

    return rollout(z, worlds, physics, times)


def _by_reference(z: Tensor, world: World, physics: Physics, times: list[float]) -> Tensor:
    state, clock, found = dry(z), Clock.start(1), []
    for until in times:
        ground = world.ground._replace(z=z)
        state, clock = advance(state, clock, ground, world.forcing, physics, until)
        found.append(state.h)
    return torch.stack(found)


class CoarseFloods:
    """The coarse floods of a training; on a GPU all of a batch at once.

    Args:
        lessons: training terrains.
        spec: of the training.
        device: of the run.
    """

    def __init__(self, lessons: list[Lesson], spec: TerrainTrain, device: str) -> None:
        self.lessons, self.times, self.solver = lessons, times_of(spec), spec.solver
        self.physics = physics_of(spec.solver, coarse=True)
        worlds = [lesson.world for lesson in lessons]
        alike = len({lesson.dx for lesson in lessons}) == 1
        fits = alike and all(can_run(*world, self.physics) for world in worlds)
        self.batch = math.ceil(min(spec.batch_size, len(lessons)) / ranks.world_size())
        if device.startswith("cuda") and fits:
            self._prepare([lesson.world for lesson in lessons], device)
        else:
            self._tape = None

    def _prepare(self, worlds: list[World], device: str) -> None:
        """Table of all surroundings, and a tape for one batch of them."""
        ground = worlds[0].ground
        empty = torch.zeros_like(ground.z)
        drains = [empty if w.ground.drain is None else w.ground.drain for w in worlds]
        _, ny, nx = empty.shape
        lay = layout(self.batch, ny, nx)
        table = worlds_of(torch.cat(drains), [w.forcing for w in worlds], lay, ground.dx)
        self._table = Worlds(*(column.to(device) for column in table))
        bed = torch.zeros(self.batch, ny, nx, device=device)
        steps = STEPS_MARGIN * steps_of(self.times[-1], ground.dx, self.solver)
        first = Worlds(*(column[: self.batch] for column in self._table))
        stage = Ground(bed, ground.manning, ground.dx, bed)
        self._tape = GpuTape(stage, first, self.physics, steps)

    def __call__(
        self, bed: Float[Tensor, "b ny nx"], chosen: list[int]
    ) -> Float[Tensor, "times b ny nx"]:
        """Depths at the target times of the chosen lessons, in m.

        Raises:
            UnstableError: if a flood blows up.
        """
        if self._tape is None:
            worlds = [self.lessons[k].world for k in chosen]
            return depths(bed.cpu(), worlds, self.physics, self.times, self.solver)
        place = torch.arange(self.batch, device=bed.device) % len(chosen)  # a last short batch
        index = torch.tensor(chosen, device=bed.device)[place]
        self._tape.flood.take(self._table, index)
        return self._tape(bed[place], self.times)[:, : len(chosen)]
