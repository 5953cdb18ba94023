"""A flood from a terrain and its water to depths, on the engine that can carry it out."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.core.run import Run
from models.terrain.boundary import Extent, forcing_of, ground_of, physics_of
from models.terrain.forcing import Forcing
from models.terrain.fused import FusedFlood
from models.terrain.parts import Solver, Water
from models.terrain.scheme import Ground, Physics, State, dry
from models.terrain.stepping import Clock, Totals, advance

CHUNK_CELL_STEPS = 20_000_000  # between two looks at a stop: a fraction of a second


class TorchFlood:
    """The reference step with the face of :class:`FusedFlood`, for the authors' scheme."""

    def __init__(self, ground: Ground, forcing: Forcing, physics: Physics, wet_m: float) -> None:
        self._world = (ground, forcing, physics)
        self._state, self._clock, self._wet_m = dry(ground.z), Clock.start(1), wet_m
        self.peak = torch.zeros_like(ground.z[0])
        self.arrival = torch.full_like(self.peak, torch.inf)

    def advance(self, until: float, max_steps: int) -> bool:
        """Step to ``until`` in s, or so many steps; whether it is there."""
        self._state, self._clock = advance(
            self._state, self._clock, *self._world, until, max_steps, self._note
        )
        return bool(self._clock.t[0] >= until)

    def _note(self, state: State, clock: Clock) -> None:
        h, t = state.h[0], float(clock.t[0])
        self.peak = torch.maximum(self.peak, h)
        new = (h > self._wet_m) & self.arrival.isinf()
        self.arrival = torch.where(new, t, self.arrival)

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]."""
        return self._state.h

    @property
    def totals(self) -> Totals:
        """Where the flood is and what went in and out."""
        t, steps, entered, left = (float(x[0]) for x in self._clock)
        return Totals(t, int(steps), entered, left)


class Scene(NamedTuple):
    """Everything a flood needs besides the heights: settled water, extent, solver."""

    water: list[Water]
    extent: Extent
    solver: Solver
    wet_m: float

    def open(self, z: np.ndarray, dx: float, *, coarse: bool = False) -> FusedFlood | TorchFlood:
        """A dry flood on a grid of heights in m with cells of dx metres."""
        datum = float(z.mean())
        bed = torch.from_numpy(z - np.float32(datum))[None].float().contiguous()
        ground = ground_of(bed, datum, self.water, self.extent, dx, self.solver)
        forcing = forcing_of(self.water, self.extent, (z.shape[0], z.shape[1]), dx)
        physics = physics_of(self.solver, coarse=coarse)
        if self.solver.reference_mode:
            return TorchFlood(ground, forcing, physics, self.wet_m)
        threads = min(torch.get_num_threads(), max(1, z.size // 65_536))
        return FusedFlood(ground, forcing, physics, None, threads, self.wet_m)


def stages(
    flood: FusedFlood | TorchFlood, times: list[float], run: Run, tell: Callable[[float], None]
) -> Iterator[float]:
    """Step from time to time; between chunks of steps report the simulated time, hear of a stop.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if the flood blows up.
    """
    cells = flood.depth[0].numel()
    chunk = max(1, CHUNK_CELL_STEPS // cells)
    for until in times:
        run.check_stop()
        while not flood.advance(until, chunk):
            tell(flood.totals.t)
            run.check_stop()
        tell(until)
        yield until
