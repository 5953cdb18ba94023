"""Saliency on a CPU beside captum, Quantus and the published RISE algorithm.

    python -m tests.bench.saliency --out FILE.json     # EfficientNet-Lite0 at 224, some minutes
    python -m tests.bench.saliency --quick             # few windows, to see that it works

Peer and ours alternate in one process on the same image, baseline and net; results are compared.
captum 0.9.0 and Quantus 0.6.0 are installed by hand; a peer that is missing is reported as missing.
Whole jobs are timed: each of ours includes the base activations and, in ``first_s``, also the
trace, the routes and the kernels, which are built once for a net and a set of windows.
"""

import argparse
import copy
import gc
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.saliency.engine.trace import trace
from models.saliency.graders.curves import pixel_curve
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.methods.rise_masks import draw_masks, render
from models.saliency.net import load
from models.saliency.net.images import prepare, samples
from models.saliency.net.scores import Scorer
from models.saliency.spec.graders import Curve
from models.saliency.spec.masks import FeatureAblation, GridSegments, Occlusion, Rise
from tests.bench.saliency_clock import (
    describe,
    gap,
    interleaved,
    memory,
    resident,
    summary,
    timed,
)

SIDE = 224


class Bench:
    def __init__(self, quick: bool, rounds: int) -> None:
        self.quick, self.rounds = quick, rounds
        subject = load.pretrained("cpu")
        self.net = subject.net  # as it comes, for the peers
        pixels = prepare(samples.photo(0), subject, "image")
        self.x = subject.space.normalise(pixels).float()
        self.trace_s, _, self.plan = timed(lambda: trace(self.net, (3, SIDE, SIDE)))
        self.scorer = Scorer(copy.deepcopy(self.net), "prob", plan=self.plan)
        self.b = torch.zeros_like(self.x)
        with torch.no_grad():
            self.target = int(self.net(self.x[None]).argmax())

    def prob(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images).softmax(1)

    def case(self, chunk: int = 4) -> Case:
        """As the job builds it; the scorer keeps its routes for the lifetime of a job."""
        target = torch.tensor([self.target])
        full = self.scorer.scores(self.scorer.outputs(self.x[None]))[0, target]
        return Case(self.x, self.scorer, target, full, 0, chunk)

    def occlusion(self, window: int, stride: int) -> dict[str, Any]:
        from captum.attr import Occlusion as Peer

        part = Occlusion(id="occlusion", window=window, stride=stride)

        def peer(batch: int) -> torch.Tensor:
            with torch.no_grad():
                return Peer(self.prob).attribute(
                    self.x[None], sliding_window_shapes=(3, window, window),
                    strides=(3, stride, stride), baselines=0, target=self.target,
                    perturbations_per_eval=batch,
                )[0, 0]  # fmt: skip

        works = {f"captum_{n}": (lambda n=n: peer(n)) for n in (1, 8, 32)}
        works["sextant"] = lambda: compute_map(part, self.case(), self.b)[0]
        figures = summary(interleaved(works, self.rounds), "sextant", gap)
        return figures | {"windows": part.rows(SIDE, SIDE)}

    def ablation(self, cells: int) -> dict[str, Any]:
        from captum.attr import FeatureAblation as Peer

        part = FeatureAblation(id="feature_ablation", segments=GridSegments(id="grid", rows=cells))
        rows = torch.arange(SIDE) * cells // SIDE
        labels = (rows[:, None] * cells + rows)[None, None]

        def peer(batch: int) -> torch.Tensor:
            with torch.no_grad():
                return Peer(self.prob).attribute(
                    self.x[None], baselines=0, target=self.target, feature_mask=labels,
                    perturbations_per_eval=batch,
                )[0, 0]  # fmt: skip

        works = {f"captum_{n}": (lambda n=n: peer(n)) for n in (1, 8, 32)}
        works["sextant"] = lambda: compute_map(part, self.case(), self.b)[0]
        return summary(interleaved(works, self.rounds), "sextant", gap) | {"cells": cells**2}

    def published(self, count: int, batch: int) -> torch.Tensor:
        """RISE as its authors run it, on our masks; generating them is included."""
        masks = render(
            draw_masks(Rise(id="rise"), 0, torch.arange(count), SIDE, SIDE), SIDE, SIDE
        ).float()
        with torch.no_grad():
            scores = torch.cat([self.prob(self.x * chunk[:, None]) for chunk in masks.split(batch)])
        summed = scores.T @ masks.view(count, -1) / count / 0.5
        return summed.view(-1, SIDE, SIDE)[self.target]

    def rise(self, count: int) -> dict[str, Any]:
        """The published algorithm on the same masks; both times include generating them."""
        part = Rise(id="rise", masks=count)
        works = {f"published_{n}": (lambda n=n: self.published(count, n)) for n in (2, 4, 100)}
        works["sextant"] = lambda: compute_map(part, self.case(), self.b)[0]
        return summary(interleaved(works, self.rounds), "sextant", gap) | {"masks": count}

    def rise_at_equal_error(self, count: int, reference: int, repeats: int) -> dict[str, Any]:
        """Masks that the published estimator and ours need for the same error, and their time.

        Errors are standard deviations from the same estimator's map of ``reference`` masks of
        another seed, relative to that map's own, as root mean squares over ``repeats`` seeds.
        Ours starts at a 16th of the masks and doubles them until its error is no larger.
        """

        def made(seed: int, **fields: Any) -> tuple[torch.Tensor, float]:
            case = self.case()
            case.seed = seed
            _, cpu, maps = timed(lambda: compute_map(Rise(id="rise", **fields), case, self.b))
            return maps[0], cpu

        def errors(whole: torch.Tensor, **fields: Any) -> tuple[float, float]:
            runs = [made(seed, **fields) for seed in range(repeats)]
            off = [((values - whole).std() / whole.std()).item() for values, _ in runs]
            return float(np.sqrt(np.mean(np.square(off)))), min(cpu for _, cpu in runs)

        ours = {"estimator": "slope", "sampling": "balanced"}
        raw, _ = made(99, masks=reference)
        slope, _ = made(99, masks=reference, **ours)
        goal, _ = errors(raw, masks=count)
        _, theirs, _ = timed(lambda: self.published(count, 2))
        figures: dict[str, Any] = {"reference_masks": reference, "repeats": repeats}
        figures["published"] = {"masks": count, "error": goal, "cpu_s": theirs}
        tried = []
        masks = max(4, count // 16)
        while masks <= count:
            error, cpu = errors(slope, masks=masks, **ours)
            tried.append({"masks": masks, "error": error, "cpu_s": cpu})
            if error <= goal:
                figures["ratio_cpu_s"] = round(theirs / cpu, 2)
                break
            masks *= 2
        return figures | {"sextant": tried}

    def curves(self, points: int) -> dict[str, Any]:
        """Deletion and insertion of one map beside Quantus' PixelFlipping, by the state.

        Quantus flips single channel values, three times as many states of another kind, so costs
        by state are compared and, for the whole grade, three baselines of one order. Its own
        convention is repeated by ``order_unit`` channel_value, whose scores must equal its.
        """
        step = SIDE * SIDE // points
        values = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        parts = [Curve(id=name, points=points) for name in ("deletion", "insertion")]

        def peer() -> Any:
            return self.flipped(values[None], step)

        def ours() -> Any:
            return [pixel_curve(part, values, self.b, self.case(), 0)[0] for part in parts]

        timings = interleaved({"quantus": peer, "sextant": ours}, min(self.rounds, 3))
        states = {"quantus": np.size(timings["quantus"]["answer"][0]), "sextant": 2 * (points + 1)}
        order = values.flatten().argsort(descending=True, stable=True)
        image = self.x.clone().flatten(1)
        image[:, order[: SIDE * SIDE // points]] = 0
        with torch.no_grad():
            second = self.prob(image.view_as(self.x)[None])[0, self.target]
        first = timings["sextant"].pop("answer")[0]
        theirs = torch.as_tensor(np.asarray(timings["quantus"].pop("answer")[0])).flatten()
        figures: dict[str, Any] = {"states": states}
        figures["max_difference"] = abs(first.score[1].item() - second.item())
        figures["quantus_convention"] = self.parity()
        figures["quantus_ends_at_the_baseline"] = abs(theirs[-1].item() - first.score[-1].item())
        for name, entry in timings.items():
            for clock in ("wall_s", "cpu_s"):
                figures[f"{name}_{clock}_per_state"] = round(min(entry[clock]) / states[name], 5)
        for clock in ("wall_s", "cpu_s"):
            ratio = figures[f"quantus_{clock}_per_state"] / figures[f"sextant_{clock}_per_state"]
            figures[f"ratio_{clock}_per_state"] = round(ratio, 2)
            grade = states["quantus"] * figures[f"quantus_{clock}_per_state"]
            mine = (points + 1) * figures[f"sextant_{clock}_per_state"]
            figures[f"ratio_{clock}_per_curve"] = round(grade / mine, 2)
        return figures

    def flipped(self, values: torch.Tensor, step: int) -> Any:
        """Scores of Quantus' PixelFlipping, from the first changed state."""
        import quantus

        metric = quantus.PixelFlipping(
            features_in_step=step, perturb_baseline=0.0, disable_warnings=True,
            display_progressbar=False, normalise=False, abs=False,
        )  # fmt: skip
        return metric(
            model=self.net, x_batch=self.x[None].numpy(), y_batch=np.array([self.target]),
            a_batch=values[None].numpy(), device="cpu", softmax=True,
        )  # fmt: skip

    def parity(self) -> float:
        """Largest difference of our curve over channel values from Quantus'.

        Quantus breaks ties of a pixel's equal values by chance, so it is given a map of whole
        numbers whose channels differ by tenths: our order, first channel first.
        """
        numbers = torch.Generator().manual_seed(0)
        values = torch.randperm(SIDE * SIDE, generator=numbers).view(SIDE, SIDE).float()
        channels = values - 0.1 * torch.arange(3)[:, None, None]
        theirs = torch.as_tensor(np.asarray(self.flipped(channels, SIDE * SIDE // 4)[0])).flatten()
        part = Curve(id="deletion", points=len(theirs), order_unit="channel_value")
        return gap(pixel_curve(part, values, self.b, self.case(), 0)[0].score[1:], theirs)

    def work(self, name: str) -> Callable[[], Any]:
        """A whole job whose memory is measured, by id and number."""
        kind, _, count = name.partition("_")
        if kind == "rise":
            return lambda: compute_map(Rise(id="rise", masks=int(count)), self.case(), self.b)
        if kind == "occlusion":
            window = int(count)
            part = Occlusion(id="occlusion", window=window, stride=window // 2)
            return lambda: compute_map(part, self.case(), self.b)
        curve = Curve(id="deletion", points=int(count))
        values = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        return lambda: pixel_curve(curve, values, self.b, self.case(), 0)


def memory_of(bench: Bench, name: str) -> None:
    """Peak resident memory of a job, and the memory before it, with net and plan."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    bench.work(name)()
    print(json.dumps({"base_mib": before, "more_mib": resident("VmHWM") - before}))


def sections(bench: Bench) -> dict[str, Callable[[], dict[str, Any]]]:
    quick = bench.quick
    return {
        "occlusion_32_16": lambda: bench.occlusion(*((112, 56) if quick else (32, 16))),
        "ablation_14": lambda: bench.ablation(2 if quick else 14),
        "rise": lambda: bench.rise(8 if quick else 100),
        "curves": lambda: bench.curves(2 if quick else 224),
        "memory": lambda: memory(quick),
        "occlusion_16_8": lambda: bench.occlusion(*((112, 112) if quick else (16, 8))),
        "rise_at_equal_error": lambda: bench.rise_at_equal_error(
            *((32, 64, 1) if quick else (1000, 6000, 3))
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", default=None, help="one job of the section memory")
    parser.add_argument("--only", nargs="*", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options.quick, 1 if options.quick else options.rounds)
    if options.memory_of:
        memory_of(bench, options.memory_of)
        return
    result = {"machine": describe(), "model": "efficientnet_lite0 at 224, float32"}
    if options.out and options.out.exists() and options.only:
        result = json.loads(options.out.read_text())
    result["trace_s"] = round(bench.trace_s, 2)
    for name, work in sections(bench).items():
        if options.only and name not in options.only:
            continue
        result[name] = work()
        result[name]["load"] = os.getloadavg()[0]
        result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(name, json.dumps(result[name], indent=1), flush=True)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
