"""Selective units and DenseNets on one GPU: correct first, then timed, then (--quality) trained.

    python -m tests.bench.selective_gpu --out FILE [--quick] [--budget-s 240]
    python -m tests.bench.selective_gpu --out FILE --quality --data NPZ [--budget-s 600]

NPZ is CIFAR-10 as ``tests.bench.cifar10`` packs it. The file is written after every
section. ``--quick`` runs the same code in seconds, on a CPU too.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.core import device
from models.core.run import Run
from models.core.training import Arm
from models.data import images, synthetic
from models.data.images import ImageData
from models.nets.preactivation import Unit
from models.nets.selective import SelectiveUnit
from models.nets.shifted_norm import sample
from models.selective_convolution import report
from models.selective_convolution import train as method
from models.selective_convolution.allocate import deallocate, reallocate
from models.selective_convolution.export import compact
from models.selective_convolution.rounds import units_of
from models.selective_convolution.spec import SelectiveConvolutionTrain
from tests.bench import cifar10
from tests.bench.selective import moved

LAYERS = ((96, 48, 32), (256, 64, 16), (512, 128, 16))
SHARES = (0.0, 0.1, 0.3, 0.6)


class Bench:
    """What was found so far, and the seconds left."""

    def __init__(self, out: Path, budget_s: float, quick: bool) -> None:
        self.on = "cuda" if torch.cuda.is_available() else "cpu"
        self.out, self.quick = out, quick
        self.ends = time.monotonic() + budget_s
        self.found: dict[str, Any] = {"device": device.describe(self.on), "quick": quick}

    def section(self, name: str, run: Callable[[], Any]) -> None:
        if time.monotonic() > self.ends:
            self.found[name] = "left out: the budget is spent"
        else:
            try:
                self.found[name] = run()
            except Exception as error:  # later sections may still work
                self.found[name] = f"failed: {type(error).__name__}: {error}"[:600]
        self.out.write_text(json.dumps(self.found, indent=2) + "\n")
        print(name, json.dumps(self.found[name])[:1500], flush=True)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends

    def ms(self, runs: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
        """Milliseconds of each in turn, minimum and median, and ratio to the first."""
        rounds, inside = (2, 1) if self.quick else (12, 10)
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
        first = median(next(iter(taken.values())))
        return {
            name: {"min_ms": min(t), "median_ms": median(t), "ratio": median(t) / first}
            for name, t in taken.items()
        }

    def wait(self) -> None:
        if self.on == "cuda":
            torch.cuda.synchronize()


def correct(bench: Bench) -> dict[str, float]:
    """The device agrees with float64 on a CPU: output, gradients, a round of allocation."""
    torch.manual_seed(0)
    unit = moved(Unit(24, 12, 1), 0.5)
    x = torch.randn(4, 24, 9, 7)
    worst = {}
    there, exact = deepcopy(unit).to(bench.on), deepcopy(unit).double()
    a = there(x.to(bench.on))
    z = sample(x.double(), exact.source, exact.shift)
    b = functional.conv2d(torch.relu(exact.norm(z)), exact.conv.weight)
    worst["output"] = (a.cpu().double() - b).abs().max().item()
    a.square().sum().backward()
    b.square().sum().backward()
    for (name, p), q in zip(there.named_parameters(), exact.parameters(), strict=True):
        gap = (p.grad.cpu().double() - q.grad).abs().max() / q.grad.abs().max()
        worst[name] = gap.item()
    assert max(worst.values()) < 1e-3, worst
    gates = []
    for made in (there, unit):
        with torch.no_grad():
            made.conv.weight.copy_(unit.conv.weight.to(made.conv.weight.device))
        deallocate(made, 0.3)
        gates.append(made.gate.cpu().clone())
        before = made.eval()(x.to(made.gate.device))
        reallocate(made, 3, 1.5, torch.Generator().manual_seed(1))
        worst["function kept"] = (made(x.to(made.gate.device)) - before).abs().max().item()
        assert worst["function kept"] < 1e-5
    assert torch.equal(*gates)
    return worst


def training(bench: Bench, precision: torch.dtype, batch: int) -> dict[str, Any]:
    """Forward and backward of single units: as they are, and compiled."""
    found = {}
    for c_in, c_out, side in LAYERS[: 1 if bench.quick else None]:
        torch.manual_seed(0)
        plain = Unit(c_in, c_out, 1)
        x = torch.randn(batch, c_in, side, side, device=bench.on, requires_grad=True)
        units = {"plain": plain} | {str(share): moved(plain, share) for share in SHARES}
        runs: dict[str, Callable[[], object]] = {}
        for name, unit in units.items():
            unit.to(bench.on)
            runs[name] = lambda unit=unit, x=x: _both(unit, x, precision, bench.on)
        eager = bench.ms(runs)
        compiled = {}
        for name in ("plain", "0.0", "0.3"):
            unit = torch.compile(units[name], fullgraph=True)
            compiled[name] = lambda unit=unit, x=x: _both(unit, x, precision, bench.on)
        place = f"{c_in}->{c_out}, {side}x{side}, batch {batch}, {precision}"
        found[place] = {"eager": eager, "compiled": bench.ms(compiled)}
    return found


def _both(unit: nn.Module, x: Tensor, precision: torch.dtype, on: str) -> None:
    with torch.autocast(on, dtype=precision, enabled=precision != torch.float32):
        out = unit(x)
    out.float().sum().backward()


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


def whole_net(bench: Bench) -> dict[str, Any]:
    """Inference of DenseNet-40: plain, selective with 30 % moved, and its exports."""
    spec = make_spec("none", 0, 2)
    torch.manual_seed(0)
    net = method.build_net(spec.net(), 10, 3)
    for unit in units_of(net).values():
        if isinstance(unit, SelectiveUnit):
            slots = torch.randperm(len(unit.gate))[: round(0.3 * len(unit.gate))]
            with torch.no_grad():
                unit.source[slots] = torch.randint(0, 3, (len(slots),))
                unit.shift[slots] = 3 * torch.rand(len(slots), 2) - 1.5
    net.to(bench.on).eval()
    nets = {
        "plain": method.build_net(spec.model.model_dump(), 10, 3).to(bench.on).eval(),
        "selective 0.3": net,
        "compact 0.3": compact(net, spec.model, 10, 3, whole=False)[0],
        "whole shifts 0.3": compact(net, spec.model, 10, 3, whole=True)[0],
    }
    x = torch.randn(4 if bench.quick else 512, 3, 32, 32, device=bench.on)
    with torch.inference_mode():
        torch.testing.assert_close(nets["compact 0.3"](x), net(x), rtol=1e-2, atol=1e-2)
        return bench.ms({name: lambda net=net, x=x: net(x) for name, net in nets.items()})


def make_spec(arm: str, seed: int, epochs: int, growth: int = 12, threshold: float = 1e-3):
    """DenseNet-40 in the paper's recipe, shortened; ``arm`` says what may happen to slots."""
    chosen: dict[str, Any] = {"threshold": threshold}
    chosen |= {"plain": {"enabled": False}, "wider": {"enabled": False}}.get(arm, {})
    chosen |= {"realloc": False} if arm == "closing only" else {}
    return SelectiveConvolutionTrain.model_validate(
        {
            "kind": "selective_convolution.train",
            "model": {"name": "densenet40", "growth": growth},
            "data": {"dataset": "none"},
            "images": {"augment": {"crop_padding": 4, "flip": True}},
            "epochs": epochs,
            "batch_size": 128,
            "seed": seed,
            "channels_last": torch.cuda.is_available(),
            "selective": chosen,
        }
    )


def read_cifar(path: Path, quick: bool) -> ImageData:
    """CIFAR-10 of ``tests.bench.cifar10``, or generated images."""
    if quick:
        pairs = [synthetic.blobs(n, 10, 16, 3, seed) for n, seed in ((256, 1), (128, 2))]
        return images.from_tensors(*map(list, pairs), [str(k) for k in range(10)], "cpu")
    return cifar10.load(path, "cuda" if torch.cuda.is_available() else "cpu")


def held_out(data: ImageData) -> ImageData:
    """The last tenth of the training images as validation images."""
    cut = len(data.train) * 9 // 10
    parts = (data.train[:cut], data.train_labels[:cut], data.train[cut:], data.train_labels[cut:])
    return ImageData(*parts, data.classes, data.mean, data.std)


def train_arm(bench: Bench, data: ImageData, spec: SelectiveConvolutionTrain) -> dict[str, Any]:
    folder = bench.out.with_suffix(".run")
    folder.mkdir(exist_ok=True)
    run = Run(folder, io.StringIO(), device=bench.on, checkpoint_interval_s=1e9)
    net = method.new_net(spec, data, bench.on)
    counted, fitted = method.fit_selective(net, spec, data, run, Arm(keeps=False))
    found = report.values(spec, data, net, counted, fitted)
    names = ("test_accuracy", "test_nll", "train_seconds", "median_step_ms", "parameters")
    names += ("shifts_in_use", "closed", "reallocated", "open_at_the_end", "copies_at_the_end")
    return {name: found[name] for name in names}


def choose_threshold(bench: Bench, data: ImageData, epochs: int) -> dict[str, Any]:
    """The threshold of best validation accuracy, one seed."""
    part, found = held_out(data), {}
    for threshold in (1e-3, 1e-2, 5e-2)[: 1 if bench.quick else None]:
        spec = make_spec("selective", 100, epochs, 4 if bench.quick else 12, threshold)
        found[str(threshold)] = train_arm(bench, part, spec)
    best = max(found, key=lambda name: found[name]["test_accuracy"])
    return {"tried": found, "chosen": float(best)}


def compare(bench: Bench, data: ImageData, threshold: float, epochs: int, seeds: int) -> Any:
    """Four arms, paired by seed; a seed is finished before the next begins."""
    width = 4 if bench.quick else 12
    arms: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("plain", "selective", "closing only", "wider")
    }
    for seed in range(seeds):
        for arm, rows in arms.items():
            if bench.over:
                break
            # a growth of 13 has 17 % more parameters: above the 2 % of the shifts
            spec = make_spec(arm, seed, epochs, width + (arm == "wider"), threshold)
            rows.append(train_arm(bench, data, spec))
            bench.found["arms so far"] = arms
            bench.out.write_text(json.dumps(bench.found, indent=2) + "\n")
    return {"epochs": epochs, "threshold": threshold, "arms": arms, "paired": paired(arms)}


def paired(arms: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Mean difference of test accuracy to the plain arm with its standard error."""
    found = {}
    for name, rows in arms.items():
        gaps = [
            row["test_accuracy"] - plain["test_accuracy"]
            for row, plain in zip(rows, arms["plain"], strict=False)
        ]
        if name != "plain" and len(gaps) > 1:
            found[name] = {"mean": mean(gaps), "standard_error": stdev(gaps) / len(gaps) ** 0.5}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    bench = Bench(chosen.out, chosen.budget_s, chosen.quick)
    bench.section("correct", lambda: correct(bench))
    if isinstance(bench.found["correct"], str):
        raise SystemExit(bench.found["correct"])
    if chosen.quality:
        data = read_cifar(chosen.data, chosen.quick)
        epochs = 2 if chosen.quick else chosen.epochs
        bench.section("threshold", lambda: choose_threshold(bench, data, max(2, epochs // 2)))
        picked = bench.found["threshold"]
        best = picked["chosen"] if isinstance(picked, dict) else 1e-3
        seeds = 2 if chosen.quick else chosen.seeds
        bench.section("accuracy", lambda: compare(bench, data, best, epochs, seeds))
        return
    batch = 4 if chosen.quick else 256
    bench.section("rounds", lambda: rounds(bench))
    bench.section("inference", lambda: whole_net(bench))
    for precision in (torch.bfloat16, torch.float32):
        bench.section(f"training {precision}", lambda p=precision: training(bench, p, batch))


if __name__ == "__main__":
    main()
