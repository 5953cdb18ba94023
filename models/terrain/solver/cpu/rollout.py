"""A flood as a differentiable function of its bed or of its faces, on the compiled CPU engine.

The forward pass keeps the state every ``span`` steps; the backward pass runs each span again with
all its states on a tape and differentiates its steps in reverse. Memory is C S (N / K + K) bytes
for C cells, N steps, K steps a span and S = 12 bytes of state.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.core.errors import SpecError
from models.terrain.solver.cpu import adjoint, loop, subgrid_adjoint
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.scheme import Physics
from models.terrain.solver.subgrid import FaceChange, changed, possible
from models.terrain.solver.time_stepping import BoundaryConditions, UnstableError

WHOLE_TAPE_BYTES = 512 * 2**20  # floods whose states fit are not run again


class TapePool:
    """Memory of used tapes, reused by later ones: first-touch page faults cost half of a step."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lock = Lock()

    def acquire(self, count: int) -> np.ndarray:
        """A contiguous float32 buffer [n], n at least ``count``."""
        with self._lock:
            for k, old in enumerate(self._free):
                if old.size >= count:
                    return self._free.pop(k)
        return np.empty(count, np.float32)

    def release(self, tape: np.ndarray) -> None:
        """Return a tape [steps, 3, cells] to the pool; it must not be used afterwards."""
        whole = tape if tape.base is None else tape.base
        with self._lock:
            if sum(x.nbytes for x in self._free) + whole.nbytes <= WHOLE_TAPE_BYTES:
                self._free.append(whole)


TAPE_POOL = TapePool()


class Spans(NamedTuple):
    """What the backward pass of one sample needs: the spans and the states at their beginnings.

    Attributes:
        flood: the engine, for its arrays.
        tapes: of each span, its states [steps, 3, cells], or only the first one.
        over_lowest: of each first state the depths over the lowest heights; None without subgrid.
        dts: of each span, step lengths in s [steps].
        limits: of each span, start time and target time, s.
        stops: index of the first span after each output time.
    """

    flood: FusedFlood
    tapes: list[np.ndarray]
    over_lowest: list[np.ndarray | None]
    dts: list[np.ndarray]
    limits: list[tuple[float, float]]
    stops: list[int]


def rollout(
    z: Float[Tensor, "b ny nx"],
    boundaries: list[BoundaryConditions],
    physics: Physics,
    times: list[float],
    span: int | None = None,
) -> Float[Tensor, "times b ny nx"]:
    """Depth in m at the given times, differentiable with respect to the bed.

    Args:
        z: bed in m, float32 on the CPU.
        boundaries: boundary conditions of each sample.
        physics: constants; no Froude cap.
        times: s, increasing.
        span: steps between kept states; None: chosen to fit the memory of the tape.

    Raises:
        SpecError: if a Froude cap, infiltration, a stack of rain or a subgrid is asked for.
        UnstableError: if a flood blows up.
    """
    if any(boundary.ground.subgrid is not None for boundary in boundaries):
        raise SpecError("a subgrid has no bed to differentiate by, but faces; train on heights")
    _check(boundaries, physics)
    on_beds = [
        boundary._replace(ground=boundary.ground._replace(z=z[k : k + 1].detach()))
        for k, boundary in enumerate(boundaries)
    ]
    return _Rollout.apply(z[:, None], on_beds, physics, tuple(times), span)


def rollout_of_faces(
    x: FaceChange,
    y: FaceChange,
    boundaries: list[BoundaryConditions],
    physics: Physics,
    times: list[float],
    span: int | None = None,
) -> Float[Tensor, "times b ny nx"]:
    """Mean depth in m at the given times, differentiable with respect to changes of the faces.

    Args:
        x: changes of the faces between columns, on top of the tables [b, ny, nx-1], float32.
        y: of the faces between rows [b, ny-1, nx].
        boundaries: boundary conditions of each sample, with subgrid.
        physics: constants; no Froude cap.
        times: s, increasing.
        span: steps between kept states; None: chosen to fit the memory of the tape.

    Raises:
        SpecError: if a Froude cap, infiltration or a stack of rain is asked for.
        UnstableError: if a flood blows up.
    """
    _check(boundaries, physics)
    parts, on_tables = [], []
    for k, boundary in enumerate(boundaries):
        ground = boundary.ground
        assert ground.subgrid is not None  # noqa: S101  # of the callers
        own = [FaceChange(*(field[k : k + 1] for field in faces)) for faces in (x, y)]
        possible_x, possible_y = possible(ground.subgrid, ground.z, *own)
        parts.append(torch.cat([
            pad(torch.stack(possible_x, 1), (0, 1)),
            pad(torch.stack(possible_y, 1), (0, 0, 0, 1)),
        ], 1))  # fmt: skip
        with torch.no_grad():
            tables = changed(ground.subgrid, ground.z, possible_x, possible_y)
        on_tables.append(boundary._replace(ground=ground._replace(subgrid=tables)))
    return _Rollout.apply(torch.cat(parts), on_tables, physics, tuple(times), span)


def _check(boundaries: list[BoundaryConditions], physics: Physics) -> None:
    """Refuse what has no derivative.

    Raises:
        SpecError: naming it.
    """
    if physics.froude is not None:
        raise SpecError("solver.froude cannot be differentiated; leave it out for training")
    if any(boundary.ground.soil is not None for boundary in boundaries):
        raise SpecError("infiltration has no derivative; leave it out for training")
    if any(boundary.forcing.stack is not None for boundary in boundaries):
        raise SpecError("a stack of rain has no derivative here; give a series")


class _Rollout(torch.autograd.Function):
    """Forward and backward pass of a batch of floods, one thread per sample.

    Its input [b, fields, ny, nx] is in the floods of ``boundaries`` already: the bed, or shift,
    film and deep of the x faces and of the y faces, which are as many as cells here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fields: Tensor,
        boundaries: list[BoundaryConditions],
        physics: Physics,
        times: tuple[float, ...],
        span: int | None,
    ) -> Tensor:
        def run(boundary: BoundaryConditions) -> tuple[Tensor, Spans]:
            flood = FusedFlood(boundary.ground, boundary.forcing, physics, carry=False)
            return _forward(flood, times, span)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            results = list(pool.map(run, boundaries))
        ctx.spans, ctx.fields = [spans for _, spans in results], fields.shape[1]
        return torch.stack([depths for depths, _ in results], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads

        def run(k: int) -> Tensor:
            return _backward(ctx.spans[k], grad[:, k].contiguous(), ctx.fields)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            by_fields = torch.stack(list(pool.map(run, range(grad.shape[1]))))
        return by_fields, None, None, None, None


def _forward(flood: FusedFlood, times: tuple[float, ...], span: int | None) -> tuple[Tensor, Spans]:
    """Run a flood; keep whole tapes while they fit in memory, then only first states of spans."""
    cells = flood.layout.ny * flood.layout.nx
    fits = WHOLE_TAPE_BYTES // (12 * cells)
    steps = span or max(1, min(256, fits))
    depths, tapes, firsts, dts, limits, stops, taped = [], [], [], [], [], [], 0
    for until in times:
        ended = False
        while not ended:
            limits.append((flood.totals.t, until))
            firsts.append(flood.over_lowest)
            tape, lengths, ended = _record(flood, until, steps)
            taped += len(tape)
            if span is None and taped <= fits:
                tapes.append(tape)
            else:
                tapes.append(tape[:1].copy())
                TAPE_POOL.release(tape)
            dts.append(lengths)
        depths.append(flood.depth[0])
        stops.append(len(tapes))
    return torch.stack(depths), Spans(flood, tapes, firsts, dts, limits, stops)


def _record(flood: FusedFlood, until: float, steps: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Step towards ``until``, at most ``steps`` steps: states before them, lengths, if it arrived.

    Raises:
        UnstableError: if water is NaN, infinite or beyond all bounds.
    """
    count = steps * 3 * flood.layout.ny * flood.layout.nx
    tape = TAPE_POOL.acquire(count)[:count].reshape(steps, 3, -1)
    dts, before = np.empty(steps), flood.totals.steps
    arrays = (flood.arrays, flood.layout, flood.constants)
    why = loop.record(*arrays, until, steps, tape.reshape(-1), dts)
    totals = flood.totals
    if why == loop.UNSTABLE:
        raise UnstableError(f"the simulation blew up in step {totals.steps} at {totals.t:.1f} s")
    taken = totals.steps - before
    return tape[:taken], dts[:taken], bool(totals.t >= until)


def _rerun_span(spans: Spans, k: int) -> np.ndarray:
    """The tape of a span, recomputed from its first state; bit-identical to the first run."""
    start, until = spans.limits[k]
    spans.flood.put(spans.tapes[k][0], start, spans.over_lowest[k])
    tape, _, _ = _record(spans.flood, until, len(spans.dts[k]))
    return tape


def _backward(
    spans: Spans, grad: Float[Tensor, "times ny nx"], fields: int
) -> Float[Tensor, "fields ny nx"]:
    flood, cells = spans.flood, grad[0].numel()
    grad_state = np.zeros((2, 3, cells), np.float32)
    by_fields = np.zeros(fields * cells, np.float32)
    steps_back, arrays, work = _steps_back(flood)
    for k in range(len(spans.tapes) - 1, -1, -1):
        for stop, grad_depth in zip(spans.stops, grad.numpy(), strict=True):
            if stop == k + 1:
                grad_state[0, 0] += grad_depth.reshape(-1)
        tape, dts = spans.tapes[k], spans.dts[k]
        if len(tape) < len(dts):
            tape = _rerun_span(spans, k)
        conditions = (arrays, flood.layout, flood.constants)
        steps_back(
            *conditions, tape.reshape(-1), dts, len(dts), grad_state.reshape(-1), by_fields, work
        )
        if len(tape) > 1:
            spans.tapes[k] = tape[:1].copy()  # a second backward pass runs the span again
            TAPE_POOL.release(tape)
    return torch.from_numpy(by_fields).view(fields, *grad.shape[1:])


def _steps_back(flood: FusedFlood) -> tuple[Any, Any, np.ndarray]:
    """The compiled derivative of a flood's steps, the arrays it reads, its buffer."""
    arrays, on_subgrid = flood.arrays, flood.layout.entries > 0
    work = np.zeros(subgrid_adjoint.SUBGRID_BUFFER if on_subgrid else adjoint.BUFFER, np.float32)
    if len(arrays.n) == 1:
        work[adjoint.N : adjoint.N + adjoint.PLANE] = arrays.n[0]
    if not on_subgrid:
        return adjoint.backward_steps, arrays, work
    names = subgrid_adjoint.GroundArrays._fields
    read = subgrid_adjoint.GroundArrays(*(getattr(arrays, name) for name in names))
    return subgrid_adjoint.backward_steps, read, work
