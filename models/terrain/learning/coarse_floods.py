"""Coarse floods as differentiable functions of their beds, on the engine that fits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from models.core import ranks
from models.terrain.learning.samples import TrainingSample, times_of
from models.terrain.solver.boundary import physics_of
from models.terrain.solver.engines import is_tiny
from models.terrain.solver.gpu.engine import can_run
from models.terrain.solver.gpu.layout import BoundaryTables, boundary_tables, build_layout
from models.terrain.solver.gpu.rollout import GpuTape
from models.terrain.solver.scheme import Ground, Physics, dry
from models.terrain.solver.subgrid import FaceChange, changed
from models.terrain.solver.time_stepping import BoundaryConditions, Clock, advance
from models.terrain.spec.floods import steps_of
from models.terrain.spec.train import TerrainTrain

GRADIENT_FLOODS = 4  # cost of a flood and its derivative by autograd, in floods
STEPS_MARGIN = 4  # length of the tape over the estimated steps, for deep water


def depths(
    z: Float[Tensor, "b ny nx"],
    boundaries: list[BoundaryConditions],
    physics: Physics,
    times: list[float],
    *,
    by_reference: bool = False,
) -> Float[Tensor, "times b ny nx"]:
    """Depth in m at the given times, on the CPU.

    Args:
        z: beds in m.
        boundaries: boundary conditions of each sample.
        physics: constants.
        times: s, increasing.
        by_reference: by autograd of the reference step, for tiny floods.

    Raises:
        SpecError: if a Froude cap is asked for.
        UnstableError: if a flood blows up.
    """
    if by_reference and physics.froude is None:
        return torch.cat(
            [_by_reference(z[k : k + 1], b, physics, times) for k, b in enumerate(boundaries)], 1
        )
    from models.terrain.solver.cpu.rollout import rollout  # loading numba takes a second

    return rollout(z, boundaries, physics, times)


def depths_by_faces(
    x: FaceChange,
    y: FaceChange,
    boundaries: list[BoundaryConditions],
    physics: Physics,
    times: list[float],
    *,
    by_reference: bool = False,
) -> Float[Tensor, "times b ny nx"]:
    """Mean depth in m at the given times, on the CPU.

    Args:
        x: changes of the faces between columns, on top of the tables [b, ny, nx-1].
        y: of the faces between rows [b, ny-1, nx].
        boundaries: boundary conditions of each sample, with subgrid.
        physics: constants.
        times: s, increasing.
        by_reference: by autograd of the reference step, for tiny floods.

    Raises:
        SpecError: if a Froude cap is asked for.
        UnstableError: if a flood blows up.
    """
    if by_reference and physics.froude is None:
        outputs = []
        for k, boundary in enumerate(boundaries):
            ground = boundary.ground
            assert ground.subgrid is not None  # noqa: S101  # of the callers
            own = [FaceChange(*(field[k : k + 1] for field in faces)) for faces in (x, y)]
            tables = changed(ground.subgrid, ground.z, *own)
            on = boundary._replace(ground=ground._replace(subgrid=tables))
            outputs.append(_by_reference(ground.z, on, physics, times))
        return torch.cat(outputs, 1)
    from models.terrain.solver.cpu.rollout import rollout_of_faces  # loading numba takes a second

    return rollout_of_faces(x, y, boundaries, physics, times)


def _by_reference(
    z: Tensor, boundary: BoundaryConditions, physics: Physics, times: list[float]
) -> Tensor:
    state, clock, outputs = dry(z), Clock.start(1), []
    for until in times:
        ground = boundary.ground._replace(z=z)
        state, clock = advance(state, clock, ground, boundary.forcing, physics, until)
        outputs.append(state.h)
    return torch.stack(outputs)


class CoarseFloods:
    """The coarse floods of a training; on a GPU a batch runs at once.

    Args:
        data: training samples.
        spec: of the training.
        device: of the run.
    """

    def __init__(self, data: list[TrainingSample], spec: TerrainTrain, device: str) -> None:
        self.data, self.times, self.solver = data, times_of(spec), spec.solver
        self.physics = physics_of(spec.solver, coarse=True)
        boundaries = [sample.boundary for sample in data]
        ground, last = boundaries[0].ground, self.times[-1]
        floods = GRADIENT_FLOODS * spec.epochs * len(data)
        self.by_reference = is_tiny(ground.z[0].numel(), ground.dx, last, self.solver, floods)
        alike = len({sample.dx for sample in data}) == 1
        fits = alike and all(can_run(*boundary, self.physics) for boundary in boundaries)
        self.batch = math.ceil(min(spec.batch_size, len(data)) / ranks.world_size())
        if device.startswith("cuda") and fits:
            self._prepare([sample.boundary for sample in data], device)
        else:
            self._tape = None

    def _prepare(self, boundaries: list[BoundaryConditions], device: str) -> None:
        """Tables of all boundary conditions, and a tape for one batch."""
        ground = boundaries[0].ground
        empty = torch.zeros_like(ground.z)
        drains = [empty if b.ground.drain is None else b.ground.drain for b in boundaries]
        _, ny, nx = empty.shape
        layout = build_layout(self.batch, ny, nx)
        table = boundary_tables(
            torch.cat(drains), [b.forcing for b in boundaries], layout, ground.dx
        )
        self._table = BoundaryTables(*(column.to(device) for column in table))
        bed = torch.zeros(self.batch, ny, nx, device=device)
        steps = STEPS_MARGIN * steps_of(self.times[-1], ground.dx, self.solver)
        first = BoundaryTables(*(column[: self.batch] for column in self._table))
        stage = Ground(bed, ground.manning, ground.dx, bed)
        self._tape = GpuTape(stage, first, self.physics, steps)

    def __call__(
        self, bed: Float[Tensor, "b ny nx"], chosen: list[int]
    ) -> Float[Tensor, "times b ny nx"]:
        """Depths at the target times of the chosen samples, in m.

        Raises:
            UnstableError: if a flood blows up.
        """
        if self._tape is None:
            boundaries = [self.data[k].boundary for k in chosen]
            return depths(
                bed.cpu(), boundaries, self.physics, self.times, by_reference=self.by_reference
            )
        # a short last batch is filled up by repetition
        padded = torch.arange(self.batch, device=bed.device) % len(chosen)
        index = torch.tensor(chosen, device=bed.device)[padded]
        self._tape.flood.use_boundaries(self._table, index)
        return self._tape(bed[padded], self.times)[:, : len(chosen)]
