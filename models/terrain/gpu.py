"""The fused GPU engine of a batch of floods: padded fields, and stepping them without the host.

Every sample has its own clock; the length of a step is worked out on the device, and blocks of
steps are recorded as CUDA graphs. The programs are in :mod:`models.terrain.gpu_step`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.terrain.forcing import Forcing, Series, constant
from models.terrain.scheme import Ground, Physics, State, dt_cap
from models.terrain.stepping import Totals, UnstableError

PAD, LEFT = 4, 32  # rows above and below, columns before a field; walls
WALL_M = 1e6
GRAPH_STEPS = 32
UNBOUNDED = 2**62


class Tuning(NamedTuple):
    """How the programs are cut.

    Attributes:
        down: rows of a tile.
        across: columns of a tile, at most.
        warps: of a program.
        log: the cube root by the chip's logarithm; else by its bits and two steps.
        aligned: a thread has neighbouring cells; else the lanes of a warp do.
        turning: every other step walks the tiles backwards, towards what the cache still holds.
        lazy: dry tiles are left out, where no tape is kept.
    """

    down: int = 8
    across: int = 64
    warps: int = 4
    log: bool = True
    aligned: bool = False
    turning: bool = True
    lazy: bool = True


class Layout(NamedTuple):
    """Where a cell lies in a padded field [batch, rows, pitch]."""

    batch: int
    ny: int
    nx: int
    rows: int
    pitch: int
    down: int  # tiles
    across: int
    tile: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a padded field."""
        return self.batch, self.rows, self.pitch

    @property
    def tiles(self) -> int:
        """Of a sample."""
        return self.down * self.across

    def inner(self, field: Tensor) -> Tensor:
        """The cells of the grid, a view of a padded field."""
        return field[..., PAD : PAD + self.ny, LEFT : LEFT + self.nx]


def layout(batch: int, ny: int, nx: int, tuning: Tuning) -> Layout:
    """Tiles no wider than the grid needs, rows a multiple of 128 bytes."""
    width = min(tuning.across, max(16, 2 ** math.ceil(math.log2(nx))))
    height = min(tuning.down, max(4, 2 ** math.ceil(math.log2(ny))))
    down, across = math.ceil(ny / height), math.ceil(nx / width)
    rows = PAD + down * height + PAD
    pitch = LEFT + math.ceil(across * width / 32) * 32
    return Layout(batch, ny, nx, rows, pitch, down, across, (height, width))


def can_run(ground: Ground, forcing: Forcing, physics: Physics) -> bool:
    """Whether this engine knows all that a flood needs."""
    plain = ground.level is None and forcing.rain_map is None and physics.froude is None
    return plain and physics.h_dry > 0 and not physics.authors_outflow


class Inlets(NamedTuple):
    """Inflow of all samples on the device; see :func:`models.terrain.gpu_step.clock`."""

    cells: Tensor
    tiles: Tensor
    gain: Tensor
    series: Tensor
    moments: Tensor
    values: Tensor


class GpuFlood:
    """A batch of floods in float32 on a GPU.

    Args:
        ground: of all samples, on the device; bed near 0 on the average.
        forcings: of each sample.
        physics: with a dry rule; no Froude cap.
        start: state to begin with; None: dry.
        wet_m: depth that counts as arrived; None: peaks and arrivals are not kept.
        slots: states that are kept; 2, or one more than the steps of a tape.
        tuning: how the programs are cut.
    """

    def __init__(
        self,
        ground: Ground,
        forcings: list[Forcing],
        physics: Physics,
        start: State | None = None,
        wet_m: float | None = None,
        slots: int = 2,
        tuning: Tuning = Tuning(),  # noqa: B008  # immutable
    ) -> None:
        if not all(can_run(ground, forcing, physics) for forcing in forcings):
            raise ValueError("the GPU engine has no held levels, rain maps or Froude caps")
        batch, ny, nx = ground.z.shape
        self.device, self.physics, self.dx = ground.z.device, physics, float(ground.dx)
        self.layout, self.tuning, self.slots = layout(batch, ny, nx, tuning), tuning, slots
        self.noting, self.tape = wet_m is not None, slots > 2
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
        self.age, self.marks = self._tiles(torch.int32), self._tiles(torch.int32)
        self.lost = self._tiles(torch.float64)
        self._ground(ground)
        self.inlets = _inlets(forcings, self.layout, self.dx, self.device)
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
        """Bed between walls, roughness, outlets and the tiles near them."""
        lay = self.layout
        self.z = self._padded(WALL_M)
        self.rough = isinstance(ground.manning, Tensor)
        self.n = self._padded(1.0) if self.rough else torch.ones(1, device=self.device)
        self.drain = self._padded(0.0) if ground.drain is not None else self.z
        self.drains = self._tiles(torch.int32)
        self.set_bed(ground.z)
        (lay.inner(self.n) if self.rough else self.n).copy_(torch.as_tensor(ground.manning))
        self.has_drain = ground.drain is not None
        if ground.drain is not None:
            lay.inner(self.drain).copy_(ground.drain)
            near = torch.nn.functional.max_pool2d((self.drain > 0).float(), 3, 1, 1)
            wide = near[:, PAD : lay.rows - PAD, LEFT : LEFT + lay.across * lay.tile[1]]
            by_tile = torch.nn.functional.max_pool2d(wide, lay.tile).flatten(1)
            self.drains.copy_((by_tile > 0).int())

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
        lay = self.layout
        wide = self.states[0, 0, :, PAD : lay.rows - PAD, LEFT : LEFT + lay.across * lay.tile[1]]
        by_tile = torch.nn.functional.max_pool2d(wide, lay.tile).flatten()
        self.deepest[0, : len(by_tile)].copy_(by_tile)
        self.t.copy_(torch.as_tensor(t)), self.age.zero_(), self.bad.zero_(), self.marks.zero_()

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
                hint="lower solver.alpha, raise manning, or leave the limiter on",
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
        from models.terrain import gpu_step  # Triton comes with CUDA builds alone

        lay, tuning, p = self.layout, self.tuning, self.physics
        grid = (lay.tiles, lay.batch)
        sizes = (lay.batch * lay.rows * lay.pitch, lay.rows, lay.pitch, LEFT, PAD, lay.ny, lay.nx)
        cut = {"BY": lay.tile[0], "BX": lay.tile[1], "num_warps": tuning.warps}
        kinds = {"ROUGH": self.rough, "LOG": tuning.log, "DRAIN": self.has_drain}
        fields = (self.states[old], self.states[new], self.z, self.n, self.drain, self.drains)
        gpu_step.sweep[grid](
            *fields, self.deepest[old], self.deepest[new], self.age, self.marks, self.lost,
            self.peaks, self.arrivals, self.dts[old], self.rains, self.t, self.numbers, *sizes,
            lay.down, lay.across, backwards if tuning.turning else 0, LIMITED=p.limiter,
            LAZY=tuning.lazy and not self.tape, NOTE=self.noting, ALIGNED=tuning.aligned,
            **cut, **kinds,
        )  # fmt: skip
        if p.limiter:
            gpu_step.limit[grid](
                *fields, self.deepest[new], self.marks, self.dts[old], self.rains, self.numbers,
                *sizes, lay.down, lay.across, **cut, **kinds,
            )  # fmt: skip

    def _clock(self, old: int, new: int) -> None:
        from models.terrain import gpu_step

        gpu_step.clock[(self.layout.batch,)](
            self.states[new, 0], self.deepest[new], *self.inlets, self.dts[old], self.dts[new],
            self.rains, self.t, self.until, self.steps, self.entered, self.bad, self.numbers,
            self.layout.tiles, CELLS=self.inlets.cells.shape[1],
            POINTS=self.inlets.moments.shape[1], BLOCK=1024,
            AUTHORS=self.physics.cfl == "reference", num_warps=4,
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
    """Constants in the order of :func:`models.terrain.gpu_step.sweep` and ``clock``."""
    _, ny, nx = ground.z.shape
    cap = min(dt_cap(ground.dx, physics), 1e300)
    numbers = (
        ground.dx, physics.gravity, physics.theta, physics.eps, physics.h_dry, wet_m,
        physics.alpha, physics.h_floor, cap, ground.dx**2, ny * nx,
    )  # fmt: skip
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def _inlets(forcings: list[Forcing], lay: Layout, dx: float, device: torch.device) -> Inlets:
    """Cells with inflow of each sample, and all series; the first ones are the rains."""
    series: list[Series] = [forcing.rain or constant(0.0) for forcing in forcings]
    rows: list[list[tuple[int, int, float, int]]] = []
    for b, forcing in enumerate(forcings):
        rows.append([])
        for inlet in forcing.inlets:
            share = 1 / (len(inlet.rows) * dx * dx)
            for i, j in zip(inlet.rows, inlet.columns, strict=True):
                offset = (b * lay.rows + i + PAD) * lay.pitch + LEFT + j
                tile = i // lay.tile[0] * lay.across + j // lay.tile[1] + b * lay.tiles
                rows[b].append((offset, tile, share, len(series)))
            series.append(inlet.series)
    width = 2 ** math.ceil(math.log2(max([16, *map(len, rows)])))
    filled = [row + [(-1, 0, 0.0, 0)] * (width - len(row)) for row in rows]
    points = 2 ** math.ceil(math.log2(max(len(one.times) for one in series)))
    dtypes = (torch.int32, torch.int32, torch.float64, torch.int32)
    columns = [
        torch.tensor([[cell[k] for cell in row] for row in filled], dtype=dtype, device=device)
        for k, dtype in enumerate(dtypes)
    ]
    moments, values = zip(*(_stretched(one, points) for one in series), strict=True)
    tables = [torch.tensor(x, dtype=torch.float64, device=device) for x in (moments, values)]
    return Inlets(*columns, *tables)


def _stretched(series: Series, points: int) -> tuple[list[float], list[float]]:
    """A series with more points; those behind its end repeat the last value."""
    more = points - len(series.times)
    times = [*series.times, *(series.times[-1] + k for k in range(1, more + 1))]
    return times, [*series.values, *[series.values[-1]] * more]
