"""The fused CPU engine of one flood: its arrays, and stepping them without the interpreter."""

import math

import numpy as np
import torch
from numba import set_num_threads
from torch import Tensor

from models.terrain.solver.cpu import arrays, loop
from models.terrain.solver.cpu.tile import BUFFER, COLUMNS, PLANE, ROWS, SHARE, N
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.scheme import Ground, Physics, State, dt_cap
from models.terrain.solver.time_stepping import Totals, UnstableError

UNBOUNDED = 2**62


class FusedFlood:
    """One flood in float32 on the CPU, several steps a call.

    Args:
        ground: of one sample, float32; bed near 0 on the average.
        forcing: water entering.
        physics: with a dry rule (``h_dry`` > 0); not the authors' outflow.
        start: state to begin with; None: dry.
        threads: that share the tiles.
        wet_m: depth that counts as arrived; None: peaks and arrivals are not kept.
    """

    def __init__(
        self,
        ground: Ground,
        forcing: Forcing,
        physics: Physics,
        start: State | None = None,
        threads: int = 1,
        wet_m: float | None = None,
    ) -> None:
        if physics.h_dry <= 0 or physics.authors_outflow:
            raise ValueError("the fused engine needs h_dry > 0 and Manning's outflow")
        ny, nx = ground.z.shape[1:]
        self.shape = _shape(ny, nx)
        self.numbers = _numbers(ground.dx, physics, wet_m)
        self.threads = threads
        self.grid = _grid(ground, forcing, self.shape, threads, wet_m is not None)
        if start is not None:
            wide = (start.h, _widened(start.qx, 2), _widened(start.qy, 1))
            self.put(np.stack([_flat(field) for field in wide]), 0.0)

    def advance(self, until: float, max_steps: int = UNBOUNDED) -> bool:
        """Step to ``until`` in s, or so many steps; whether it is there.

        Raises:
            UnstableError: if water is NaN, infinite or beyond all bounds.
        """
        limit = min(max_steps, UNBOUNDED)
        if self.threads > 1:
            set_num_threads(self.threads)
            why = loop.advance_together(self.grid, self.shape, self.numbers, until, limit)
        else:
            why = loop.advance_alone(self.grid, self.shape, self.numbers, until, limit)
        if why == loop.UNSTABLE:
            totals = self.totals
            raise UnstableError(
                f"the simulation blew up in step {totals.steps} at {totals.t:.1f} s",
                hint="raise manning, set solver.froude to 1, or leave the limiter on",
            )
        return why == loop.DONE

    @property
    def totals(self) -> Totals:
        """Where the flood is and what went in and out."""
        t, steps, entered, held = self.grid.clock[:4]
        return Totals(float(t), int(steps), float(entered), float(held + self.grid.lost.sum()))

    @property
    def depth(self) -> Tensor:
        """Depth in m [1, ny, nx]; a copy."""
        return self._field(self.grid.h).clone()

    @property
    def state(self) -> State:
        """Depth and discharges; copies."""
        qx, qy = self._field(self.grid.qx), self._field(self.grid.qy)
        return State(self.depth, qx[:, :, :-1].clone(), qy[:, :-1].clone())

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [ny, nx]."""
        return torch.from_numpy(self.grid.peak.copy()).view(self.shape.ny, self.shape.nx)

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first was wet, inf where it never was [ny, nx]."""
        return torch.from_numpy(self.grid.arrival.copy()).view(self.shape.ny, self.shape.nx)

    def _field(self, both: np.ndarray) -> Tensor:
        cells, now = self.shape.ny * self.shape.nx, int(self.grid.clock[4])
        present = torch.from_numpy(both[now * cells : (now + 1) * cells])
        return present.view(1, self.shape.ny, self.shape.nx)

    def put(self, fields: np.ndarray, t: float) -> None:
        """Go on from depth and wide discharges [3, cells] at time t in s."""
        cells = self.shape.ny * self.shape.nx
        for both, field in zip((self.grid.h, self.grid.qx, self.grid.qy), fields, strict=True):
            both[:cells], both[cells:] = field, field
        self.grid.deep[:] = fields[0].max().view(np.int32)
        self.grid.rims[:], self.grid.age[:] = 1, 0
        self.grid.clock[0] = t


def _widened(q: Tensor, axis: int) -> Tensor:
    shape = list(q.shape)
    shape[axis] = 1
    return torch.cat([q, q.new_zeros(shape)], axis)


def _shape(ny: int, nx: int) -> arrays.Shape:
    down, across = math.ceil(ny / ROWS), math.ceil(nx / COLUMNS)
    rows, columns = math.ceil(ny / down), math.ceil(nx / across)
    return arrays.Shape(ny, nx, rows, columns, math.ceil(ny / rows), math.ceil(nx / columns))


def _numbers(dx: float, physics: Physics, wet_m: float | None) -> arrays.Numbers:
    return arrays.Numbers(
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
    )


def _flat(field: Tensor | None) -> np.ndarray:
    if field is None:
        return np.empty(0, np.float32)
    return np.ascontiguousarray(field.detach().float().numpy()).reshape(-1)


def _grid(
    ground: Ground, forcing: Forcing, shape: arrays.Shape, threads: int, noting: bool
) -> arrays.Grid:
    cells, tiles = shape.ny * shape.nx, shape.down * shape.across
    n = ground.manning
    held = np.empty(0, np.int64)
    if ground.level is not None:
        held = np.flatnonzero(np.isfinite(_flat(ground.level)))
    return arrays.Grid(
        z=_flat(ground.z),
        n=_flat(n) if isinstance(n, Tensor) else np.array([n], np.float32),
        drain=_flat(ground.drain),
        h=np.zeros(2 * cells, np.float32),
        qx=np.zeros(2 * cells, np.float32),
        qy=np.zeros(2 * cells, np.float32),
        rain=_flat(forcing.rain_map),
        peak=np.zeros(cells if noting else 0, np.float32),
        arrival=np.full(cells if noting else 0, np.inf, np.float32),
        **_inlets(forcing, shape.nx, ground.dx),
        held=held,
        level=_flat(ground.level)[held] if len(held) else np.empty(0, np.float32),
        held_tiles=np.unique(
            held // shape.nx // shape.tile_rows * shape.across
            + held % shape.nx // shape.tile_columns
        ),
        drains=_drains(ground.drain, shape),
        deep=np.zeros((2, tiles), np.int32),
        rims=np.zeros((2, tiles, 4), np.uint8),
        age=np.zeros(tiles, np.int64),
        lost=np.zeros(tiles),
        clock=np.zeros(5),
        work=_work(threads, n),
    )


def _work(threads: int, manning: Tensor | float) -> np.ndarray:
    """Buffers of tiles with what most tiles leave as it is."""
    work = np.zeros((threads, BUFFER), np.float32)
    if not isinstance(manning, Tensor):
        work[:, N : N + PLANE] = manning
    work[:, SHARE : SHARE + PLANE] = 1
    return work


def _inlets(forcing: Forcing, nx: int, dx: float) -> dict[str, np.ndarray]:
    at, gain, index = [], [], []
    for k, inlet in enumerate(forcing.inlets):
        at += [row * nx + column for row, column in zip(inlet.rows, inlet.columns, strict=True)]
        gain += [1 / (len(inlet.rows) * dx * dx)] * len(inlet.rows)
        index += [k] * len(inlet.rows)
    rain = ((0.0,), (0.0,)) if forcing.rain is None else forcing.rain
    series = [*(inlet.series for inlet in forcing.inlets), rain]
    return {
        "at": np.array(at, np.int64),
        "gain": np.array(gain, np.float64),
        "series": np.array(index, np.int64),
        "starts": np.cumsum([0, *(len(times) for times, _ in series)]),
        "times": np.concatenate([np.array(times, np.float64) for times, _ in series]),
        "values": np.concatenate([np.array(values, np.float64) for _, values in series]),
    }


def _drains(drain: Tensor | None, shape: arrays.Shape) -> np.ndarray:
    """Of each tile, whether an outlet is in it or beside it."""
    found = np.zeros((shape.down, shape.across), np.uint8)
    if drain is not None:
        for row, column in (drain[0] > 0).nonzero().tolist():
            for i in (row - 1, row, row + 1):
                for j in (column - 1, column, column + 1):
                    if 0 <= i < shape.ny and 0 <= j < shape.nx:
                        found[i // shape.tile_rows, j // shape.tile_columns] = 1
    return found.reshape(-1)
