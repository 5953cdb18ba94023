"""The fused GPU engine of a batch of floods: padded fields, stepped without host synchronization.

Every sample has its own clock. The length of a step is computed on the device, and blocks of steps
are recorded as CUDA graphs. The kernels are in :mod:`models.terrain.solver.gpu.step`.
"""

import math

import torch
from torch import Tensor

from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.layout import (
    LEFT,
    PAD,
    BoundaryTables,
    Tuning,
    boundary_tables,
    build_layout,
)
from models.terrain.solver.scheme import FlowState, Ground, Physics, dt_cap
from models.terrain.solver.time_stepping import Totals, UnstableError

WALL_M = 1e6
GRAPH_STEPS = 32
LIMIT_PROGRAMS = 528  # four per multiprocessor of an H100; each processes tiles in a loop
UNBOUNDED = 2**62


def can_run(ground: Ground, forcing: Forcing, physics: Physics) -> bool:
    """Whether this engine supports all features of a flood."""
    plain = ground.level is None and forcing.rain_map is None and physics.froude is None
    plain = plain and ground.subgrid is None and ground.soil is None and forcing.stack is None
    return plain and physics.h_dry > 0 and not physics.authors_terms


class GpuFlood:
    """A batch of floods in float32 on a GPU.

    Args:
        ground: of all samples, on the device; bed near 0 on the average.
        forcings: of each sample, or their tables, made by :func:`boundary_tables`.
        physics: with a dry rule; no Froude cap.
        start: initial state; None: dry.
        wet_m: depth in m above which a cell counts as reached; None: peaks and arrivals are not
            tracked.
        slots: number of states in memory: 2, or one more than the steps of a tape.
        tuning: launch parameters.

    Raises:
        ValueError: if :func:`can_run` refuses the flood.
    """

    def __init__(
        self,
        ground: Ground,
        forcings: list[Forcing] | BoundaryTables,
        physics: Physics,
        start: FlowState | None = None,
        wet_m: float | None = None,
        slots: int = 2,
        tuning: Tuning = Tuning(),  # noqa: B008  # immutable
    ) -> None:
        every = forcings if isinstance(forcings, list) else [Forcing()]
        if not all(can_run(ground, forcing, physics) for forcing in every):
            raise ValueError("the GPU engine has no held levels, rain maps, soil or Froude caps")
        batch, ny, nx = ground.z.shape
        self.device, self.physics, self.dx = ground.z.device, physics, float(ground.dx)
        self.layout, self.tuning, self.slots = build_layout(batch, ny, nx, tuning), tuning, slots
        self.track_peaks, self.tape = wet_m is not None, slots > 2
        self.lazy = tuning.lazy and not self.tape
        self.constants = _constants(ground, physics, wet_m or 0.0, self.device)
        self.states = torch.zeros(slots, 3, *self.layout.shape, device=self.device)
        # rows start at multiples of 16 bytes, else Triton compiles an unaligned variant too
        wide, cells = math.ceil(batch / 2) * 2, math.ceil(batch * self.layout.tiles / 4) * 4
        self.deepest = torch.zeros(slots, cells, device=self.device)
        self.dts = torch.zeros(slots, wide, dtype=torch.float64, device=self.device)
        self.until, self.t, self.rains, self.entered = (
            torch.zeros(batch, dtype=torch.float64, device=self.device) for _ in range(4)
        )
        self.steps = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self.bad = torch.zeros(batch, dtype=torch.int32, device=self.device)
        self.age, self.awake, self.short, self.marks = (self._tiles(torch.int32) for _ in range(4))
        self.queue = torch.zeros(1 + self.marks.numel(), dtype=torch.int32, device=self.device)
        self.shares = self._padded(1.0)
        self.remainders = torch.zeros(2, *(self.layout.shape if not self.tape else (1, 1, 1)))
        self.remainders = self.remainders.to(self.device)
        self.lost = self._tiles(torch.float64)
        self._ground(ground)
        self.has_drain = ground.drain is not None
        if isinstance(forcings, list):
            forcings = boundary_tables(ground.drain, forcings, self.layout, self.dx)
        self.tables = BoundaryTables(*(table.to(self.device) for table in forcings))
        self.peaks = self._padded(0.0) if self.track_peaks else self.z
        self.arrivals = self._padded(math.inf) if self.track_peaks else self.z
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        if start is not None:
            self.put(start)

    def _tiles(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(self.layout.batch, self.layout.tiles, dtype=dtype, device=self.device)

    def _padded(self, value: float) -> Tensor:
        return torch.full(self.layout.shape, value, device=self.device)

    def _ground(self, ground: Ground) -> None:
        """Set the bed between its walls, and the roughness."""
        self.z = self._padded(WALL_M)
        self.set_bed(ground.z)
        self.rough = isinstance(ground.manning, Tensor)
        self.n = self._padded(1.0) if self.rough else torch.ones(1, device=self.device)
        inner = self.layout.inner(self.n) if self.rough else self.n
        inner.copy_(torch.as_tensor(ground.manning))

    def use_boundaries(self, tables: BoundaryTables, index: Tensor) -> None:
        """Copy rows ``index`` [b] of tables of the same width into the flood's own tables."""
        for mine, theirs in zip(self.tables, tables, strict=True):
            mine.copy_(theirs[index])

    def set_bed(self, z: Tensor) -> None:
        """Replace the bed by ``z`` [b, ny, nx] in m on the same grid."""
        self.layout.inner(self.z).copy_(z.detach())

    def put(self, state: FlowState, t: float = 0.0) -> None:
        """Set the state of all samples at time ``t`` in s."""
        layout, first = self.layout, self.states[0]
        first.zero_()
        layout.inner(first[0]).copy_(state.h)
        layout.inner(first[1])[..., :-1].copy_(state.qx)
        layout.inner(first[2])[..., :-1, :].copy_(state.qy)
        self.restart(t)

    def restart(self, t: float | Tensor = 0.0) -> None:
        """Restart from the state in the first slot at time ``t`` in s, a number or [b]."""
        deepest = self.layout.by_tile(self.states[0, 0]).flatten()
        self.deepest[0, : len(deepest)].copy_(deepest)
        self.t.copy_(torch.as_tensor(t)), self.age.zero_(), self.bad.zero_(), self.short.zero_()
        self.remainders.zero_()

    def clear(self) -> None:
        """Reset to dry ground at time 0; totals are zero."""
        self.states[0].zero_(), self.states[-1].zero_()
        self.entered.zero_(), self.steps.zero_(), self.lost.zero_()
        self.restart()

    def advance(self, until: float, max_steps: int = UNBOUNDED) -> bool:
        """Step all samples to ``until`` in s, about ``max_steps`` at most; whether all arrived.

        Raises:
            UnstableError: if water is NaN, infinite or beyond all bounds.
        """
        self.aim(until)
        taken, block = 0, GRAPH_STEPS if self.device.type == "cuda" else 2
        while not self.arrived():
            if taken >= max_steps:
                return False
            self.run(0, block)
            taken += block
        if self.track_peaks:
            self._track_peaks()
        return True

    def aim(self, until: float) -> None:
        """Set the target time in s and compute the first step towards it."""
        self.until.fill_(until)
        self.dts[0].zero_()
        self._clock(0, 0)

    def arrived(self) -> bool:
        """Whether every sample has reached the target time.

        Raises:
            UnstableError: with step and time of one that blew up.
        """
        behind, bad = torch.stack([(self.t < self.until).any(), (self.bad != 0).any()]).tolist()
        if bad:
            k = int(self.bad.nonzero()[0, 0])
            raise UnstableError(
                f"the simulation blew up in step {int(self.steps[k])} at {float(self.t[k]):.1f} s",
                hint="raise manning, set solver.froude to 1, or leave the limiter on",
            )
        return not behind

    def run(self, first: int, count: int) -> None:
        """Take ``count`` steps from slot ``first``; later calls replay a CUDA graph."""
        if self.device.type != "cuda":
            self._steps(first, count)
            return
        key = (first, count)
        if key in self._graphs:
            self._graphs[key].replay()
            return
        self._steps(first, count)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps(first, count)
        self._graphs[key] = graph

    def _steps(self, first: int, count: int) -> None:
        for k in range(first, first + count):
            old, new = (k, k + 1) if self.tape else (k % 2, (k + 1) % 2)
            self._step(old, new, k % 2)
            self._clock(old, new)

    def _step(self, old: int, new: int, backwards: int) -> None:
        from models.terrain.solver.gpu import step  # Triton comes with CUDA builds alone

        layout, tuning, p = self.layout, self.tuning, self.physics
        grid = (layout.tiles, layout.batch)
        sizes = (
            layout.batch * layout.rows * layout.pitch,
            layout.rows,
            layout.pitch,
            LEFT,
            PAD,
            layout.ny,
            layout.nx,
        )
        cut = {"BY": layout.tile[0], "BX": layout.tile[1], "num_warps": tuning.warps}
        kinds = {"ROUGH": self.rough, "LOG": tuning.log, "DRAIN": self.has_drain}
        kinds["CARRY"] = not self.tape
        remainders = self.remainders[old % 2], self.remainders[new % 2]
        fields = (
            self.states[old],
            self.states[new],
            *remainders,
            self.z,
            self.n,
            *self.tables[-2:],
        )
        limiter_buffers = (self.shares, self.short, self.marks, self.queue)
        step.step_tiles[grid](
            *fields, self.deepest[new], self.awake, *limiter_buffers, self.lost,
            self.peaks, self.arrivals, self.dts[old], self.rains, self.t, self.constants, *sizes,
            layout.down, layout.across, backwards if tuning.turning else 0, LIMITED=p.limiter,
            LAZY=self.lazy, PEAKS=self.track_peaks, ALIGNED=tuning.aligned, **cut, **kinds,
        )  # fmt: skip
        if p.limiter:
            step.limit_tiles[(min(layout.tiles * layout.batch, LIMIT_PROGRAMS),)](
                *fields, self.deepest[new], *limiter_buffers, self.dts[old], self.rains,
                self.constants, *sizes, layout.down, layout.across, **cut, **kinds,
            )  # fmt: skip

    def _clock(self, old: int, new: int) -> None:
        from models.terrain.solver.gpu import clock

        layout, tables = self.layout, self.tables
        _, count, points = tables.moments.shape
        block = min(8192, max(64, 2 ** math.ceil(math.log2(layout.tiles))))
        clock.clock[(layout.batch,)](
            self.states[new, 0], self.remainders[new % 2], self.deepest[new], self.awake,
            self.age, self.queue, *tables[:-2], self.dts[old], self.dts[new],
            self.rains, self.t, self.until, self.steps, self.entered, self.bad, self.constants,
            layout.down, layout.across, layout.rows * layout.pitch, CELLS=tables.cells.shape[1],
            SERIES=count, POINTS=points, BLOCK=block, AUTHORS=self.physics.cfl == "reference",
            CARRY=not self.tape, LAZY=self.lazy, num_warps=4 if block <= 1024 else 16,
        )  # fmt: skip

    def _track_peaks(self) -> None:
        """Update peaks and arrivals by the last state; a step tracks the state before it."""
        h, wet_m, t = self.states[0, 0], self.constants[5].float(), self.t.float()[:, None, None]
        torch.maximum(self.peaks, h, out=self.peaks)
        self.arrivals.copy_(torch.where((h > wet_m) & self.arrivals.isinf(), t, self.arrivals))

    @property
    def totals(self) -> list[Totals]:
        """Time, steps and the volumes that entered and left, of each sample."""
        rows = torch.stack([self.t, self.steps.double(), self.entered, self.lost.sum(1)], 1)
        return [Totals(t, int(steps), into, out) for t, steps, into, out in rows.tolist()]

    @property
    def volume(self) -> list[float]:
        """Water on the grid in m3 of each sample, what rounding left over included."""
        depth = self.layout.inner(self.states[0, 0]).sum((1, 2), dtype=torch.float64)
        if not self.tape:
            depth += self.layout.inner(self.remainders[0]).sum((1, 2), dtype=torch.float64)
        return (depth * self.dx**2).tolist()

    @property
    def depth(self) -> Tensor:
        """Depth in m [b, ny, nx]; a copy."""
        return self.layout.inner(self.states[0, 0]).clone()

    @property
    def state(self) -> FlowState:
        """Depth and discharges; copies."""
        h, qx, qy = (self.layout.inner(field) for field in self.states[0])
        return FlowState(h.clone(), qx[..., :-1].clone(), qy[..., :-1, :].clone())

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [b, ny, nx]."""
        return self.layout.inner(self.peaks).clone()

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first became wet, inf if it never did [b, ny, nx]."""
        return self.layout.inner(self.arrivals).clone()


def _constants(ground: Ground, physics: Physics, wet_m: float, device: torch.device) -> Tensor:
    """Constants in the order that the kernels ``step_tiles`` and ``clock`` read."""
    _, ny, nx = ground.z.shape
    cap = min(dt_cap(ground.dx, physics), 1e300)
    numbers = (
        ground.dx, physics.gravity, physics.theta, physics.eps, physics.h_dry, wet_m,
        physics.courant, physics.h_floor, cap, ground.dx**2, ny * nx,
    )  # fmt: skip
    return torch.tensor(numbers, dtype=torch.float64, device=device)
