"""Selective units and DenseNets on one GPU: correct first, then timed, then (--quality) trained.

    python -m tests.bench.selective_gpu --out FILE [--sections a,b] [--budget-s 240] [--quick]
    python -m tests.bench.selective_gpu --out FILE --quality --data FOLDER [--budget-s 300]

Sections: correct, units, kernels, nets, inference, rounds, sweep, alike, nets_compiled. FOLDER
holds cifar10.npz of ``tests.bench.cifar10``. Work is timed as CUDA graphs, all arms in turn: a plain net
as it is and compiled, selective ones with shares of their slots re-used. The file is written after
every section. ``--quick`` runs the same code in small, on a CPU too.
"""

import argparse
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
from models.nets import shifted_norm_gpu
from models.nets.build import build_net
from models.nets.preactivation import Unit
from models.nets.selective import SelectiveUnit
from models.nets.shifted_norm import sample
from models.nets.shifted_norm_gpu import Tiles
from models.selective_convolution.allocate import deallocate, reallocate
from models.selective_convolution.export import compact
from models.selective_convolution.rounds import units_of
from tests.bench import selective_quality
from tests.bench.selective import moved
from tests.bench.selective_quality import make_spec

LAYERS = ((96, 48, 32), (256, 64, 16), (512, 128, 16))
SHARES = (0.0, 0.1, 0.3, 0.6)
ODD = ((24, (9, 7)), (36, (8, 8)), (100, (5, 12)), (5, (32, 32)))  # channels, size
SWEPT = (
    Tiles(),
    Tiles(pixels=128),
    Tiles(pixels=32),
    Tiles(pixels=128, slots=16),
    Tiles(pixels=64, slots=16),
    Tiles(channels=32),
    Tiles(channels=128, warps=8),
    Tiles(warps=8),
    Tiles(pixels=128, warps=8),
    Tiles(splits=512),
    Tiles(lanes=4),
    Tiles(lanes=16),
)
TIMED = (
    *("correct", "units", "kernels", "nets", "inference", "rounds"),
    *("sweep", "alike", "nets_compiled"),
)


class Bench:
    """What was found so far, and the seconds left."""

    def __init__(self, out: Path, budget_s: float, quick: bool) -> None:
        self.on = "cuda" if torch.cuda.is_available() else "cpu"
        self.out, self.quick = out, quick
        self.ends = time.monotonic() + budget_s
        machine = device.describe(self.on) | {"python": platform.python_version()}
        self.found: dict[str, Any] = {"device": machine, "quick": quick, "seconds": {}}

    def section(self, name: str, run: Callable[["Bench"], Any]) -> None:
        started = time.monotonic()
        if self.left <= 0:
            self.found[name] = "left out: the budget is spent"
        else:
            try:
                self.found[name] = run(self)
            except Exception as error:  # later sections may still work
                self.found[name] = f"failed: {type(error).__name__}: {error}"[:900]
        self.found["seconds"][name] = time.monotonic() - started
        self.write()
        print(name, json.dumps(self.found[name])[:3000], flush=True)

    def write(self) -> None:
        self.out.write_text(json.dumps(self.found, indent=2) + "\n")

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

    def graph(self, run: Callable[[], object]) -> Callable[[], object]:
        """The work recorded as a CUDA graph; itself on a CPU."""
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
        return graph.replay

    def compiled(self, net: nn.Module) -> nn.Module:
        """By inductor; as it is on a CPU."""
        return torch.compile(net, fullgraph=True, dynamic=False) if self.on == "cuda" else net


def differentiate(unit: nn.Module, x: Tensor, on: str) -> Callable[[], object]:
    """Forward and backward in bfloat16, as inside of a net; gives output and gradients."""
    inputs = [x, *unit.parameters()]
    with torch.autocast(on, dtype=torch.bfloat16), torch.no_grad():
        back = torch.randn_like(unit(x))

    def run() -> object:
        with torch.autocast(on, dtype=torch.bfloat16):
            out = unit(x)
        found = torch.autograd.grad(out, inputs, back, allow_unused=True)
        return out.detach(), found  # a graph of gradients kept alive would bind leaves to a stream

    return run


def batch_of(bench: Bench, c: int, side: int) -> Tensor:
    n = 2 if bench.quick else 256
    x = torch.randn(n, c, side, side, device=bench.on, dtype=torch.bfloat16)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def correct(bench: Bench) -> dict[str, Any]:
    """Output and gradients against float64 on a CPU; closing and re-use."""
    worst: dict[str, Any] = {}
    torch.backends.cudnn.allow_tf32 = False
    for c, size in ODD:
        for training in (True, False):
            torch.manual_seed(0)
            unit = moved(Unit(c, 12, 1), 0.5).train(training)
            gaps = compare(unit, torch.randn(4, c, *size), bench.on)
            assert max(gaps.values()) < 1e-3, (c, size, training, gaps)
            worst[f"{c}, {size}, {'training' if training else 'eval'}"] = gaps
    worst["function kept"] = kept(bench)
    torch.backends.cudnn.allow_tf32 = True
    return worst


def compare(unit: SelectiveUnit, x: Tensor, on: str) -> dict[str, float]:
    """Greatest gaps to float64: of the output, and of gradients relative to the greatest."""
    there, exact = deepcopy(unit).to(on), deepcopy(unit).double()
    x_there, x_exact = (t.detach().requires_grad_() for t in (x.to(on), x.double()))
    a = there(x_there)
    z = sample(x_exact, exact.source, exact.shift)
    b = functional.conv2d(torch.relu(exact.norm(z)), exact.conv.weight)
    a.square().sum().backward()
    b.square().sum().backward()
    gaps = {"output": (a.detach().cpu().double() - b).abs().max().item()}
    pairs = zip(there.named_parameters(), exact.parameters(), strict=True)
    for name, p, q in [("x", x_there, x_exact), *((n, p, q) for (n, p), q in pairs)]:
        gap = (p.grad.cpu().double() - q.grad).abs().max() / q.grad.abs().max().clamp(min=1e-9)
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
    found: list[Any] = []
    replay = bench.graph(lambda: found.append(run()))
    unit.load_state_dict(moved(Unit(96, 48, 1), 0.6, seed=4).state_dict())
    replay()
    fresh = run()
    torch.testing.assert_close(found[-1][0], fresh[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(found[-1][1][-1], fresh[1][-1], rtol=0.02, atol=0.05)
    twin = differentiate(bench.compiled(unit), x, bench.on)()
    torch.testing.assert_close(twin[0], fresh[0], rtol=0.02, atol=0.02)
    gap = (twin[1][0].float() - fresh[1][0].float()).abs().max().item()
    return {"repeats bit-equal": same, "compiled: gap of the input's gradient": gap}


def units(bench: Bench) -> dict[str, Any]:
    """Forward and backward of single units, as graphs; best plain setting counts."""
    found = {}
    for c_in, c_out, side in LAYERS[: 1 if bench.quick else None]:
        torch.manual_seed(0)
        plain, x = Unit(c_in, c_out, 1).to(bench.on), batch_of(bench, c_in, side)
        runs = {
            "plain": differentiate(plain, x, bench.on),
            "plain compiled": differentiate(bench.compiled(plain), x, bench.on),
        }
        for share in SHARES:
            unit = moved(plain, share).to(bench.on)
            runs[f"selective {share}"] = differentiate(unit, x, bench.on)
            if share in (0.0, 0.3):
                compiled = bench.compiled(unit)
                runs[f"selective {share} compiled"] = differentiate(compiled, x, bench.on)
        told = bench.ms({name: bench.graph(run) for name, run in runs.items()})
        best = min(told[name]["min_ms"] for name in ("plain", "plain compiled"))
        ratios = {name: row["min_ms"] / best for name, row in told.items()}
        place = f"{c_in}->{c_out}, {side}x{side}, batch {len(x)}"
        found[place] = {"graphs": told, "to the best plain": ratios}
        bench.found["units so far"] = found
        bench.write()
    bench.found.pop("units so far", None)
    return found


def kernels(bench: Bench) -> dict[str, Any]:
    """Microseconds of each kernel of a step: plain compiled, selective with 30 % re-used."""
    if bench.on != "cuda":
        return {}
    found = {}
    for c_in, c_out, side in LAYERS:
        torch.manual_seed(0)
        plain, x = Unit(c_in, c_out, 1).to(bench.on), batch_of(bench, c_in, side)
        arms = {"plain compiled": bench.compiled(plain), "0.3": moved(plain, 0.3).to(bench.on)}
        for name, unit in arms.items():
            run = differentiate(unit, x, bench.on)
            run()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as kept:
                for _ in range(5):
                    run()
                bench.wait()
            rows = sorted(kept.key_averages(), key=lambda row: -row.device_time_total)
            found[f"{c_in}->{c_out}, {side}x{side}: {name}"] = {
                row.key[:70]: [round(row.device_time_total / 5, 1), row.count / 5] for row in rows
            }
    return found


def moved_net(spec, share: float, on: str) -> nn.Module:
    """The selective net of a spec with a share of the slots re-used."""
    torch.manual_seed(0)
    net = build_net(spec.net(), 10, 3)
    for unit in units_of(net).values():
        if isinstance(unit, SelectiveUnit):
            slots = torch.randperm(len(unit.gate))[: round(share * len(unit.gate))]
            with torch.no_grad():
                unit.source[slots] = torch.randint(0, 3, (len(slots),))
                unit.shift[slots] = 3 * torch.rand(len(slots), 2) - 1.5
    return net.to(on, memory_format=torch.channels_last)


def nets(bench: Bench, *, compiled: bool = False) -> dict[str, Any]:
    """Forward and backward of DenseNet-40 as graphs: plain, selective; compiled or as it is."""
    spec, found = make_spec("selective", 0, 2, growth=4 if bench.quick else 12), {}
    torch.manual_seed(0)
    arms = {"plain": build_net(spec.model.model_dump(), 10, 3)}
    arms |= {
        f"selective {s}": moved_net(spec, s, bench.on) for s in ((0.3,) if compiled else SHARES)
    }
    for batch in (2,) if bench.quick else (256,) if compiled else (64, 256, 1024):
        x = torch.randn(batch, 3, 32, 32, device=bench.on).to(memory_format=torch.channels_last)
        runs = {}
        for name, net in arms.items():
            net.to(bench.on, memory_format=torch.channels_last)
            used = bench.compiled(net) if compiled else net
            runs[name] = bench.graph(differentiate(used, x.requires_grad_(), bench.on))
        found[f"densenet40, batch {batch}"] = bench.ms(runs)
    return found


def inference(bench: Bench) -> dict[str, Any]:
    """DenseNet-40 in eval mode as graphs: plain, selective with 30 % moved, and its exports."""
    spec = make_spec("selective", 0, 2, growth=4 if bench.quick else 12)
    net = moved_net(spec, 0.3, bench.on).eval()
    closed = moved_net(spec, 0.0, bench.on).eval()
    for unit in units_of(closed).values():
        unit.gate[torch.randperm(len(unit.gate))[: round(0.3 * len(unit.gate))]] = 0
    plain = build_net(spec.model.model_dump(), 10, 3)
    small = {
        "compact 0.3": compact(net, spec.model, 10, 3, whole=False)[0],
        "whole shifts 0.3": compact(net, spec.model, 10, 3, whole=True)[0],
        "compact, 0.3 closed": compact(closed, spec.model, 10, 3, whole=False)[0],
    }
    arms = {"plain": plain.to(bench.on).eval(), "selective 0.3": net, **small}
    x = torch.randn(4 if bench.quick else 512, 3, 32, 32, device=bench.on)
    x = x.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(small["compact 0.3"](x), net(x), rtol=1e-2, atol=1e-2)
        gap = (small["compact, 0.3 closed"](x) - closed(x)).abs().max().item()
        assert gap < 1e-2, gap

    def forward(net: nn.Module) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad(), torch.autocast(bench.on, dtype=torch.bfloat16):
                return net(x)

        return run

    runs = {"plain compiled": bench.compiled(arms["plain"])} | arms
    for used in runs.values():
        used.to(memory_format=torch.channels_last)
    return bench.ms({name: bench.graph(forward(net)) for name, net in runs.items()})


def rounds(bench: Bench) -> dict[str, Any]:
    """A round of closing and re-use; the host waits once, at the end."""
    runs = {}
    for c_in, c_out in ((168, 48), (408, 48), (1024, 512)):
        start = SelectiveUnit(c_in, c_out, 1).to(bench.on)
        with torch.no_grad():  # the same half closes, and opens with weights 0, in every round
            start.conv.weight[:, : c_in // 2] = 0

        def run(unit: SelectiveUnit = start) -> None:
            deallocate(unit, 1e-3)
            reallocate(unit, 3, 1.5, torch.Generator().manual_seed(0))

        runs[f"{c_in}x{c_out}"] = run
    return bench.ms(runs)


def sweep(bench: Bench) -> dict[str, Any]:
    """Forward and backward with 30 % re-used, in tiles of other shapes."""
    found, usual = {}, shifted_norm_gpu.TILES
    for c_in, c_out, side in LAYERS[: 1 if bench.quick else None]:
        torch.manual_seed(0)
        unit, x = moved(Unit(c_in, c_out, 1), 0.3).to(bench.on), batch_of(bench, c_in, side)
        runs = {}
        for tiles in SWEPT[: 2 if bench.quick else None]:
            shifted_norm_gpu.TILES = tiles
            try:
                runs[str(tuple(tiles))] = bench.graph(differentiate(unit, x, bench.on))
            except Exception as error:  # a shape may not fit the chip
                found[f"failed {tuple(tiles)}"] = str(error)[:200]
        shifted_norm_gpu.TILES = usual
        found[f"{c_in}->{c_out}, {side}x{side}"] = bench.ms(runs)
    return found


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "correct": correct,
    "units": units,
    "kernels": kernels,
    "nets": nets,
    "inference": inference,
    "rounds": rounds,
    "sweep": sweep,
    "alike": alike,
    "nets_compiled": lambda bench: nets(bench, compiled=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sections", default=",".join(TIMED))
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--growth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    bench = Bench(chosen.out, chosen.budget_s, chosen.quick)
    if bench.on == "cuda":
        device.tune("cuda")
    if chosen.quality:
        bench.section("correct", correct)
        plan = selective_quality.Plan(chosen.data, chosen.growth, chosen.batch, chosen.seeds)
        selective_quality.run(bench, plan)
        return
    for name in chosen.sections.split(","):
        bench.section(name, SECTIONS[name])


if __name__ == "__main__":
    main()
