"""A batch of floods as a function of their beds that torch can differentiate, on a GPU.

The states of a flood go to a tape, which backward walks with the hand-written derivative; a longer
flood than the tape keeps the first state of each tape-full and runs it again.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.engine import GpuFlood
from models.terrain.solver.gpu.layout import LEFT, PAD, Tuning, Worlds, layout
from models.terrain.solver.scheme import Ground, Physics

TAPE_BYTES = 8 * 2**30
BLOCK_STEPS = 32  # of a graph


class Span(NamedTuple):
    """A stretch of a flood that one tape holds.

    Attributes:
        first: state at its begin [3, b, rows, pitch]; None where the tape still has it.
        t: s of each sample at its begin.
        until: target time in s.
        blocks: of steps that were taken.
        stop: index of the output time at its end, or -1.
    """

    first: Tensor | None
    t: Tensor
    until: float
    blocks: int
    stop: int


class GpuTape:
    """Room for a batch of floods and their tape; made once, used again with other beds.

    Args:
        ground: of all samples, on the device; its bed is not used.
        forcings: of each sample, or their table; see :meth:`GpuFlood.take`.
        physics: constants.
        steps: of the tape at most; None: what ``TAPE_BYTES`` hold.
        tuning: how the programs of the steps are cut.
        cut: rows, columns and warps of a tile of the derivative; parts of the steps' tiles.
    """

    def __init__(
        self,
        ground: Ground,
        forcings: list[Forcing] | Worlds,
        physics: Physics,
        steps: int | None = None,
        tuning: Tuning = Tuning(),  # noqa: B008  # immutable
        cut: tuple[int, int, int] = (4, 32, 4),
    ) -> None:
        self.cut = cut
        room = layout(*ground.z.shape, tuning)
        fits = TAPE_BYTES // (12 * room.batch * room.rows * room.pitch)
        self.block = BLOCK_STEPS if ground.z.device.type == "cuda" else 4
        self.blocks = max(1, min(steps or fits, fits) // self.block)
        slots = self.blocks * self.block + 1
        self.flood = GpuFlood(ground, forcings, physics, slots=slots, tuning=tuning)
        device = ground.z.device
        self.grads = torch.zeros(2, 3, *room.shape, device=device)
        self.kept = torch.zeros(5, *room.shape, device=device)
        self.by_z = torch.zeros(room.shape, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(
        self, z: Float[Tensor, "b ny nx"], times: list[float]
    ) -> Float[Tensor, "times b ny nx"]:
        """Depth in m at the asked times (s, rising), differentiable by the bed.

        The last call's tape is the one that backward walks: call backward before the next call.

        Raises:
            UnstableError: if a flood blows up.
        """
        return _Rollout.apply(z, self, tuple(times))

    def forward(self, z: Tensor, times: tuple[float, ...]) -> tuple[Tensor, list[Span]]:
        """Depths at the asked times, and the spans."""
        flood = self.flood
        flood.set_bed(z)
        flood.clear()
        spans: list[Span] = []
        depths = []
        for stop, until in enumerate(times):
            done = False
            while not done:
                if spans:  # go on from the end of the last span
                    spans[-1] = spans[-1]._replace(first=self._first)
                    self._go_on(spans[-1].blocks)
                self._first, began = flood.states[0].clone(), flood.t.clone()
                blocks, done = self._fill(until)
                spans.append(Span(None, began, until, blocks, stop if done else -1))
            depths.append(flood.layout.inner(flood.states[blocks * self.block, 0]).clone())
        return torch.stack(depths), spans

    def _go_on(self, blocks: int) -> None:
        flood, end = self.flood, blocks * self.block
        flood.states[0].copy_(flood.states[end])
        flood.deepest[0].copy_(flood.deepest[end])

    def _fill(self, until: float) -> tuple[int, bool]:
        """Step until the time or the end of the tape; blocks taken, whether it is there."""
        flood = self.flood
        flood.aim(until)
        for k in range(self.blocks):
            flood.run(k * self.block, self.block)
            if flood.arrived():
                return k + 1, True
        return self.blocks, False

    def backward(self, spans: list[Span], grad: Tensor) -> Tensor:
        """Derivative by the bed, from those by the depths."""
        flood = self.flood
        self.grads.zero_(), self.by_z.zero_()
        for index in range(len(spans) - 1, -1, -1):
            span = spans[index]
            if span.stop >= 0:
                flood.layout.inner(self.grads[0, 0]).add_(grad[span.stop])
            if span.first is not None:
                flood.states[0].copy_(span.first)
                flood.restart(span.t)
                self._fill(span.until)
            for k in range(span.blocks - 1, -1, -1):
                self._unwind(k)
        return flood.layout.inner(self.by_z).clone()

    def _unwind(self, block: int) -> None:
        if self.flood.device.type != "cuda":
            self._back(block)
            return
        if block in self._graphs:
            self._graphs[block].replay()
            return
        self._back(block)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._back(block)
        self._graphs[block] = graph

    def _back(self, block: int) -> None:
        """The steps of a block, last first; an even number, so that the first grads have it."""
        for k in range(self.block):
            self._step_back(block * self.block + self.block - 1 - k, k % 2)

    def _step_back(self, slot: int, now: int) -> None:
        from models.terrain.solver.gpu import adjoint  # Triton comes with CUDA builds

        flood, lay = self.flood, self.flood.layout
        height, width = (min(a, b) for a, b in zip(self.cut[:2], lay.tile, strict=True))
        across = math.ceil(lay.nx / width)
        grid = (math.ceil(lay.ny / height) * across, lay.batch)
        plane = lay.batch * lay.rows * lay.pitch
        sizes = (plane, lay.rows, lay.pitch, LEFT, PAD, lay.ny, lay.nx, across)
        cut = {"BY": height, "BX": width, "num_warps": self.cut[2]}
        old, grads, dts = flood.states[slot], self.grads[now], flood.dts[slot]
        adjoint.shares_back[grid](
            old, grads, flood.z, flood.n, flood.worlds.drain, self.kept, dts, flood.numbers,
            *sizes, ROUGH=flood.rough, LOG=flood.tuning.log, DRAIN=flood.has_drain,
            LIMITED=flood.physics.limiter, **cut,
        )  # fmt: skip
        adjoint.faces_back[grid](
            old, grads, self.grads[1 - now], self.by_z, flood.z, flood.n, self.kept, dts,
            flood.numbers, *sizes, ROUGH=flood.rough, **cut,
        )  # fmt: skip


class _Rollout(torch.autograd.Function):
    """Forward and backward of :class:`GpuTape`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, tape: GpuTape, times: tuple[float, ...]) -> Tensor:
        depths, ctx.spans = tape.forward(z, times)
        ctx.tape = tape
        return depths

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.tape.backward(ctx.spans, grads[0]), None, None
