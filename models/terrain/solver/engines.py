"""A flood from a terrain and its water to depths, on the engine that can carry it out."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from models.core.run import Run
from models.terrain.dem import rasters
from models.terrain.dem.pooling import fitted, mean
from models.terrain.dem.rasters import Elevation, Maps
from models.terrain.solver.boundary import Extent, forcing_of, ground_of, physics_of, settle
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.engine import GpuFlood, can_run
from models.terrain.solver.scheme import Ground, Physics, State, dry
from models.terrain.solver.time_stepping import Clock, Totals, World, advance
from models.terrain.spec.floods import steps_of
from models.terrain.spec.parts import Solver, Water

CHUNK_CELL_STEPS = 20_000_000  # between two looks at a stop: a fraction of a second
TINY_S = 0.5  # what takes the reference step no longer needs no compiled engine
STEP_S, CELL_STEP_S = 1.2e-3, 1e-7  # of the reference step on a CPU


@runtime_checkable
class Flood(Protocol):
    """One flood, whatever engine carries it out."""

    def advance(self, until: float, max_steps: int) -> bool:
        """Step to ``until`` in s, or so many steps; whether it is there."""
        ...

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]."""
        ...

    @property
    def totals(self) -> Totals:
        """Where it is and what went in and out."""
        ...

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [ny, nx]."""
        ...

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first was wet, inf where it never was [ny, nx]."""
        ...


def is_tiny(cells: int, dx: float, duration_s: float, solver: Solver) -> bool:
    """Whether the reference step is done before another engine would have been compiled."""
    return steps_of(duration_s, dx, solver) * (STEP_S + CELL_STEP_S * cells) <= TINY_S


class GpuOne:
    """A batch of one of :class:`GpuFlood`, read on the host."""

    def __init__(self, flood: GpuFlood) -> None:
        self._flood = flood

    def advance(self, until: float, max_steps: int) -> bool:
        """Step to ``until`` in s, or about so many steps; whether it is there."""
        return self._flood.advance(until, max_steps)

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]."""
        return self._flood.depth.cpu()

    @property
    def totals(self) -> Totals:
        """Where the flood is and what went in and out."""
        return self._flood.totals[0]

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [ny, nx]."""
        return self._flood.peak[0].cpu()

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first was wet, inf where it never was [ny, nx]."""
        return self._flood.arrival[0].cpu()


class TorchFlood:
    """The reference step as a flood: for the authors' scheme, and for what is tiny."""

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
    """Everything a flood needs besides the heights: settled water, extent, solver, maps."""

    water: list[Water]
    extent: Extent
    solver: Solver
    wet_m: float
    duration_s: float
    device: str = "cpu"
    maps: Maps = Maps()

    def world(self, bed: Tensor, datum: float, dx: float) -> World:
        """What a bed [1, ny, nx] over ``datum`` metres lies in; maps are pooled to its cells."""
        shape = (bed.shape[1], bed.shape[2])
        manning = _on(self.maps.manning, shape)
        ground = ground_of(bed, datum, self.water, self.extent, dx, self.solver, manning)
        forcing = forcing_of(self.water, self.extent, shape, dx)
        return World(ground, forcing._replace(rain_map=_on(self.maps.rain, shape)))

    def open(self, z: np.ndarray, dx: float, *, coarse: bool = False) -> Flood:
        """A dry flood on a grid of heights in m with cells of dx metres."""
        datum = float(z.mean())
        bed = torch.from_numpy(z - np.float32(datum))[None].float().contiguous()
        ground, forcing = self.world(bed, datum, dx)
        physics = physics_of(self.solver, coarse=coarse)
        if self.solver.reference_mode or is_tiny(z.size, dx, self.duration_s, self.solver):
            return TorchFlood(ground, forcing, physics, self.wet_m)
        if self.device.startswith("cuda") and can_run(ground, forcing, physics):
            moved = {
                k: v.to(self.device) for k, v in ground._asdict().items() if torch.is_tensor(v)
            }
            there = ground._replace(**moved)
            return GpuOne(GpuFlood(there, [forcing], physics, wet_m=self.wet_m))
        from models.terrain.solver.cpu.engine import FusedFlood  # loading numba takes a second

        threads = min(torch.get_num_threads(), max(1, z.size // 65_536))
        return FusedFlood(ground, forcing, physics, None, threads, self.wet_m)


def _on(values: np.ndarray | None, shape: tuple[int, int]) -> Tensor | None:
    """A map [ny, nx] on the fine cells, or its means on coarser ones."""
    if values is None:
        return None
    factor = math.ceil(values.shape[0] / shape[0])
    return mean(fitted(torch.from_numpy(values), factor), factor)


def stages(
    flood: Flood, times: list[float], run: Run, tell: Callable[[float], None]
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


def scene_of(
    spec: Any, fine: Elevation, wet_m: float, run: Run, water: list[Water] | None = None
) -> Scene:
    """The water and the maps of a spec, settled on a fine terrain.

    Args:
        spec: with water, solver, duration and, where its kind has them, maps.
        fine: the terrain.
        wet_m: depth that counts as wet.
        run: that knows the bytes of the maps.
        water: in place of the spec's own.

    Raises:
        SpecError: if a segment or source is off the terrain, or a map is of other cells.
        DataError: if a map cannot be used.
    """
    ny, nx = fine.z.shape
    settled = settle(water or spec.water, fine.z, fine.missing, fine.dx)
    extent = Extent(ny * fine.dx, nx * fine.dx)
    maps = rasters.maps_of(spec, fine, run)
    return Scene(settled, extent, spec.solver, wet_m, spec.duration_s, run.device, maps)
