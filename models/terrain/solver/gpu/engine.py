"""The fused GPU engine of a batch of floods: padded fields, and stepping them without the host.

Every sample has its own clock; the length of a step is worked out on the device, and blocks of
steps are recorded as CUDA graphs. The programs are in :mod:`models.terrain.solver.gpu.step`.
"""

import math

import torch
from torch import Tensor

from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.layout import LEFT, PAD, Tuning, Worlds, layout, worlds_of
from models.terrain.solver.scheme import Ground, Physics, State, dt_cap
from models.terrain.solver.time_stepping import Totals, UnstableError

WALL_M = 1e6
GRAPH_STEPS = 32
LIMIT_PROGRAMS = 528  # four a multiprocessor of an H100; each takes tile after tile
UNBOUNDED = 2**62


def can_run(ground: Ground, forcing: Forcing, physics: Physics) -> bool:
    """Whether this engine knows all that a flood needs."""
    plain = ground.level is None and forcing.rain_map is None and physics.froude is None
    return plain and physics.h_dry > 0 and not physics.authors_outflow


class GpuFlood:
    """A batch of floods in float32 on a GPU.

    Args:
        ground: of all samples, on the device; bed near 0 on the average.
        forcings: of each sample; or their table, made by :func:`worlds_of`.
        physics: with a dry rule; no Froude cap.
        start: state to begin with; None: dry.
        wet_m: depth that counts as arrived; None: peaks and arrivals are not kept.
        slots: states that are kept; 2, or one more than the steps of a tape.
        tuning: how the programs are cut.
    """

    def __init__(
        self,
        ground: Ground,
        forcings: list[Forcing] | Worlds,
        physics: Physics,
        start: State | None = None,
        wet_m: float | None = None,
        slots: int = 2,
        tuning: Tuning = Tuning(),  # noqa: B008  # immutable
    ) -> None:
        every = forcings if isinstance(forcings, list) else [Forcing()]
        if not all(can_run(ground, forcing, physics) for forcing in every):
            raise ValueError("the GPU engine has no held levels, rain maps or Froude caps")
        batch, ny, nx = ground.z.shape
        self.device, self.physics, self.dx = ground.z.device, physics, float(ground.dx)
        self.layout, self.tuning, self.slots = layout(batch, ny, nx, tuning), tuning, slots
        self.noting, self.tape = wet_m is not None, slots > 2
        self.lazy = tuning.lazy and not self.tape
        self.numbers = _numbers(ground, physics, wet_m or 0.0, self.device)
        self.states = torch.zeros(slots, 3, *self.layout.shape, device=self.device)
        # rows begin at multiples of 16 bytes, else Triton compiles a second program for odd ones
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
        self.lost = self._tiles(torch.float64)
        self._ground(ground)
        self.has_drain = ground.drain is not None
        if isinstance(forcings, list):
            forcings = worlds_of(ground.drain, forcings, self.layout, self.dx)
        self.worlds = Worlds(*(table.to(self.device) for table in forcings))
        self.peaks = self._padded(0.0) if self.noting else self.z
        self.arrivals = self._padded(math.inf) if self.noting else self.z
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        if start is not None:
            self.put(start)

    def _tiles(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(self.layout.batch, self.layout.tiles, dtype=dtype, device=self.device)

    def _padded(self, value: float) -> Tensor:
        return torch.full(self.layout.shape, value, device=self.device)

    def _ground(self, ground: Ground) -> None:
        """Bed between walls, and roughness."""
        self.z = self._padded(WALL_M)
        self.set_bed(ground.z)
        self.rough = isinstance(ground.manning, Tensor)
        self.n = self._padded(1.0) if self.rough else torch.ones(1, device=self.device)
        inner = self.layout.inner(self.n) if self.rough else self.n
        inner.copy_(torch.as_tensor(ground.manning))

    def take(self, worlds: Worlds, index: Tensor) -> None:
        """Other surroundings: rows ``index`` [b] of a table as wide as the flood's own."""
        for mine, theirs in zip(self.worlds, worlds, strict=True):
            mine.copy_(theirs[index])

    def set_bed(self, z: Tensor) -> None:
        """Other heights [b, ny, nx] in m on the same grid."""
        self.layout.inner(self.z).copy_(z.detach())

    def put(self, state: State, t: float = 0.0) -> None:
        """Go on from a state [b, ...] at time t in s."""
        lay, first = self.layout, self.states[0]
        first.zero_()
        lay.inner(first[0]).copy_(state.h)
        lay.inner(first[1])[..., :-1].copy_(state.qx)
        lay.inner(first[2])[..., :-1, :].copy_(state.qy)
        self.restart(t)

    def restart(self, t: float | Tensor = 0.0) -> None:
        """Take the first slot, as it is, for the state at time t in s."""
        deepest = self.layout.by_tile(self.states[0, 0]).flatten()
        self.deepest[0, : len(deepest)].copy_(deepest)
        self.t.copy_(torch.as_tensor(t)), self.age.zero_(), self.bad.zero_(), self.short.zero_()

    def clear(self) -> None:
        """Dry ground at time 0, nothing entered or left."""
        self.states[0].zero_(), self.states[-1].zero_()
        self.entered.zero_(), self.steps.zero_(), self.lost.zero_()
        self.restart()

    def advance(self, until: float, max_steps: int = UNBOUNDED) -> bool:
        """Step all samples to ``until`` in s, or about so many steps; whether they are there.

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
        if self.noting:
            self._note()
        return True

    def aim(self, until: float) -> None:
        """Set the target time, and the first step towards it."""
        self.until.fill_(until)
        self.dts[0].zero_()
        self._clock(0, 0)

    def arrived(self) -> bool:
        """Whether every sample is at its target.

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
        """So many steps from slot ``first`` on; a graph from the second time on."""
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

        lay, tuning, p = self.layout, self.tuning, self.physics
        grid = (lay.tiles, lay.batch)
        sizes = (lay.batch * lay.rows * lay.pitch, lay.rows, lay.pitch, LEFT, PAD, lay.ny, lay.nx)
        cut = {"BY": lay.tile[0], "BX": lay.tile[1], "num_warps": tuning.warps}
        kinds = {"ROUGH": self.rough, "LOG": tuning.log, "DRAIN": self.has_drain}
        fields = (self.states[old], self.states[new], self.z, self.n, *self.worlds[-2:])
        mending = (self.shares, self.short, self.marks, self.queue)
        step.sweep[grid](
            *fields, self.deepest[new], self.awake, *mending, self.lost,
            self.peaks, self.arrivals, self.dts[old], self.rains, self.t, self.numbers, *sizes,
            lay.down, lay.across, backwards if tuning.turning else 0, LIMITED=p.limiter,
            LAZY=self.lazy, NOTE=self.noting, ALIGNED=tuning.aligned, **cut, **kinds,
        )  # fmt: skip
        if p.limiter:
            step.limit[(min(lay.tiles * lay.batch, LIMIT_PROGRAMS),)](
                *fields, self.deepest[new], *mending, self.dts[old], self.rains, self.numbers,
                *sizes, lay.down, lay.across, **cut, **kinds,
            )  # fmt: skip

    def _clock(self, old: int, new: int) -> None:
        from models.terrain.solver.gpu import clock

        lay, worlds = self.layout, self.worlds
        _, count, points = worlds.moments.shape
        lay, worlds = self.layout, self.worlds
        _, count, points = worlds.moments.shape
        block = min(8192, max(64, 2 ** math.ceil(math.log2(lay.tiles))))
        clock.clock[(lay.batch,)](
            self.states[new, 0], self.deepest[new], self.awake, self.age, self.queue,
            *worlds[:-2], self.dts[old], self.dts[new],
            self.rains, self.t, self.until, self.steps, self.entered, self.bad, self.numbers,
            lay.down, lay.across, lay.rows * lay.pitch, CELLS=worlds.cells.shape[1],
            SERIES=count, POINTS=points, BLOCK=block, AUTHORS=self.physics.cfl == "reference",
            LAZY=self.lazy, num_warps=4 if block <= 1024 else 16,
        )  # fmt: skip

    def _note(self) -> None:
        """Peaks and arrivals of the last state; steps note the state before them."""
        h, wet_m, t = self.states[0, 0], self.numbers[5].float(), self.t.float()[:, None, None]
        torch.maximum(self.peaks, h, out=self.peaks)
        self.arrivals.copy_(torch.where((h > wet_m) & self.arrivals.isinf(), t, self.arrivals))

    @property
    def totals(self) -> list[Totals]:
        """Of each sample: where it is, what went in and out."""
        rows = torch.stack([self.t, self.steps.double(), self.entered, self.lost.sum(1)], 1)
        return [Totals(t, int(steps), into, out) for t, steps, into, out in rows.tolist()]

    @property
    def depth(self) -> Tensor:
        """Depth in m [b, ny, nx]; a copy."""
        return self.layout.inner(self.states[0, 0]).clone()

    @property
    def state(self) -> State:
        """Depth and discharges; copies."""
        h, qx, qy = (self.layout.inner(field) for field in self.states[0])
        return State(h.clone(), qx[..., :-1].clone(), qy[..., :-1, :].clone())

    @property
    def peak(self) -> Tensor:
        """Greatest depth so far in m [b, ny, nx]."""
        return self.layout.inner(self.peaks).clone()

    @property
    def arrival(self) -> Tensor:
        """Time in s at which a cell first was wet, inf where it never was [b, ny, nx]."""
        return self.layout.inner(self.arrivals).clone()


def _numbers(ground: Ground, physics: Physics, wet_m: float, device: torch.device) -> Tensor:
    """Constants in the order of :func:`models.terrain.solver.gpu.step.sweep` and ``clock``."""
    _, ny, nx = ground.z.shape
    cap = min(dt_cap(ground.dx, physics), 1e300)
    numbers = (
        ground.dx, physics.gravity, physics.theta, physics.eps, physics.h_dry, wet_m,
        physics.courant, physics.h_floor, cap, ground.dx**2, ny * nx,
    )  # fmt: skip
    return torch.tensor(numbers, dtype=torch.float64, device=device)
