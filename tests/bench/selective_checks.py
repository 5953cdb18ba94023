"""The stop-watch of ``tests.bench.selective_gpu`` and what must hold before anything is timed."""

import json
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.core import device
from models.nets.preactivation import Unit
from models.nets.selective import conv_gpu
from models.nets.selective.reference import sample
from models.nets.selective.unit import CompactUnit, SelectiveUnit
from models.selective_convolution.allocate import deallocate, reallocate
from models.selective_convolution.export import folded
from tests.bench.selective import moved

ODD = ((24, (9, 7)), (36, (8, 8)), (100, (5, 12)), (5, (32, 32)))  # channels, size

# which precisions take the products of shifted_conv_gpu; the others write the activation
WAYS: dict[str, tuple[torch.dtype, ...]] = {
    "activation": (),
    "products": (torch.float32,),
    "products, bf16": (torch.bfloat16,),
}
LIMITS = {"activation": 1e-4, "products": 1e-4, "products, bf16": 0.15}  # shares of norms


class Bench:
    """What was found so far, and the seconds left."""

    def __init__(self, out: Path, budget_s: float, quick: bool) -> None:
        self.on = "cuda" if torch.cuda.is_available() else "cpu"
        self.out, self.quick = out, quick
        self.ends = time.monotonic() + budget_s
        machine = device.describe(self.on) | {"python": platform.python_version()}
        self.figures: dict[str, Any] = {"device": machine, "quick": quick, "seconds": {}}

    def section(self, name: str, run: Callable[["Bench"], Any]) -> None:
        started = time.monotonic()
        if self.left <= 0:
            self.figures[name] = "left out: the budget is spent"
        else:
            try:
                self.figures[name] = run(self)
            except Exception as error:  # later sections may still work
                self.figures[name] = f"failed: {type(error).__name__}: {error}"[:900]
        self.figures["seconds"][name] = time.monotonic() - started
        self.write()
        print(name, json.dumps(self.figures[name])[:3000], flush=True)

    def write(self) -> None:
        self.out.write_text(json.dumps(self.figures, indent=2) + "\n")

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def ms(self, runs: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
        """Milliseconds of each in turn, minimum and median; ratios of minima to the first."""
        rounds, inside = (2, 1) if self.quick else (12, 20)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 2):
            for name, run in runs.items():
                self.wait()
                started = time.perf_counter()
                for _ in range(inside):
                    run()
                self.wait()
                if number > 1:
                    taken[name].append(1000 * (time.perf_counter() - started) / inside)
        first = min(next(iter(taken.values())))
        return {
            name: {"min_ms": min(t), "median_ms": median(t), "ratio": min(t) / first}
            for name, t in taken.items()
        }

    def wait(self) -> None:
        if self.on == "cuda":
            torch.cuda.synchronize()

    def peak_mib(self, run: Callable[[], object]) -> float | None:
        """Most memory that a pass takes beside what is there before it."""
        if self.on != "cuda":
            return None
        run()
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def graph(self, run: Callable[[], object]) -> Callable[[], object]:
        """The work recorded as a CUDA graph; itself on a CPU.

        What a graph reads is not kept by it: what ``run`` holds lives as long as the replay does.
        """
        if self.on != "cuda":
            return run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()

        def replay(kept: Callable[[], object] = run) -> None:
            graph.replay()

        return replay

    def compiled(self, net: nn.Module) -> nn.Module:
        """By inductor; as it is on a CPU."""
        return torch.compile(net, fullgraph=True, dynamic=False) if self.on == "cuda" else net


def differentiate(unit: nn.Module, x: Tensor, on: str) -> Callable[[], object]:
    """Forward and backward in bfloat16, as inside of a net; gives output and gradients."""
    inputs = [x, *unit.parameters()]
    with torch.autocast(on, dtype=torch.bfloat16), torch.no_grad():
        back = torch.empty_like(unit(x))
        torch.manual_seed(0)
        back.normal_()  # the same for every unit

    def run() -> object:
        with torch.autocast(on, dtype=torch.bfloat16):
            out = unit(x)
        figures = torch.autograd.grad(out, inputs, back, allow_unused=True)
        return (
            out.detach(),
            figures,
        )  # a graph of gradients kept alive would bind leaves to a stream

    return run


def batch_of(bench: Bench, c: int, side: int) -> Tensor:
    n = 2 if bench.quick else 256
    x = torch.randn(n, c, side, side, device=bench.on, dtype=torch.bfloat16)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def correct(bench: Bench) -> dict[str, Any]:
    """Output and gradients against float64 on a CPU; closing and re-use.

    Both ways in float32, without TF32, and the products in the precision that they are used in.
    """
    worst: dict[str, Any] = {}
    torch.backends.cudnn.allow_tf32 = False
    for way, limit in LIMITS.items():
        for c, size in ODD:
            for training in (True, False):
                gaps = gaps_of(way, c, size, bench.on, training=training)
                name = f"{way}: {c}, {size}, {'training' if training else 'eval'}"
                assert max(gaps.values()) < limit, (name, gaps)
                worst[name] = gaps
    worst["function kept"] = kept(bench)
    torch.backends.cudnn.allow_tf32 = True
    return worst


def gaps_of(way: str, c: int, size: tuple[int, int], on: str, *, training: bool) -> dict[str, Any]:
    """Gaps of a unit with half its slots re-used, one of them far, and one closed."""
    torch.manual_seed(0)
    unit = moved(Unit(c, 12, 1), 0.5, channels=max(3, c // 2)).train(training)
    with torch.no_grad():
        far = (unit.source >= 0).nonzero()[0]
        unit.shift[far] = torch.tensor([2.3, -1.2])
        unit.gate[-1] = 0
    x = torch.randn(4, c, *size)
    usual, conv_gpu.TYPES = conv_gpu.TYPES, WAYS[way]
    x = x.bfloat16() if way == "products, bf16" else x
    try:
        return compare(unit, x, on) | ({} if training else {"compact": compact_gap(unit, x, on)})
    finally:
        conv_gpu.TYPES = usual


@torch.no_grad()
def compact_gap(unit: SelectiveUnit, x: Tensor, on: str) -> float:
    """Gap of the exported unit to the unit, as a share of its norm."""
    state = folded(unit, whole=False)
    small = CompactUnit(len(unit.gate), len(state["root"]), len(unit.conv.weight), 1)
    small.load_state_dict(state)
    expected = unit.eval()(x.float())
    with torch.autocast(on, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        figures = small.to(on)(x.to(on)).float().cpu()
    return ((figures - expected).norm() / expected.norm()).item()


def compare(unit: SelectiveUnit, x: Tensor, on: str) -> dict[str, float]:
    """Gaps to float64 of the output and of gradients, as shares of their norms; of statistics."""
    there, exact = deepcopy(unit).to(on), deepcopy(unit).double()
    x_there, x_exact = (t.detach().requires_grad_() for t in (x.to(on), x.double()))
    with torch.autocast(on, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        a = there(x_there).double()
    z = sample(x_exact, exact.source, exact.shift)
    weight = exact.conv.weight * exact.gate[:, None, None]
    b = functional.conv2d(torch.relu(exact.norm(z)), weight)
    a.square().sum().backward()
    b.square().sum().backward()
    gaps = {"output": ((a.detach().cpu() - b).norm() / b.norm()).item()}
    pairs = zip(there.named_parameters(), exact.parameters(), strict=True)
    for name, p, q in [("x", x_there, x_exact), *((n, p, q) for (n, p), q in pairs)]:
        gap = (p.grad.cpu().double() - q.grad).norm() / q.grad.norm().clamp(min=1e-9)
        gaps[name] = gap.item()
    for (name, p), q in zip(there.norm.named_buffers(), exact.norm.buffers(), strict=True):
        gaps[name] = (p.cpu() - q).abs().max().item()
    return gaps


def kept(bench: Bench) -> float:
    """Closing agrees with the CPU; re-use leaves the output as it is."""
    torch.manual_seed(0)
    unit, x = moved(Unit(24, 12, 1), 0.5), torch.randn(4, 24, 9, 7)
    gates, gap = [], 0.0
    for made in (deepcopy(unit).to(bench.on), unit):
        deallocate(made, 0.3)
        gates.append(made.gate.cpu().clone())
        before = made.eval()(x.to(made.gate.device))
        reallocate(made, 3, 1.5, torch.Generator().manual_seed(1))
        gap = max(gap, (made(x.to(made.gate.device)) - before).abs().max().item())
    assert torch.equal(*gates)
    assert gap < 1e-5
    return gap


def alike(bench: Bench) -> dict[str, Any]:
    """Bit-equal repeats; a recorded graph sees a new allocation; compiled equals eager."""
    if bench.on != "cuda":
        return {}
    torch.manual_seed(0)
    unit, x = moved(Unit(96, 48, 1), 0.3).to(bench.on), batch_of(bench, 96, 16)
    run = differentiate(unit, x, bench.on)
    first, second = run(), run()
    same = all(torch.equal(p, q) for p, q in zip(first[1], second[1], strict=True))
    assert same, "gradients differ from run to run"
    figures: list[Any] = []
    replay = bench.graph(lambda: figures.append(run()))
    unit.load_state_dict(moved(Unit(96, 48, 1), 0.6, seed=4).state_dict())
    replay()
    fresh = run()
    torch.testing.assert_close(figures[-1][0], fresh[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(figures[-1][1][-1], fresh[1][-1], rtol=0.02, atol=0.05)
    twin = differentiate(bench.compiled(unit), x, bench.on)()
    torch.testing.assert_close(twin[0], fresh[0], rtol=0.02, atol=0.02)
    gap = (twin[1][0].float() - fresh[1][0].float()).norm() / fresh[1][0].float().norm()
    assert gap < 0.01, f"the compiled unit's gradient is {gap} off"
    return {"repeats bit-equal": same, "compiled: gap of the input's gradient": gap.item()}
