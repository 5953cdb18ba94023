"""A flood as a function of its bed that torch can differentiate, on the compiled engine.

Forward keeps the state every ``span`` steps; backward runs each span again with all its states on
a tape and unwinds it: C S (N / K + K) bytes for C cells, N steps, S = 12 bytes of state, K = span.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.core.errors import SpecError
from models.terrain.solver.cpu import adjoint, loop
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.scheme import Physics
from models.terrain.solver.time_stepping import UnstableError, World

WHOLE_TAPE_BYTES = 512 * 2**20  # shorter floods than this need no second run


class Shelf:
    """Memory of walked tapes, for the next ones: fresh pages cost half as much as the steps."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []
        self._lock = Lock()

    def take(self, count: int) -> np.ndarray:
        """At least so many floats in a row."""
        with self._lock:
            for k, old in enumerate(self._free):
                if old.size >= count:
                    return self._free.pop(k)
        return np.empty(count, np.float32)

    def give(self, tape: np.ndarray) -> None:
        """Put a tape's memory back; nobody may read it any more."""
        whole = tape if tape.base is None else tape.base
        with self._lock:
            if sum(x.nbytes for x in self._free) + whole.nbytes <= WHOLE_TAPE_BYTES:
                self._free.append(whole)


SHELF = Shelf()


class Spans(NamedTuple):
    """What backward needs of one sample: states at the begin of spans, and the spans.

    Attributes:
        flood: the engine, for its arrays.
        tapes: of each span [steps, 3, cells], or only its first state.
        dts: of each span, s [steps].
        limits: of each span, its first time and the time it steps towards, s.
        stops: index of the first span after each output time.
    """

    flood: FusedFlood
    tapes: list[np.ndarray]
    dts: list[np.ndarray]
    limits: list[tuple[float, float]]
    stops: list[int]


def rollout(
    z: Float[Tensor, "b ny nx"],
    worlds: list[World],
    physics: Physics,
    times: list[float],
    span: int | None = None,
) -> Float[Tensor, "times b ny nx"]:
    """Depth in m at the asked times, differentiable by the bed.

    Args:
        z: bed in m, float32 on the CPU.
        worlds: of each sample.
        physics: constants; no Froude cap.
        times: s, rising.
        span: steps between kept states; None: as many as the tape's memory allows at once.

    Raises:
        SpecError: if a Froude cap is asked for.
        UnstableError: if a flood blows up.
    """
    if physics.froude is not None:
        raise SpecError("solver.froude cannot be differentiated; leave it out for training")
    return _Rollout.apply(z, worlds, physics, tuple(times), span)


class _Rollout(torch.autograd.Function):
    """Forward and backward of :func:`rollout`, one thread a sample."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        worlds: list[World],
        physics: Physics,
        times: tuple[float, ...],
        span: int | None,
    ) -> Tensor:
        def run(k: int) -> tuple[Tensor, Spans]:
            ground = worlds[k].ground._replace(z=z[k : k + 1].detach())
            flood = FusedFlood(ground, worlds[k].forcing, physics)
            return _forward(flood, times, span)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            found = list(pool.map(run, range(len(z))))
        ctx.spans = [spans for _, spans in found]
        return torch.stack([depths for depths, _ in found], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads

        def run(k: int) -> Tensor:
            return _backward(ctx.spans[k], grad[:, k].contiguous())

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            by_z = torch.stack(list(pool.map(run, range(grad.shape[1]))))
        return by_z, None, None, None, None


def _forward(flood: FusedFlood, times: tuple[float, ...], span: int | None) -> tuple[Tensor, Spans]:
    """Run a flood; whole tapes while they fit, else first states of spans alone."""
    cells = flood.shape.ny * flood.shape.nx
    fits = WHOLE_TAPE_BYTES // (12 * cells)
    steps = span or max(1, min(256, fits))
    depths, tapes, dts, limits, stops, kept = [], [], [], [], [], 0
    for until in times:
        ended = False
        while not ended:
            limits.append((flood.totals.t, until))
            tape, lengths, ended = _record(flood, until, steps)
            kept += len(tape)
            if span is None and kept <= fits:
                tapes.append(tape)
            else:
                tapes.append(tape[:1].copy())
                SHELF.give(tape)
            dts.append(lengths)
        depths.append(flood.depth[0])
        stops.append(len(tapes))
    return torch.stack(depths), Spans(flood, tapes, dts, limits, stops)


def _record(flood: FusedFlood, until: float, steps: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Up to ``steps`` steps with the states before them.

    Raises:
        UnstableError: if water is NaN, infinite or beyond all bounds.
    """
    count = steps * 3 * flood.shape.ny * flood.shape.nx
    tape = SHELF.take(count)[:count].reshape(steps, 3, -1)
    dts, before = np.empty(steps), flood.totals.steps
    arrays = (flood.grid, flood.shape, flood.numbers)
    why = loop.record(*arrays, until, steps, tape.reshape(-1), dts)
    totals = flood.totals
    if why == loop.UNSTABLE:
        raise UnstableError(f"the simulation blew up in step {totals.steps} at {totals.t:.1f} s")
    taken = totals.steps - before
    return tape[:taken], dts[:taken], bool(totals.t >= until)


def _again(
    flood: FusedFlood, first: np.ndarray, limits: tuple[float, float], steps: int
) -> np.ndarray:
    """The tape of a span, from its first state; the same steps, bit for bit."""
    flood.put(first, limits[0])
    tape, _, _ = _record(flood, limits[1], steps)
    return tape


def _backward(spans: Spans, grad: Float[Tensor, "times ny nx"]) -> Float[Tensor, "ny nx"]:
    flood, cells = spans.flood, grad[0].numel()
    by_state = np.zeros((2, 3, cells), np.float32)
    by_z = np.zeros(cells, np.float32)
    work = np.zeros(adjoint.BUFFER, np.float32)
    if len(flood.grid.n) == 1:
        work[adjoint.N : adjoint.N + adjoint.PLANE] = flood.grid.n[0]
    for k in range(len(spans.tapes) - 1, -1, -1):
        for stop, by_depth in zip(spans.stops, grad.numpy(), strict=True):
            if stop == k + 1:
                by_state[0, 0] += by_depth.reshape(-1)
        tape, dts = spans.tapes[k], spans.dts[k]
        if len(tape) < len(dts):
            tape = _again(flood, tape[0], spans.limits[k], len(dts))
        arrays = (flood.grid, flood.shape, flood.numbers)
        adjoint.unwind(*arrays, tape.reshape(-1), dts, len(dts), by_state.reshape(-1), by_z, work)
        if len(tape) > 1:
            spans.tapes[k] = tape[:1].copy()  # a second walk would run the span again
            SHELF.give(tape)
    return torch.from_numpy(by_z).view(grad.shape[1:])
