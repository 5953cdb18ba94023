"""The fused CPU engine of one flood: its arrays, stepped by compiled code."""

import math

import numpy as np
import torch
from numba import set_num_threads
from torch import Tensor

from models.terrain.solver.cpu import arrays, loop
from models.terrain.solver.cpu.maxima import track
from models.terrain.solver.cpu.tables import subgrid_arrays, table_pitch
from models.terrain.solver.cpu.tile import (
    BUFFER,
    COLUMNS,
    PLANE,
    ROWS,
    SHARE,
    SUBGRID_BUFFER,
    N,
)
from models.terrain.solver.forcing import (
    ChangingRain,
    Forcing,
    RainPiece,
    Series,
    constant,
    integrals_of,
)
from models.terrain.solver.maxima import Maxima
from models.terrain.solver.scheme import FlowState, Ground, Physics, dt_cap
from models.terrain.solver.soil import Soil
from models.terrain.solver.subgrid import depth_over_lowest
from models.terrain.solver.time_stepping import Totals, UnstableError

UNBOUNDED = 2**62


class FusedFlood:
    """One flood in float32 on the CPU, several steps a call.

    Args:
        ground: of one sample, float32; bed near 0 on the average.
        forcing: water entering.
        physics: with a dry rule (``h_dry`` > 0); without the authors' terms.
        start: initial state; None: dry.
        threads: number of threads; tiles are distributed among them.
        wet_m: depth in m above which a cell counts as reached; None: peaks and arrivals are not
            tracked.
        carry: whether what rounding leaves over is carried from step to step.

    Raises:
        ValueError: if ``physics`` has no dry rule or the authors' terms.
    """

    def __init__(
        self,
        ground: Ground,
        forcing: Forcing,
        physics: Physics,
        start: FlowState | None = None,
        threads: int = 1,
        wet_m: float | None = None,
        *,
        carry: bool = True,
    ) -> None:
        if physics.h_dry <= 0 or physics.authors_terms:
            raise ValueError("the fused engine needs h_dry > 0 and not the authors' terms")
        ny, nx = ground.z.shape[1:]
        self.layout = _tile_layout(ny, nx, _entries(ground))
        self.constants = _scheme_constants(ground.dx, forcing, physics, wet_m)
        self.threads, self._grid = threads, ground.subgrid
        self._stack = forcing.stack
        self._piece: RainPiece | None = None
        self.arrays = _flow_arrays(ground, forcing, self.layout, threads, wet_m is not None)
        if not carry:
            self.arrays = self.arrays._replace(remainder=np.empty(0, np.float32))
        if start is not None:
            wide = (start.h, _widened(start.qx, 2), _widened(start.qy, 1))
            self.put(np.stack([_flat(field) for field in wide]), 0.0)
            if wet_m is not None:
                self.arrays.peak[:] = _flat(start.h)
                self.arrays.arrival[self.arrays.peak > np.float32(wet_m)] = 0

    def advance(self, until: float, max_steps: int = UNBOUNDED) -> bool:
        """Step to time ``until`` in s, at most ``max_steps``; whether it was reached.

        Raises:
            UnstableError: if water is NaN, infinite or beyond all bounds.
        """
        last, why, reached = self.totals.steps + max_steps, loop.DONE, -np.inf
        while why == loop.DONE and reached < until:
            reached = until if self._stack is None else min(until, self._begin_piece())
            why = self._advance(reached, min(last - self.totals.steps, UNBOUNDED))
        if why == loop.UNSTABLE:
            totals = self.totals
            raise UnstableError(
                f"the simulation blew up in step {totals.steps} at {totals.t:.1f} s",
                hint="raise manning, set solver.froude to 1, or leave the limiter on",
            )
        return why == loop.DONE

    def _advance(self, until: float, max_steps: int) -> int:
        """Step with constant rain fields; why the loop ended."""
        if self.threads > 1:
            set_num_threads(self.threads)
            return loop.advance_together(self.arrays, self.layout, self.constants, until, max_steps)
        return loop.advance_alone(self.arrays, self.layout, self.constants, until, max_steps)

    def _begin_piece(self) -> float:
        """Put the rain that falls from now on in place; until when it does, s."""
        assert self._stack is not None  # noqa: S101  # of the caller
        piece = self._stack.at(float(self.arrays.clock[0]))
        if piece is not self._piece:
            self._piece = piece
            self.constants = self.constants._replace(rain_most=piece.most)
            self.arrays.rain[:] = np.concatenate([_flat(field.rate) for field in piece.fields])
            weights = [field.weight for field in reversed(piece.fields)]
            for column, values in _series_columns(weights).items():
                getattr(self.arrays, column)[-len(values) :] = values
        return piece.until

    def _depth_over_lowest(self, h: np.ndarray) -> np.ndarray:
        assert self._grid is not None  # noqa: S101  # called with a subgrid alone
        shape = (1, self.layout.ny, self.layout.nx)
        return depth_over_lowest(torch.from_numpy(h).view(shape), self._grid).numpy().reshape(-1)

    @property
    def totals(self) -> Totals:
        """Time, steps and the volumes that entered and left."""
        t, steps, entered, held = self.arrays.clock[:4]
        left, soaked = held + self.arrays.lost.sum(), self.arrays.taken.sum()
        area = self.constants.dx**2
        return Totals(float(t), int(steps), float(entered), float(left), float(soaked) * area)

    @property
    def infiltrated(self) -> Tensor | None:
        """Depth that went into the ground in m [ny, nx], float64; None where none does."""
        taken = self.arrays.taken
        if not taken.size:
            return None
        return torch.from_numpy(taken.copy()).view(self.layout.ny, self.layout.nx)

    @property
    def volume(self) -> float:
        """Water on the grid in m3, what rounding left over included."""
        layout, area = self.layout, self.constants.dx**2
        depth = float(self._field(self.arrays.h).sum(dtype=torch.float64))
        if not self.arrays.remainder.size:
            return depth * area
        tiles = (layout.down, layout.across, layout.tile_rows, layout.pitch)
        remainder = self.arrays.remainder.reshape(tiles)[..., : layout.tile_columns].transpose(
            0, 2, 1, 3
        )
        remainder = remainder.reshape(layout.down * layout.tile_rows, -1)[: layout.ny, : layout.nx]
        return (depth + float(remainder.sum(dtype=np.float64))) * area

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]; a copy."""
        return self._field(self.arrays.h).clone()

    @property
    def state(self) -> FlowState:
        """Depth and discharges; copies."""
        qx, qy = self._field(self.arrays.qx), self._field(self.arrays.qy)
        return FlowState(self.depth, qx[:, :, :-1].clone(), qy[:, :-1].clone())

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [ny, nx]."""
        return torch.from_numpy(self.arrays.peak.copy()).view(self.layout.ny, self.layout.nx)

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first became wet, inf if it never did [ny, nx]."""
        return torch.from_numpy(self.arrays.arrival.copy()).view(self.layout.ny, self.layout.nx)

    def flow_at(self, rows: list[int], columns: list[int]) -> FlowState:
        """Depths of some cells, discharges through their right and lower faces, each [k]."""
        fields = (self.arrays.h, self.arrays.qx, self.arrays.qy)
        return FlowState(*(self._field(both)[0, rows, columns] for both in fields))

    def track(self, maxima: Maxima) -> None:
        """Take the present state into account in ``maxima``."""
        if maxima.subgrid is not None:
            maxima.update(self.state, self.totals.t)
            return
        dt, fields = maxima.since(self.totals.t), [field.numpy() for field in maxima.fields]
        track(self.arrays, self.layout, np.float32(maxima.wet_m), np.float32(dt), *fields)

    def _field(self, both: np.ndarray) -> Tensor:
        cells, now = self.layout.ny * self.layout.nx, int(self.arrays.clock[4])
        current = torch.from_numpy(both[now * cells : (now + 1) * cells])
        return current.view(1, self.layout.ny, self.layout.nx)

    @property
    def over_lowest(self) -> np.ndarray | None:
        """Depths over the lowest heights in m [cells], a copy; None without a subgrid."""
        return self._field(self.arrays.d).numpy().reshape(-1).copy() if self.arrays.d.size else None

    def put(self, fields: np.ndarray, t: float, over_lowest: np.ndarray | None = None) -> None:
        """Set the state: depth and padded discharges [3, cells] at time ``t`` in s.

        Depths over the lowest heights of a subgrid are looked up where they are not given; the
        compiled steps round otherwise.
        """
        cells = self.layout.ny * self.layout.nx
        for both, field in zip(
            (self.arrays.h, self.arrays.qx, self.arrays.qy), fields, strict=True
        ):
            both[:cells], both[cells:] = field, field
        deepest = fields[0]
        if self.arrays.d.size:
            looked_up = over_lowest is None
            deepest = self._depth_over_lowest(fields[0]) if looked_up else over_lowest
            self.arrays.d[:cells], self.arrays.d[cells:] = deepest, deepest
        self.arrays.max_depth_bits[:] = deepest.max().view(np.int32)
        self.arrays.edge_wet[:], self.arrays.age[:], self.arrays.remainder[:] = 1, 0, 0
        self.arrays.clock[0] = t


def _entries(ground: Ground) -> int:
    return 0 if ground.subgrid is None else ground.subgrid.storage.shape[-1]


def _widened(q: Tensor, axis: int) -> Tensor:
    shape = list(q.shape)
    shape[axis] = 1
    return torch.cat([q, q.new_zeros(shape)], axis)


def _tile_layout(ny: int, nx: int, entries: int) -> arrays.TileLayout:
    down, across = math.ceil(ny / ROWS), math.ceil(nx / COLUMNS)
    rows, columns = math.ceil(ny / down), math.ceil(nx / across)
    counts, pitch = (math.ceil(ny / rows), math.ceil(nx / columns)), math.ceil(columns / 16) * 16
    return arrays.TileLayout(ny, nx, rows, columns, *counts, pitch, table_pitch(nx), entries)


def _scheme_constants(
    dx: float, forcing: Forcing, physics: Physics, wet_m: float | None
) -> arrays.SchemeConstants:
    return arrays.SchemeConstants(
        dx=float(dx),
        gravity=physics.gravity,
        theta=physics.theta,
        eps=physics.eps,
        h_dry=physics.h_dry,
        froude=physics.froude or 0.0,
        limited=physics.limiter,
        courant=physics.courant,
        reference_cfl=physics.cfl == "reference",
        h_floor=physics.h_floor,
        dt_cap=dt_cap(dx, physics),
        wet_m=wet_m or 0.0,
        rain_most=1.0 if forcing.rain_map is None else float(forcing.rain_map.max()),
    )


def _empty(cells: int, stack: ChangingRain) -> np.ndarray:
    return np.zeros(stack.count * cells, np.float32)


def _flat(field: Tensor | None) -> np.ndarray:
    if field is None:
        return np.empty(0, np.float32)
    return np.ascontiguousarray(field.detach().float().numpy()).reshape(-1)


def _flow_arrays(
    ground: Ground, forcing: Forcing, layout: arrays.TileLayout, threads: int, track_peaks: bool
) -> arrays.FlowArrays:
    cells, tiles = layout.ny * layout.nx, layout.down * layout.across
    n = ground.manning
    held = np.flatnonzero(np.isfinite(_flat(ground.level)))
    return arrays.FlowArrays(
        z=_flat(ground.z),
        n=_flat(n) if isinstance(n, Tensor) else np.array([n], np.float32),
        drain=_flat(ground.drain),
        h=np.zeros(2 * cells, np.float32),
        qx=np.zeros(2 * cells, np.float32),
        qy=np.zeros(2 * cells, np.float32),
        remainder=np.zeros(tiles * layout.tile_rows * layout.pitch, np.float32),
        **subgrid_arrays(ground.subgrid, layout),
        rain=_flat(forcing.rain_map) if forcing.stack is None else _empty(cells, forcing.stack),
        **_soil(ground.soil),
        peak=np.zeros(cells if track_peaks else 0, np.float32),
        arrival=np.full(cells if track_peaks else 0, np.inf, np.float32),
        **_inlets(forcing, layout.nx, ground.dx),
        held=held,
        level=_flat(ground.level)[held] if len(held) else np.empty(0, np.float32),
        level_series=_level_series(forcing, held, layout.nx),
        held_tiles=np.unique(
            held // layout.nx // layout.tile_rows * layout.across
            + held % layout.nx // layout.tile_columns
        ),
        drains=_drains(ground.drain, layout),
        max_depth_bits=np.zeros((2, tiles), np.int32),
        edge_wet=np.zeros((2, tiles, 4), np.uint8),
        age=np.zeros(tiles, np.int64),
        lost=np.zeros(tiles),
        clock=np.zeros(5),
        work=_work(threads, n, BUFFER if ground.subgrid is None else SUBGRID_BUFFER),
    )


def _soil(soil: Soil | None) -> dict[str, np.ndarray]:
    if soil is None:
        names = ("conductivity", "suction", "deficit", "taken")
        return {name: np.empty(0, np.float64 if name == "taken" else np.float32) for name in names}
    return {
        "conductivity": _flat(soil.conductivity),
        "suction": _flat(soil.suction),
        "deficit": _flat(soil.deficit),
        "taken": np.zeros(soil.conductivity.numel()),
    }


def _work(threads: int, manning: Tensor | float, size: int) -> np.ndarray:
    """Tile buffers [threads, size], with the planes filled that most tiles do not overwrite."""
    work = np.zeros((threads, size), np.float32)
    if not isinstance(manning, Tensor):
        work[:, N : N + PLANE] = manning
    work[:, SHARE : SHARE + PLANE] = 1
    return work


def _inlets(forcing: Forcing, nx: int, dx: float) -> dict[str, np.ndarray]:
    cells, gain, index = [], [], []
    for k, inlet in enumerate(forcing.inlets):
        cells += [row * nx + column for row, column in zip(inlet.rows, inlet.columns, strict=True)]
        gain += [1 / (len(inlet.rows) * dx * dx)] * len(inlet.rows)
        index += [k] * len(inlet.rows)
    order = np.argsort(np.array(cells, np.int64), kind="stable")
    rain = [constant(0.0) if forcing.rain is None else forcing.rain]
    if forcing.stack is not None:  # written anew for every piece
        rain = [Series((0.0, 1.0), (0.0, 0.0))] * forcing.stack.count
    levels = [level.series for level in forcing.levels]
    series = [*(inlet.series for inlet in forcing.inlets), *levels, *rain]
    return {
        "inlet_cells": np.array(cells, np.int64)[order],
        "inlet_gain": np.array(gain, np.float64)[order],
        "series": np.array(index, np.int64)[order],
        "starts": np.cumsum([0, *(len(times) for times, _ in series)]),
        **_series_columns(series),
    }


def _series_columns(series: list[Series]) -> dict[str, np.ndarray]:
    """Times, values and integrals of several series, one after the other."""
    return {
        "times": np.concatenate([np.array(times, np.float64) for times, _ in series]),
        "values": np.concatenate([np.array(values, np.float64) for _, values in series]),
        "integrals": np.concatenate([np.array(integrals_of(one), np.float64) for one in series]),
    }


def _level_series(forcing: Forcing, held: np.ndarray, nx: int) -> np.ndarray:
    """For each held cell the index of its series, which follow those of the inlets; -1: none."""
    index = np.full(len(held), -1, np.int64)
    for k, level in enumerate(forcing.levels, len(forcing.inlets)):
        cells = np.array(level.rows, np.int64) * nx + np.array(level.columns, np.int64)
        index[np.isin(held, cells)] = k
    return index


def _drains(drain: Tensor | None, layout: arrays.TileLayout) -> np.ndarray:
    """Whether an outlet is in a tile or next to it, of each tile [tiles]."""
    has_outlet = np.zeros((layout.down, layout.across), np.uint8)
    if drain is not None:
        for row, column in (drain[0] > 0).nonzero().tolist():
            for i in (row - 1, row, row + 1):
                for j in (column - 1, column, column + 1):
                    if 0 <= i < layout.ny and 0 <= j < layout.nx:
                        has_outlet[i // layout.tile_rows, j // layout.tile_columns] = 1
    return has_outlet.reshape(-1)
