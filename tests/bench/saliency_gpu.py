"""Saliency on one GPU: ResNet-50 at 224 beside captum; correctness first.

    python -m tests.bench.saliency_gpu --out FILE.json [--budget-s 240] [--sections a,b]
    python -m tests.bench.saliency_gpu --quick --out FILE.json      # tiny, on a CPU, same code
    python -m tests.bench.saliency_gpu --quality --out FILE.json    # variance of RISE's estimators
    python -m tests.bench.saliency_gpu --pack FOLDER; ... --data FOLDER --sections trained

Weights are random (He initialisation, batch statistics of noise): times do not depend on them. The
file is written after every section, so a run that is cut off keeps what it has; a section that
fails is recorded with its error. captum is used where it is installed. Whole map makers are timed,
peer and ours in turn, base activations and masks included; ours reuse routes and graphs of an
earlier image, as in a job of many images.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.saliency.engine.graphed import GraphedChanges
from models.saliency.engine.incremental import BaseActivations, Changes, in_order
from models.saliency.graders.curves import pixel_curve
from models.saliency.graders.road import road
from models.saliency.methods.occlusion import regions, windows
from models.saliency.methods.registry import compute_map
from models.saliency.methods.rise_masks import draw_masks, render
from models.saliency.spec.graders import Curve, Road
from models.saliency.spec.masks import FeatureAblation, GridSegments, Rise
from tests.bench.saliency_gpu_fp32 import fp32
from tests.bench.saliency_gpu_parts import (
    CAPTUM,
    FORMATS,
    MORE,
    UNTIMED,
    Bench,
    arithmetic,
    captum_ablation,
    captum_occlusion,
    gap,
    rated,
    small_statistics,
)
from tests.bench.saliency_gpu_trained import libraries, pack, quality, trained, with_first_uses


def correctness(bench: Bench) -> dict[str, Any]:
    """Plan, boxes and graph against the plain net in full float32; maps against captum's."""
    arithmetic("fp32")
    images = bench.images()
    expected = torch.cat([bench.net(part) for part in images.split(64)])
    plan, scale = bench.plan("fp32"), expected.abs().max().item()
    over = regions(windows(bench.window, bench.side, bench.side, torch.device(bench.on)))
    changes = Changes(plan, over, 96)
    boxes = in_order(list(changes.outputs(BaseActivations(plan, bench.x), bench.b)))
    planned = torch.cat([plan(part) for part in images.split(64)])
    figures: dict[str, Any] = {"plan": gap(planned, expected), "boxes": gap(boxes, expected)}
    if bench.on == "cuda":
        graph = GraphedChanges(changes, bench.x, bench.b)
        figures["graph"] = gap(graph(bench.x, bench.b), expected)
        other = torch.randn_like(bench.x)
        moved = in_order(list(changes.outputs(BaseActivations(plan, other), bench.b)))
        figures["graph_of_another_image"] = gap(graph(other, bench.b), moved)
    figures = {name: value / scale for name, value in figures.items()}
    assert max(figures.values()) < 1e-4, figures
    if bench.figures["captum"]:
        theirs = captum_occlusion(bench, "fp32", 64)()
        for name in FORMATS:
            work = bench.maker(name, bench.window)
            worst = max(gap(work(), theirs), gap(work(), theirs))  # eager, then as a graph
            figures[f"captum_{name}"] = worst
            figures[f"captum_{name}_of_range"] = worst / (theirs.max() - theirs.min()).item()
    return figures


def occlusion(bench: Bench) -> dict[str, Any]:
    """625 windows: captum at its settings, a forward pass of ready images, ours, in turn."""
    figures = bench.figures["occlusion"]
    figures["windows"] = bench.window.rows(bench.side, bench.side)
    for name in (*FORMATS, *MORE):
        if time.monotonic() > bench.end:
            break
        net = copy.deepcopy(bench.peer_net(name)).to(memory_format=torch.channels_last)
        ready = bench.images().to(next(net.parameters()).dtype)
        parts = ready.contiguous(memory_format=torch.channels_last).split(256)

        def plain(name: str = name, net: nn.Module = net, parts: Any = parts) -> None:
            arithmetic(name)
            for part in parts:
                net(part)

        works: dict[str, Callable[[], Any]] = {"plain_forward": plain}
        if bench.figures["captum"] and name not in UNTIMED:
            sizes = CAPTUM[2:] if not bench.quick else CAPTUM[:1]
            works |= {f"captum_{n}": captum_occlusion(bench, name, n) for n in sizes}
        works["sextant"] = bench.maker(name, bench.window)
        figures[name] = with_first_uses(bench, works)
        bench.report(name, figures[name])
    return figures


def ablation(bench: Bench) -> dict[str, Any]:
    """A grid of 14 x 14 segments."""
    cells = 4 if bench.quick else 14
    part = FeatureAblation(id="feature_ablation", segments=GridSegments(id="grid", rows=cells))
    figures: dict[str, Any] = {}
    for name in FORMATS[1:]:
        works: dict[str, Callable[[], Any]] = {}
        if bench.figures["captum"]:
            sizes = CAPTUM[1:] if not bench.quick else CAPTUM[:1]
            works = {f"captum_{n}": captum_ablation(bench, name, n, cells) for n in sizes}
        works["sextant"] = bench.maker(name, part)
        figures[name] = rated(bench.milliseconds(works))
        if works.keys() > {"sextant"}:
            figures[name]["max_difference"] = gap(works["sextant"](), next(iter(works.values()))())
    return figures


def rise(bench: Bench) -> dict[str, Any]:
    """The published algorithm on the same masks; both times include generating them."""
    part = Rise(id="rise", masks=8 if bench.quick else 2000)
    figures: dict[str, Any] = {"masks": part.masks}
    rounds, bench.rounds = bench.rounds, min(bench.rounds, 3)
    for name in FORMATS[1:]:

        def published(size: int, name: str = name) -> Tensor:
            arithmetic(name)
            index = torch.arange(part.masks, device=bench.on)
            shape = (bench.side, bench.side)
            masks = render(draw_masks(part, 0, index, *shape), *shape).float()
            forward = bench.prob(name)
            scores = torch.cat([forward(bench.x * m[:, None]) for m in masks.split(size)])
            summed = scores.T @ masks.flatten(1) / part.masks / part.p
            return summed.view(-1, *shape)[bench.target]

        works = {f"published_{n}": (lambda n=n: published(n)) for n in (64, 256)}
        works["sextant"] = bench.maker(name, part)
        figures[name] = bench.milliseconds(works, warm=1)
        best = min(v["median_ms"] for n, v in figures[name].items() if n != "sextant")
        figures[name]["ratio_median"] = round(best / figures[name]["sextant"]["median_ms"], 2)
        figures[name]["max_difference"] = gap(works["sextant"](), published(64))
        figures[name]["peak_mib"] = {n: bench.peak_mib(work) for n, work in works.items()}
    bench.rounds = rounds
    return figures


def graders(bench: Bench) -> dict[str, Any]:
    """A deletion curve of 225 states, and ROAD's imputation of 18 images."""
    numbers = torch.Generator().manual_seed(2)
    values = torch.rand(bench.side, bench.side, generator=numbers).to(bench.on)
    smooth = compute_map(bench.window, bench.case("tf32"), bench.b)[0].float()
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
    peaks: dict[str, Any] = {}
    for masks in sorted({*few, *many}):
        peaks[f"rise_{masks}"] = bench.peak_mib(bench.maker("tf32", Rise(id="rise", masks=masks)))
    peaks["occlusion"] = bench.peak_mib(bench.maker("tf32", bench.window))
    return peaks


def groups(bench: Bench) -> dict[str, Any]:
    """Boxes by batch size, and by the fraction of a map above which it is computed whole."""
    figures: dict[str, Any] = {}
    over = regions(windows(bench.window, bench.side, bench.side, torch.device(bench.on)))
    for name, plan in (("tf32", bench.plan("fp32")), ("bf16", bench.plan("bf16"))):
        arithmetic(name)
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        x, b = bench.x.to(dtype), bench.b.to(dtype)
        for size in (48, 64, 96, 128, 160):
            for cut in (0.5, 0.75, 0.9):
                if time.monotonic() > bench.end:
                    return figures
                changes = Changes(plan, over, size, cut)
                label = f"{name}_{size}_{cut}"
                if bench.on == "cuda":
                    graph = GraphedChanges(changes, x, b)
                    figures |= bench.milliseconds({label: lambda g=graph, x=x, b=b: g(x, b)})
                else:
                    works = {
                        label: lambda c=changes, p=plan, x=x, b=b: list(
                            c.outputs(BaseActivations(p, x), b)
                        )
                    }
                    figures |= bench.milliseconds(works)
                if bench.quick:
                    return figures
    return figures


SECTIONS = {
    "correctness": correctness,
    "occlusion": occlusion,
    "ablation": ablation,
    "rise": rise,
    "graders": graders,
    "memory": memory,
    "groups": groups,
    "libraries": libraries,
    "fp32": fp32,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names with commas")
    parser.add_argument("--data", type=Path, help="folder left by --pack, for section trained")
    parser.add_argument("--pack", type=Path, help="write weights and photographs there, no more")
    options = parser.parse_args()
    if options.pack:
        pack(options.pack)
        return
    every = SECTIONS | {"trained": lambda bench: trained(bench, options.data)}
    chosen = {name: every[name] for name in options.sections.split(",")}
    with torch.inference_mode():
        bench = Bench(options)
        if options.quality or chosen.keys() - {"trained", "libraries"}:
            bench.use(small_statistics(bench.side), bench.x, 1)
        for name, work in ({"quality": quality} if options.quality else chosen).items():
            bench.section(name, work)


if __name__ == "__main__":
    main()
