"""Saliency on one GPU: ResNet-50 at 224 beside captum; correctness first.

    python -m tests.bench.saliency_gpu --out FILE.json [--budget-s 240] [--sections a,b]
    python -m tests.bench.saliency_gpu --quick --out FILE.json      # tiny, on a CPU, same code
    python -m tests.bench.saliency_gpu --quality --out FILE.json    # variance of RISE's estimators

Weights are random (He initialisation, batch statistics of noise): times do not depend on them. The
file is written after every section, so a run that is cut off keeps what it has; a section that
fails is recorded with its error. captum is used where it is installed. Whole map makers are timed,
peer and ours in turn, base values and masks included; ours hold their routes and graphs from an
earlier image, as in a job of many images.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from models.core import device as devices
from models.nets.build import build_net
from models.saliency.case import Case
from models.saliency.curves import pixel_curve
from models.saliency.engine.graphed import GraphedChanges
from models.saliency.engine.incremental import Base, Changes, in_order
from models.saliency.engine.plan import Plan
from models.saliency.engine.trace import trace
from models.saliency.makers import make
from models.saliency.masks import draw, render
from models.saliency.methods import Method
from models.saliency.metrics import Curve, Road
from models.saliency.occlusion import regions, windows
from models.saliency.road import road
from models.saliency.scores import Scorer
from models.saliency.spec_masks import FeatureAblation, Grid, Occlusion, Rise

CAPTUM = (8, 32, 64, 128, 256)  # perturbations an evaluation; the best one counts
FORMATS = ("fp32", "tf32", "bf16")


def arithmetic(name: str) -> None:
    """As jobs set it for a precision; peers get the same."""
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    torch.backends.cudnn.benchmark = name != "fp32"


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.end = options.out, time.monotonic() + options.budget_s
        self.quick, self.on = options.quick, "cpu" if options.quick else "cuda"
        self.side, self.rounds = (64, 1) if options.quick else (224, 6)
        self.found: dict[str, Any] = {"machine": devices.describe(self.on), "side": self.side}
        try:
            self.found["captum"] = version("captum")
        except PackageNotFoundError:
            self.found["captum"] = None
        self.net = small_statistics(self.side).to(self.on)
        self.low = copy.deepcopy(self.net).bfloat16()
        numbers = torch.Generator().manual_seed(1)
        self.x = torch.randn(3, self.side, self.side, generator=numbers).to(self.on)
        self.b = torch.zeros_like(self.x)
        shape = (3, self.side, self.side)
        self.plans = {"fp32": trace(self.net, shape), "bf16": trace(self.low, shape)}
        self.scorers = {name: self._scorer(name) for name in FORMATS}
        stride = 32 if self.quick else 8
        self.window = Occlusion(id="occlusion", window=32, stride=stride)
        self.target = 1

    def _scorer(self, name: str) -> Scorer:
        low = name == "bf16"
        plan: Plan = self.plans["bf16" if low else "fp32"]
        return Scorer(copy.deepcopy(self.net), "prob", plan=plan, lower=self.low if low else None)

    def case(self, name: str, chunk: int = 256) -> Case:
        scorer = self.scorers[name]
        target = torch.tensor([self.target], device=self.on)
        full = scorer.read(scorer.outputs(self.x[None]))[0, target]
        return Case(self.x, scorer, target, full, 0, 8 if self.quick else chunk)

    def maker(self, name: str, part: Method) -> Callable[[], Tensor]:
        def work() -> Tensor:
            arithmetic(name)
            return make(part, self.case(name), self.b)[0]

        return work

    def peer_net(self, name: str) -> nn.Module:
        return self.low if name == "bf16" else self.net

    def prob(self, name: str) -> Callable[[Tensor], Tensor]:
        net = self.peer_net(name)
        return lambda images: net(images.to(next(net.parameters()).dtype)).float().softmax(1)

    def images(self) -> Tensor:
        """All occluded images, ready made."""
        over = regions(windows(self.window, self.side, self.side, torch.device(self.on)))
        index = torch.arange(over.number, device=self.on)
        return torch.where(over.masks(index)[:, None], self.b, self.x)

    # -- running -----------------------------------------------------------------------------

    def section(self, name: str, work: Callable[["Bench"], Any]) -> None:
        if time.monotonic() > self.end:
            self.found[name] = "left out: the budget is spent"
        else:
            started = time.monotonic()
            try:
                self.found[name] = work(self)
            except Exception as error:  # later sections may still work
                self.found[name] = {"failed": f"{type(error).__name__}: {error}"[:600]}
            if isinstance(self.found[name], dict):
                self.found[name]["section_s"] = round(time.monotonic() - started, 1)
        if self.out:
            self.out.write_text(json.dumps(self.found, indent=1) + "\n")
        print(name, json.dumps(self.found[name]), flush=True)

    def wait(self) -> None:
        if self.on == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, works: dict[str, Callable[[], Any]], warm: int = 3) -> dict[str, Any]:
        """Each work in turn, ``rounds`` times after warming up; minimum and median."""
        taken: dict[str, list[float]] = {name: [] for name in works}
        for place in range(self.rounds + (1 if self.quick else warm)):
            for name, work in works.items():
                self.wait()
                start = time.perf_counter()
                work()
                self.wait()
                if place >= (1 if self.quick else warm):
                    taken[name].append(1e3 * (time.perf_counter() - start))
        return {
            name: {"min_ms": round(min(t), 3), "median_ms": round(median(t), 3)}
            for name, t in taken.items()
        }

    def peak_mib(self, work: Callable[[], Any]) -> float | None:
        """What a work allocates beyond what was there, at most."""
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


# -- sections --------------------------------------------------------------------------------


def correctness(bench: Bench) -> dict[str, Any]:
    """Plan, boxes and graph against the plain net in full float32; maps against captum's."""
    arithmetic("fp32")
    images = bench.images()
    expected = torch.cat([bench.net(part) for part in images.split(64)])
    plan, scale = bench.plans["fp32"], expected.abs().max().item()
    over = regions(windows(bench.window, bench.side, bench.side, torch.device(bench.on)))
    changes = Changes(plan, over, 96)
    boxes = in_order(list(changes.outputs(Base(plan, bench.x), bench.b)))
    planned = torch.cat([plan(part) for part in images.split(64)])
    told: dict[str, Any] = {"plan": gap(planned, expected), "boxes": gap(boxes, expected)}
    if bench.on == "cuda":
        graph = GraphedChanges(changes, bench.x, bench.b)
        told["graph"] = gap(graph(bench.x, bench.b), expected)
        other = torch.randn_like(bench.x)
        moved = in_order(list(changes.outputs(Base(plan, other), bench.b)))
        told["graph_of_another_image"] = gap(graph(other, bench.b), moved)
    told = {name: value / scale for name, value in told.items()}
    assert max(told.values()) < 1e-4, told
    if bench.found["captum"]:
        theirs = captum_occlusion(bench, "fp32", 64)()
        for name in FORMATS:
            work = bench.maker(name, bench.window)
            worst = max(gap(work(), theirs), gap(work(), theirs))  # eager, then as a graph
            told[f"captum_{name}"] = worst
            told[f"captum_{name}_of_range"] = worst / (theirs.max() - theirs.min()).item()
    return told


def occlusion(bench: Bench) -> dict[str, Any]:
    """625 windows: captum at its settings, a forward pass of ready images, ours, in turn."""
    told: dict[str, Any] = {"windows": bench.window.rows(bench.side, bench.side)}
    for name in FORMATS:
        net = copy.deepcopy(bench.peer_net(name)).to(memory_format=torch.channels_last)
        ready = bench.images().to(next(net.parameters()).dtype)
        parts = ready.contiguous(memory_format=torch.channels_last).split(256)

        def plain(name: str = name, net: nn.Module = net, parts: Any = parts) -> None:
            arithmetic(name)
            for part in parts:
                net(part)

        works: dict[str, Callable[[], Any]] = {"plain_forward": plain}
        if bench.found["captum"]:
            sizes = CAPTUM if not bench.quick else CAPTUM[:1]
            works |= {f"captum_{n}": captum_occlusion(bench, name, n) for n in sizes}
        works["sextant"] = bench.maker(name, bench.window)
        told[name] = rated(bench.milliseconds(works))
    return told


def rated(found: dict[str, Any]) -> dict[str, Any]:
    """Adds the ratio of captum's best setting to ours."""
    peers = [v["median_ms"] for name, v in found.items() if name.startswith("captum")]
    if peers:
        found["ratio_median"] = round(min(peers) / found["sextant"]["median_ms"], 2)
    return found


def ablation(bench: Bench) -> dict[str, Any]:
    """A grid of 14 x 14 segments."""
    cells = 4 if bench.quick else 14
    part = FeatureAblation(id="feature_ablation", segments=Grid(id="grid", rows=cells))
    told: dict[str, Any] = {}
    for name in FORMATS[1:]:
        works: dict[str, Callable[[], Any]] = {}
        if bench.found["captum"]:
            sizes = CAPTUM[1:] if not bench.quick else CAPTUM[:1]
            works = {f"captum_{n}": captum_ablation(bench, name, n, cells) for n in sizes}
        works["sextant"] = bench.maker(name, part)
        told[name] = rated(bench.milliseconds(works))
        if works.keys() > {"sextant"}:
            told[name]["max_difference"] = gap(works["sextant"](), next(iter(works.values()))())
    return told


def rise(bench: Bench) -> dict[str, Any]:
    """The published algorithm on the same masks; making them is in both times."""
    part = Rise(id="rise", masks=8 if bench.quick else 2000)
    told: dict[str, Any] = {"masks": part.masks}
    rounds, bench.rounds = bench.rounds, min(bench.rounds, 3)
    for name in FORMATS[1:]:

        def published(size: int, name: str = name) -> Tensor:
            arithmetic(name)
            index = torch.arange(part.masks, device=bench.on)
            shape = (bench.side, bench.side)
            masks = render(draw(part, 0, index, *shape), *shape).float()
            forward = bench.prob(name)
            scores = torch.cat([forward(bench.x * m[:, None]) for m in masks.split(size)])
            found = scores.T @ masks.flatten(1) / part.masks / part.p
            return found.view(-1, *shape)[bench.target]

        works = {f"published_{n}": (lambda n=n: published(n)) for n in (64, 256)}
        works["sextant"] = bench.maker(name, part)
        told[name] = bench.milliseconds(works, warm=1)
        best = min(v["median_ms"] for n, v in told[name].items() if n != "sextant")
        told[name]["ratio_median"] = round(best / told[name]["sextant"]["median_ms"], 2)
        told[name]["max_difference"] = gap(works["sextant"](), published(64))
        told[name]["peak_mib"] = {n: bench.peak_mib(work) for n, work in works.items()}
    bench.rounds = rounds
    return told


def graders(bench: Bench) -> dict[str, Any]:
    """A deletion curve of 225 states, and ROAD's imputation of 18 images."""
    numbers = torch.Generator().manual_seed(2)
    values = torch.rand(bench.side, bench.side, generator=numbers).to(bench.on)
    smooth = make(bench.window, bench.case("tf32"), bench.b)[0].float()
    curve = Curve(id="deletion", points=4 if bench.quick else 224)
    part = Road(
        id="road", percent=[10, 50] if bench.quick else [10, 20, 30, 40, 50, 60, 70, 80, 90]
    )

    def states() -> None:
        arithmetic("tf32")
        pixel_curve(curve, values, bench.b, bench.case("tf32"), 0)

    def imputed(shown: Tensor) -> None:
        arithmetic("tf32")
        road(part, shown, bench.case("tf32"), 0)

    works = {
        "deletion": states,
        "road_random_map": lambda: imputed(values),
        "road_occlusion_map": lambda: imputed(smooth),
    }
    return bench.milliseconds(works, warm=1)


def memory(bench: Bench) -> dict[str, Any]:
    """Peak beyond the net, by method and number of rows, in MiB."""
    few, many = ((4, 8), (8, 16)) if bench.quick else ((500, 4000), (4000, 500))
    told: dict[str, Any] = {}
    for masks in sorted({*few, *many}):
        told[f"rise_{masks}"] = bench.peak_mib(bench.maker("tf32", Rise(id="rise", masks=masks)))
    told["occlusion"] = bench.peak_mib(bench.maker("tf32", bench.window))
    return told


def groups(bench: Bench) -> dict[str, Any]:
    """Boxes by windows at once and by the share of a map from which it is computed whole."""
    told: dict[str, Any] = {}
    over = regions(windows(bench.window, bench.side, bench.side, torch.device(bench.on)))
    for name, plan in (("tf32", bench.plans["fp32"]), ("bf16", bench.plans["bf16"])):
        arithmetic(name)
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        x, b = bench.x.to(dtype), bench.b.to(dtype)
        for size in (48, 64, 96, 128, 160):
            for cut in (0.5, 0.75, 0.9):
                if time.monotonic() > bench.end:
                    return told
                changes = Changes(plan, over, size, cut)
                label = f"{name}_{size}_{cut}"
                if bench.on == "cuda":
                    graph = GraphedChanges(changes, x, b)
                    told |= bench.milliseconds({label: lambda g=graph, x=x, b=b: g(x, b)})
                else:
                    works = {
                        label: lambda c=changes, p=plan, x=x, b=b: list(c.outputs(Base(p, x), b))
                    }
                    told |= bench.milliseconds(works)
                if bench.quick:
                    return told
    return told


def quality(bench: Bench) -> dict[str, Any]:
    """Error of RISE's estimators and samplings at equal N, against many masks of another seed."""
    arithmetic("tf32")

    def made(seed: int, masks: int, **fields: Any) -> Tensor:
        case = bench.case("tf32")
        case.seed = seed
        return make(Rise(id="rise", masks=masks, **fields), case, bench.b)[0]

    told: dict[str, Any] = {}
    reference, counts = (16, (8,)) if bench.quick else (40_000, (250, 500, 1000, 2000, 4000))
    for estimator in ("raw", "slope"):
        whole = made(99, reference, estimator=estimator)
        for sampling in ("iid", "balanced"):
            for count in counts:
                if time.monotonic() > bench.end:
                    return told
                found = [
                    made(s, count, estimator=estimator, sampling=sampling) - whole
                    for s in range(2 if bench.quick else 6)
                ]
                errors = [(error.std() / whole.std()).item() for error in found]
                told[f"{estimator}_{sampling}_{count}"] = {"relative_error": errors}
    return told


SECTIONS = {
    "correctness": correctness,
    "occlusion": occlusion,
    "ablation": ablation,
    "rise": rise,
    "graders": graders,
    "memory": memory,
    "groups": groups,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names with commas")
    parser.add_argument("--data", type=Path, help="not used: times do not depend on the images")
    options = parser.parse_args()
    chosen = {name: SECTIONS[name] for name in options.sections.split(",")}
    with torch.inference_mode():
        bench = Bench(options)
        for name, work in ({"quality": quality} if options.quality else chosen).items():
            bench.section(name, work)


if __name__ == "__main__":
    main()
