"""A batch of floods as a differentiable function of their beds, on a GPU.

The states of a flood are recorded on a tape, over which the backward pass applies the hand-written
derivative. A flood longer than the tape keeps the first state of each tape length and runs that
part again.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.engine import GpuFlood
from models.terrain.solver.gpu.layout import LEFT, PAD, BoundaryTables, Tuning, build_layout
from models.terrain.solver.scheme import Ground, Physics

TAPE_BYTES = 8 * 2**30
BLOCK_STEPS = 32  # of a graph


class Span(NamedTuple):
    """The part of a flood that one tape holds.

    Attributes:
        first: state at its beginning [3, b, rows, pitch]; None while it is still on the tape.
        t: time of each sample at its beginning, s [b].
        until: target time, s.
        blocks: number of blocks of steps taken.
        stop: index of the output time at its end, or -1.
    """

    first: Tensor | None
    t: Tensor
    until: float
    blocks: int
    stop: int


class GpuTape:
    """Buffers of a batch of floods and their tape, allocated once and reused with other beds.

    Args:
        ground: of all samples, on the device; its bed is not used.
        forcings: of each sample, or their tables; see :meth:`GpuFlood.use_boundaries`.
        physics: constants.
        steps: length of the tape, at most; None: what fits ``TAPE_BYTES``.
        tuning: launch parameters of the steps.
        cut: rows, columns and warps of a tile of the derivative; at most those of a step's tile.
    """

    def __init__(
        self,
        ground: Ground,
        forcings: list[Forcing] | BoundaryTables,
        physics: Physics,
        steps: int | None = None,
        tuning: Tuning = Tuning(),  # noqa: B008  # immutable
        cut: tuple[int, int, int] = (4, 32, 4),
    ) -> None:
        self.cut = cut
        layout = build_layout(*ground.z.shape, tuning)
        fits = TAPE_BYTES // (12 * layout.batch * layout.rows * layout.pitch)
        self.block = BLOCK_STEPS if ground.z.device.type == "cuda" else 4
        self.blocks = max(1, min(steps or fits, fits) // self.block)
        slots = self.blocks * self.block + 1
        self.flood = GpuFlood(ground, forcings, physics, slots=slots, tuning=tuning)
        device = ground.z.device
        self.grads = torch.zeros(2, 3, *layout.shape, device=device)
        self.saved = torch.zeros(5, *layout.shape, device=device)
        self.grad_z = torch.zeros(layout.shape, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(
        self, z: Float[Tensor, "b ny nx"], times: list[float]
    ) -> Float[Tensor, "times b ny nx"]:
        """Depth in m at the given times (s, increasing), differentiable with respect to the bed.

        The tape holds the last call only: call backward before the next call.

        Raises:
            UnstableError: if a flood blows up.
        """
        return _Rollout.apply(z, self, tuple(times))

    def forward(self, z: Tensor, times: tuple[float, ...]) -> tuple[Tensor, list[Span]]:
        """Depths [times, b, ny, nx] in m at ``times`` in s for beds ``z`` [b, ny, nx]; spans."""
        flood = self.flood
        flood.set_bed(z)
        flood.clear()
        spans: list[Span] = []
        depths = []
        for stop, until in enumerate(times):
            done = False
            while not done:
                if spans:  # continue from the end of the last span
                    spans[-1] = spans[-1]._replace(first=self._first)
                    self._continue(spans[-1].blocks)
                self._first, began = flood.states[0].clone(), flood.t.clone()
                blocks, done = self._fill(until)
                spans.append(Span(None, began, until, blocks, stop if done else -1))
            depths.append(flood.layout.inner(flood.states[blocks * self.block, 0]).clone())
        return torch.stack(depths), spans

    def _continue(self, blocks: int) -> None:
        flood, end = self.flood, blocks * self.block
        flood.states[0].copy_(flood.states[end])
        flood.deepest[0].copy_(flood.deepest[end])

    def _fill(self, until: float) -> tuple[int, bool]:
        """Step to the time or the end of the tape: blocks taken, whether the time was reached."""
        flood = self.flood
        flood.aim(until)
        for k in range(self.blocks):
            flood.run(k * self.block, self.block)
            if flood.arrived():
                return k + 1, True
        return self.blocks, False

    def backward(self, spans: list[Span], grad: Tensor) -> Tensor:
        """Derivative by the bed [b, ny, nx] from those by the depths [times, b, ny, nx]."""
        flood = self.flood
        self.grads.zero_(), self.grad_z.zero_()
        for index in range(len(spans) - 1, -1, -1):
            span = spans[index]
            if span.stop >= 0:
                flood.layout.inner(self.grads[0, 0]).add_(grad[span.stop])
            if span.first is not None:
                flood.states[0].copy_(span.first)
                flood.restart(span.t)
                self._fill(span.until)
            for k in range(span.blocks - 1, -1, -1):
                self._run_backward(k)
        return flood.layout.inner(self.grad_z).clone()

    def _run_backward(self, block: int) -> None:
        if self.flood.device.type != "cuda":
            self._backward_block(block)
            return
        if block in self._graphs:
            self._graphs[block].replay()
            return
        self._backward_block(block)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._backward_block(block)
        self._graphs[block] = graph

    def _backward_block(self, block: int) -> None:
        """Backward pass over a block; its steps are even in number, so grads[0] has the result."""
        for k in range(self.block):
            self._step_backward(block * self.block + self.block - 1 - k, k % 2)

    def _step_backward(self, slot: int, now: int) -> None:
        from models.terrain.solver.gpu import adjoint  # Triton comes with CUDA builds

        flood, layout = self.flood, self.flood.layout
        height, width = (min(a, b) for a, b in zip(self.cut[:2], layout.tile, strict=True))
        across = math.ceil(layout.nx / width)
        grid = (math.ceil(layout.ny / height) * across, layout.batch)
        plane = layout.batch * layout.rows * layout.pitch
        sizes = (plane, layout.rows, layout.pitch, LEFT, PAD, layout.ny, layout.nx, across)
        cut = {"BY": height, "BX": width, "num_warps": self.cut[2]}
        old, grads, dts = flood.states[slot], self.grads[now], flood.dts[slot]
        adjoint.shares_backward[grid](
            old, grads, flood.z, flood.n, flood.tables.drain, self.saved, dts, flood.constants,
            *sizes, ROUGH=flood.rough, LOG=flood.tuning.log, DRAIN=flood.has_drain,
            LIMITED=flood.physics.limiter, **cut,
        )  # fmt: skip
        adjoint.faces_backward[grid](
            old, grads, self.grads[1 - now], self.grad_z, flood.z, flood.n, self.saved, dts,
            flood.constants, *sizes, ROUGH=flood.rough, **cut,
        )  # fmt: skip


class _Rollout(torch.autograd.Function):
    """Forward and backward pass of :class:`GpuTape`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, tape: GpuTape, times: tuple[float, ...]) -> Tensor:
        depths, ctx.spans = tape.forward(z, times)
        ctx.tape = tape
        return depths

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.tape.backward(ctx.spans, grads[0]), None, None
