"""Shared by the sections of ``saliency_gpu``: the net, clocks, peers."""

import argparse
import copy
import json
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.core import device as devices
from models.nets.build import build_net
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.engine.trace import trace
from models.saliency.methods.case import Case
from models.saliency.methods.occlusion import regions, windows
from models.saliency.methods.registry import compute_map
from models.saliency.net.scores import Scorer
from models.saliency.spec.masks import Occlusion
from models.saliency.spec.methods import Method

CAPTUM = (8, 32, 64, 128, 256)  # perturbations an evaluation; the best one counts
FORMATS = ("fp32", "tf32", "bf16")
UNTIMED = ("tf32_untimed", "bf16_untimed")  # what cuDNN's timing of its algorithms brings
MORE = ("torch_default", *UNTIMED)


class Arithmetic(NamedTuple):
    """TF32 in convolutions, TF32 in products of matrices, algorithms that cuDNN times."""

    convolutions: bool
    products: bool
    timed: bool


# As jobs set it for a precision. ``torch_default`` is PyTorch as it comes, TF32 in convolutions but
# not in products of matrices; ``_timed`` and ``_untimed`` change how cuDNN chooses its algorithms.
ARITHMETIC = {
    "fp32": Arithmetic(convolutions=False, products=False, timed=False),
    "fp32_timed": Arithmetic(convolutions=False, products=False, timed=True),
    "tf32": Arithmetic(convolutions=True, products=True, timed=True),
    "tf32_untimed": Arithmetic(convolutions=True, products=True, timed=False),
    "bf16": Arithmetic(convolutions=False, products=False, timed=True),
    "bf16_untimed": Arithmetic(convolutions=False, products=False, timed=False),
    "torch_default": Arithmetic(convolutions=True, products=False, timed=False),
}


def arithmetic(name: str) -> None:
    """Number formats and choice of algorithms; peers get the same as ours."""
    chosen = ARITHMETIC[name]
    torch.backends.cudnn.allow_tf32 = chosen.convolutions
    torch.backends.cuda.matmul.allow_tf32 = chosen.products
    torch.backends.cudnn.benchmark = chosen.timed


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.end = options.out, time.monotonic() + options.budget_s
        self.quick, self.on = options.quick, "cpu" if options.quick else "cuda"
        self.side, self.rounds = (64, 1) if options.quick else (224, 6)
        self.figures: dict[str, Any] = {"machine": devices.describe(self.on), "side": self.side}
        try:
            self.figures["captum"] = version("captum")
        except PackageNotFoundError:
            self.figures["captum"] = None
        numbers = torch.Generator().manual_seed(1)
        self.x = torch.randn(3, self.side, self.side, generator=numbers).to(self.on)
        stride = 32 if self.quick else 8
        self.window = Occlusion(id="occlusion", window=32, stride=stride)

    def use(self, net: nn.Module, x: Tensor, target: int) -> None:
        """Set the net, the image and the class to explain."""
        self.net, self.x, self.target = net.to(self.on), x.to(self.on), target
        self.side = x.shape[-1]
        self.low, self.b = copy.deepcopy(self.net).bfloat16(), torch.zeros_like(self.x)
        self._plans: dict[str, ExecutionPlan] = {}
        self._scorers: dict[str, Scorer] = {}

    def plan(self, name: str) -> ExecutionPlan:
        """Of a number format, made at its first use."""
        low = "bf16" if name.startswith("bf16") else "fp32"
        if low not in self._plans:
            net = self.low if low == "bf16" else self.net
            self._plans[low] = trace(net, (len(self.x), *self.x.shape[1:]))
        return self._plans[low]

    def scorer(self, name: str) -> Scorer:
        """With the routes and graphs of a number format."""
        if name not in self._scorers:
            low = self.low if name.startswith("bf16") else None
            net = copy.deepcopy(self.net)
            self._scorers[name] = Scorer(net, "prob", plan=self.plan(name), lower=low)
        return self._scorers[name]

    def case(self, name: str, chunk: int = 256) -> Case:
        scorer = self.scorer(name)
        target = torch.tensor([self.target], device=self.on)
        full = scorer.scores(scorer.outputs(self.x[None]))[0, target]
        return Case(self.x, scorer, target, full, 0, 8 if self.quick else chunk)

    def maker(self, name: str, part: Method) -> Callable[[], Tensor]:
        def work() -> Tensor:
            arithmetic(name)
            return compute_map(part, self.case(name), self.b)[0]

        return work

    def peer_net(self, name: str) -> nn.Module:
        return self.low if name.startswith("bf16") else self.net

    def prob(self, name: str) -> Callable[[Tensor], Tensor]:
        net = self.peer_net(name)
        return lambda images: net(images.to(next(net.parameters()).dtype)).float().softmax(1)

    def images(self) -> Tensor:
        """All occluded images."""
        over = regions(windows(self.window, self.side, self.side, torch.device(self.on)))
        index = torch.arange(over.number, device=self.on)
        return torch.where(over.masks(index)[:, None], self.b, self.x)

    # -- running -----------------------------------------------------------------------------

    def section(self, name: str, work: Callable[["Bench"], Any]) -> None:
        if time.monotonic() > self.end:
            self.figures[name] = "left out: the budget is spent"
        else:
            started, kept = time.monotonic(), dict(vars(self))
            figures = self.figures[name] = {}  # a long section fills it as it goes
            try:
                self.figures[name] = work(self)
            except Exception as error:  # later sections may still work
                figures["failed"] = f"{type(error).__name__}: {error}"[:600]
            vars(self).update(kept)  # a section may explain another net
            if isinstance(self.figures[name], dict):
                self.figures[name]["section_s"] = round(time.monotonic() - started, 1)
        self.report(name, self.figures[name])

    def report(self, name: str, figures: Any) -> None:
        """Print figures and write all so far, so that an interrupted run keeps them."""
        print(name, json.dumps(figures), flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.figures, indent=1) + "\n")

    def wait(self) -> None:
        if self.on == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, works: dict[str, Callable[[], Any]], warm: int = 3) -> dict[str, Any]:
        """Each work in turn, ``rounds`` times after warming up; minimum and median."""
        taken: dict[str, list[float]] = {name: [] for name in works}
        for round_index in range(self.rounds + (1 if self.quick else warm)):
            for name, work in works.items():
                self.wait()
                start = time.perf_counter()
                work()
                self.wait()
                if round_index >= (1 if self.quick else warm):
                    taken[name].append(1e3 * (time.perf_counter() - start))
        return {
            name: {"min_ms": round(min(t), 3), "median_ms": round(median(t), 3)}
            for name, t in taken.items()
        }

    def peak_mib(self, work: Callable[[], Any]) -> float | None:
        """Peak memory that a work allocates, in MiB."""
        if self.on == "cpu":
            return None
        work()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def small_statistics(side: int) -> nn.Module:
    """ResNet-50 whose batch statistics keep activations in range."""
    torch.manual_seed(0)
    net = build_net({"name": "resnet50", "stem": "7x7"}, 1000)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, side, side))
    return net.eval()


def gap(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def captum_occlusion(bench: Bench, name: str, size: int) -> Callable[[], Tensor]:
    from captum.attr import Occlusion as Peer

    window, stride = bench.window.window, bench.window.stride
    forward = bench.prob(name)

    def work() -> Tensor:
        arithmetic(name)
        return Peer(forward).attribute(
            bench.x[None], sliding_window_shapes=(3, window, window), strides=(3, stride, stride),
            baselines=0, target=bench.target, perturbations_per_eval=size,
        )[0, 0]  # fmt: skip

    return work


def captum_ablation(bench: Bench, name: str, size: int, cells: int) -> Callable[[], Tensor]:
    from captum.attr import FeatureAblation as Peer

    rows = torch.arange(bench.side, device=bench.on) * cells // bench.side
    labels = (rows[:, None] * cells + rows)[None, None]
    forward = bench.prob(name)

    def work() -> Tensor:
        arithmetic(name)
        return Peer(forward).attribute(
            bench.x[None], baselines=0, target=bench.target, feature_mask=labels,
            perturbations_per_eval=size,
        )[0, 0]  # fmt: skip

    return work


def rated(timings: dict[str, Any]) -> dict[str, Any]:
    """Adds the ratio of captum's best setting to ours."""
    peers = [v["median_ms"] for name, v in timings.items() if name.startswith("captum")]
    if peers:
        timings["ratio_median"] = round(min(peers) / timings["sextant"]["median_ms"], 2)
    return timings
