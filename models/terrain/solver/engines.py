"""Floods on the engine that supports them: reference step, compiled CPU engine, GPU."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from models.core.run import Run
from models.terrain.dem import rasters
from models.terrain.dem.pooling import mean, pad_to_multiple
from models.terrain.dem.rasters import Elevation, Maps
from models.terrain.solver.boundary import Extent, forcing_of, ground_of, physics_of, resolve_water
from models.terrain.solver.fine_soil import FineSoil, soil_of
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.engine import GpuFlood, can_run
from models.terrain.solver.inputs import given_or_default, placed, with_series
from models.terrain.solver.maxima import Maxima
from models.terrain.solver.rain_stack import FineRain, GridRain, rain_stack
from models.terrain.solver.scheme import FlowState, Ground, Physics, dry
from models.terrain.solver.start import FirstWater, first_water
from models.terrain.solver.subgrid import Subgrid, SubgridTerrain
from models.terrain.solver.time_stepping import BoundaryConditions, Clock, Totals, advance
from models.terrain.solver.voids import Voids, check_water, rain_share
from models.terrain.spec.floods import steps_of
from models.terrain.spec.solver import Solver
from models.terrain.spec.water import Water

TRACKED_STEPS = 32  # between two looks at speeds; a look costs a CPU about two steps
CHUNK_CELL_STEPS = 20_000_000  # between two checks for a stop: a fraction of a second
LOAD_S = 0.6  # to load numba and the compiled engine, from the cache of machine code
STEP_S, CELL_STEP_S = 1.1e-3, 1e-7  # of the reference step on a CPU; compiled: 7e-6, 3e-9


@runtime_checkable
class Flood(Protocol):
    """One flood, on any engine."""

    def advance(self, until: float, max_steps: int) -> bool:
        """Step to time ``until`` in s, at most ``max_steps``; whether it was reached."""
        ...

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]."""
        ...

    @property
    def state(self) -> FlowState:
        """Depth and discharges."""
        ...

    @property
    def volume(self) -> float:
        """Water on the grid in m3, what rounding left over included."""
        ...

    @property
    def totals(self) -> Totals:
        """Time, steps and the volumes that entered and left."""
        ...

    @property
    def infiltrated(self) -> Tensor | None:
        """Depth that went into the ground in m [ny, nx]; None where none does."""
        ...

    def flow_at(self, rows: list[int], columns: list[int]) -> FlowState:
        """Depths of some cells and the discharges through their right and lower faces, each [k].

        The discharge through the right face of the last column is 0, as through the lower face of
        the last row.
        """
        ...

    def track(self, maxima: Maxima) -> None:
        """Take the present state into account in ``maxima``."""
        ...

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [ny, nx]."""
        ...

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first became wet, inf if it never did [ny, nx]."""
        ...


def is_tiny(cells: int, dx: float, duration_s: float, solver: Solver, floods: int = 1) -> bool:
    """Whether the reference step finishes before another engine would have been loaded.

    Args:
        cells: of the grid.
        dx: side of a cell, m.
        duration_s: simulated time, s.
        solver: for the length of a step.
        floods: number of such floods in the job.
    """
    step_s = STEP_S + CELL_STEP_S * cells
    return floods * steps_of(duration_s, dx, solver) * step_s <= LOAD_S


class SingleGpuFlood:
    """One flood on a :class:`GpuFlood`; results are copied to the host."""

    def __init__(self, flood: GpuFlood) -> None:
        self._flood = flood

    def advance(self, until: float, max_steps: int) -> bool:
        """Step to time ``until`` in s, about ``max_steps`` at most; whether it was reached."""
        return self._flood.advance(until, max_steps)

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]."""
        return self._flood.depth.cpu()

    @property
    def state(self) -> FlowState:
        """Depth and discharges."""
        return FlowState(*(field.cpu() for field in self._flood.state))

    def flow_at(self, rows: list[int], columns: list[int]) -> FlowState:
        """Depths of some cells, discharges through their right and lower faces, each [k]."""
        fields = self._flood.states[0]
        return FlowState(*(self._flood.layout.inner(x)[0, rows, columns].cpu() for x in fields))

    def track(self, maxima: Maxima) -> None:
        """Take the present state into account in ``maxima``, on the device."""
        maxima.update(self._flood.state, self.totals.t)

    @property
    def volume(self) -> float:
        """Water on the grid in m3, what rounding left over included."""
        return self._flood.volume[0]

    @property
    def totals(self) -> Totals:
        """Time, steps and the volumes that entered and left."""
        return self._flood.totals[0]

    @property
    def infiltrated(self) -> None:
        """None: this engine has no infiltration."""
        return None

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [ny, nx]."""
        return self._flood.peak[0].cpu()

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first became wet, inf if it never did [ny, nx]."""
        return self._flood.arrival[0].cpu()


class TorchFlood:
    """A flood by the reference step in float64: for the authors' scheme and for tiny floods.

    Attributes:
        peak: greatest depth so far in m [ny, nx].
        arrival: time in s at which a cell first became wet, inf if it never did [ny, nx].
    """

    def __init__(
        self,
        ground: Ground,
        forcing: Forcing,
        physics: Physics,
        wet_m: float,
        start: FlowState | None = None,
    ) -> None:
        doubles = {k: v.double() for k, v in ground._asdict().items() if torch.is_tensor(v)}
        grid = ground.subgrid and ground.subgrid.mapped(Tensor.double)
        self._conditions = (ground._replace(subgrid=grid, **doubles), forcing, physics)
        begin = dry(doubles["z"]) if start is None else start
        self._state = FlowState(*(field.double() for field in begin))
        self._clock, self._wet_m = Clock.start(1), wet_m
        self.peak = begin.h[0].float()
        self.arrival = torch.where(self.peak > wet_m, 0.0, torch.inf)

    def advance(self, until: float, max_steps: int) -> bool:
        """Step to time ``until`` in s, at most ``max_steps``; whether it was reached."""
        last = int(self._clock.steps[0]) + max_steps
        while (t := float(self._clock.t[0])) < until and int(self._clock.steps[0]) < last:
            ground, forcing, physics = self._conditions
            stop = until
            if forcing.stack is not None:
                piece = forcing.stack.at(t)
                forcing, stop = forcing._replace(piece=piece), min(until, piece.until)
            self._state, self._clock = advance(
                self._state, self._clock, ground, forcing, physics, stop,
                last - int(self._clock.steps[0]), self._track_peaks,
            )  # fmt: skip
        return bool(self._clock.t[0] >= until)

    def flow_at(self, rows: list[int], columns: list[int]) -> FlowState:
        """Depths of some cells, discharges through their right and lower faces, each [k]."""
        h, qx, qy = self._state
        wide = torch.nn.functional.pad(qx, (0, 1)), torch.nn.functional.pad(qy, (0, 0, 0, 1))
        return FlowState(*(field[0, rows, columns] for field in (h, *wide)))

    def track(self, maxima: Maxima) -> None:
        """Take the present state into account in ``maxima``."""
        maxima.update(self._state, float(self._clock.t[0]))

    def _track_peaks(self, state: FlowState, clock: Clock) -> None:
        h, t = state.h[0].float(), float(clock.t[0])
        self.peak = torch.maximum(self.peak, h)
        new = (h > self._wet_m) & self.arrival.isinf()
        self.arrival = torch.where(new, t, self.arrival)

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]."""
        return self._state.h.float()

    @property
    def state(self) -> FlowState:
        """Depth and discharges, float64."""
        return self._state

    @property
    def volume(self) -> float:
        """Water on the grid in m3."""
        return float(self._state.h.sum()) * self._conditions[0].dx ** 2

    @property
    def totals(self) -> Totals:
        """Time, steps and the volumes that entered and left."""
        t, steps, entered, left = (float(x[0]) for x in self._clock)
        gone = self.infiltrated
        soaked = 0.0 if gone is None else float(gone.sum()) * self._conditions[0].dx ** 2
        return Totals(t, int(steps), entered, left, soaked)

    @property
    def infiltrated(self) -> Tensor | None:
        """Depth that went into the ground in m [ny, nx], float64; None where none does."""
        soil = self._conditions[0].soil
        return None if soil is None else soil.taken[0]


class Scenario(NamedTuple):
    """Everything a flood needs besides the heights: resolved water, extent, solver, maps, voids.

    ``by_reference``: all its floods, fine and coarse, take the reference step; else none does.
    ``start``: the water at 0 s; None: none. ``stack``: rain in time and space. ``soil``: None:
    nothing goes into the ground.
    """

    water: list[Water]
    extent: Extent
    solver: Solver
    wet_m: float
    duration_s: float
    device: str = "cpu"
    maps: Maps = Maps()
    voids: Voids | None = None
    by_reference: bool = False
    start: FirstWater | None = None
    stack: FineRain | None = None
    soil: FineSoil | None = None

    def boundary_conditions(
        self, bed: Tensor, datum: float, dx: float, grid: Subgrid | None = None
    ) -> BoundaryConditions:
        """Boundary conditions of a bed [1, ny, nx] over ``datum`` m; maps are pooled to it.

        Args:
            bed: heights; with a subgrid the lowest fine ones.
            datum: m.
            dx: side of a cell, m.
            grid: tables of the cells, over ``datum``.
        """
        shape = (bed.shape[1], bed.shape[2])
        manning = _on(self.maps.manning, shape)
        ground = ground_of(bed, datum, self.water, self.extent, dx, self.solver, manning)
        ground = ground._replace(subgrid=grid)
        forcing = forcing_of(self.water, self.extent, shape, dx, datum)
        forcing = forcing._replace(rain_map=_on(self.maps.rain, shape))
        if self.stack is not None:
            grid_rain = GridRain(self.stack, lambda rate: _pooled(rate, shape))
            forcing = forcing._replace(rain_map=None, stack=grid_rain)
        if self.soil is not None:
            soil = self.soil.on(lambda field: _pooled(field, shape))
            held = None if ground.level is None else torch.isfinite(ground.level[0])
            ground = ground._replace(soil=soil if held is None else soil.without(held))
        if self.voids is not None:
            ground, forcing = self.voids.applied(ground, forcing)
        return BoundaryConditions(ground, forcing)

    def open(
        self,
        z: np.ndarray,
        dx: float,
        *,
        coarse: bool = False,
        subgrid: SubgridTerrain | None = None,
    ) -> Flood:
        """A flood at 0 s on heights ``z`` [ny, nx] in m with cells of ``dx`` m, or on a subgrid."""
        datum, tables = float(z.mean()), None
        bed = torch.from_numpy(z - np.float32(datum))[None].float().contiguous()
        if subgrid is not None:
            bed, tables, _ = subgrid.over(datum)
        ground, forcing = self.boundary_conditions(bed, datum, dx, tables)
        physics = physics_of(self.solver, coarse=coarse)
        begin = None if self.start is None else self.start.on(z, subgrid)
        if self.by_reference:
            return TorchFlood(ground, forcing, physics, self.wet_m, begin)
        if self.device.startswith("cuda") and can_run(ground, forcing, physics):
            moved = {
                k: v.to(self.device) for k, v in ground._asdict().items() if torch.is_tensor(v)
            }
            on_device = ground._replace(**moved)
            if begin is not None:
                begin = FlowState(*(field.to(self.device) for field in begin))
            return SingleGpuFlood(GpuFlood(on_device, [forcing], physics, begin, self.wet_m))
        from models.terrain.solver.cpu.engine import FusedFlood  # loading numba takes a second

        threads = min(torch.get_num_threads(), max(1, z.size // 65_536))
        return FusedFlood(ground, forcing, physics, begin, threads, self.wet_m)


def _on(values: np.ndarray | None, shape: tuple[int, int]) -> Tensor | None:
    """A map [ny, nx] on the fine cells, or its means on coarser ones."""
    return None if values is None else _pooled(values, shape)


def _pooled(values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Means of a field [ny, nx] on the fine cells over those of a grid."""
    factor = math.ceil(values.shape[0] / shape[0])
    return mean(pad_to_multiple(torch.from_numpy(values), factor), factor)


def advance_to_times(
    flood: Flood,
    times: list[float],
    run: Run,
    on_progress: Callable[[float], None],
    maxima: Maxima | None = None,
) -> Iterator[float]:
    """Step from output time to output time, and yield each one.

    Args:
        flood: to step.
        times: output times, s, increasing.
        run: checked for a stop between chunks of steps.
        on_progress: called with the simulated time in s.
        maxima: kept at the start, every ``TRACKED_STEPS`` steps and at the output times; no step is
            shortened for it.

    Raises:
        StoppedError: if a stop was requested.
        UnstableError: if the flood blows up.
    """
    cells = flood.depth[0].numel()
    chunk = max(1, CHUNK_CELL_STEPS // cells)
    if maxima is not None:
        chunk = min(chunk, TRACKED_STEPS)
        flood.track(maxima)
    for until in times:
        run.check_stop()
        reached = False
        while not reached:
            reached = flood.advance(until, chunk)
            if maxima is not None:
                flood.track(maxima)
            on_progress(flood.totals.t)
            run.check_stop()
        yield until


def scenario_of(
    spec: Any,
    fine: Elevation,
    wet_m: float,
    run: Run,
    water: list[Water] | None = None,
    floods: int = 1,
) -> Scenario:
    """The water and the maps of a spec, resolved on a fine terrain.

    Args:
        spec: with water, solver, duration and, where its kind has them, maps.
        fine: the terrain.
        wet_m: depth that counts as wet.
        run: gives access to the files of the maps.
        water: used instead of the spec's own.
        floods: number of floods in the job, which together decide if it is tiny.

    Raises:
        SpecError: if a segment or source is off the terrain or where it has no height, or a map
            is of other cells.
        DataError: if a map cannot be used.
    """
    ny, nx = fine.z.shape
    given = given_or_default(spec, fine, run) if water is None else water
    whole = placed(with_series(given, run), fine)
    resolved = resolve_water(whole, fine.z, fine.missing, fine.dx)
    extent = Extent(ny * fine.dx, nx * fine.dx)
    maps, voids = rasters.maps_of(spec, fine, run), None
    if fine.missing.any():
        voids = Voids(fine.missing, getattr(spec, "nodata_cells", "wall"))
        check_water(resolved, fine.missing, extent, fine.dx, run)
        maps = maps._replace(rain=rain_share(resolved, maps.rain, fine.missing))
    solver, duration_s = spec.solver, spec.duration_s
    tiny = is_tiny(fine.z.size, fine.dx, duration_s, solver, floods)
    by_reference = solver.reference_mode or tiny
    start = first_water(getattr(spec, "start", None), fine, run)
    stack = rain_stack(resolved, fine, run, maps.rain)
    soil = soil_of(getattr(spec, "infiltration", None), fine, run)
    return Scenario(
        resolved, extent, solver, wet_m, duration_s, run.device, maps, voids, by_reference, start,
        stack, soil,
    )  # fmt: skip
