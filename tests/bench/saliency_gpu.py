"""Saliency on one GPU: ResNet-50 at 224, occlusion 32/8, RISE, curves; correctness first.

    python -m tests.bench.saliency_gpu --out FILE.json [--budget-s 240]
    python -m tests.bench.saliency_gpu --quick --out FILE.json      # tiny, on a CPU, same code
    python -m tests.bench.saliency_gpu --quality --out FILE.json    # variance of RISE's estimators

Weights are random (He initialisation, batch statistics of noise): times do not depend on them. The
file is written after every section, so a run that is cut off keeps what it has.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.core import device as devices
from models.nets.build import build_net
from models.saliency.case import Case
from models.saliency.engine.graphed import GraphedChanges
from models.saliency.engine.incremental import Base, Changes, in_order
from models.saliency.engine.trace import trace
from models.saliency.makers import make
from models.saliency.methods import Occlusion, Rise
from models.saliency.occlusion import regions, windows
from models.saliency.scores import Scorer


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.end = options.out, time.monotonic() + options.budget_s
        self.quick = options.quick
        self.device = "cpu" if options.quick else "cuda"
        self.side = 64 if options.quick else 224
        self.rounds = 2 if options.quick else 10
        self.result: dict[str, Any] = {"machine": devices.describe(self.device), "side": self.side}
        torch.manual_seed(0)
        net = build_net({"name": "resnet50", "stem": "7x7"}, 1000)
        net.train()
        with torch.no_grad():  # statistics that keep activations in range
            for _ in range(3):
                net(torch.randn(4, 3, self.side, self.side))
        self.net = net.eval().to(self.device)
        self.x = torch.randn(3, self.side, self.side, device=self.device)
        self.b = torch.zeros_like(self.x)
        self.part = Occlusion(id="occlusion", window=32, stride=16 if options.quick else 8)
        over = windows(self.part, self.side, self.side, torch.device(self.device))
        self.regions = regions(over)

    def left(self) -> float:
        return self.end - time.monotonic()

    def keep(self, name: str, found: Any) -> None:
        self.result[name] = found
        print(name, json.dumps(found), flush=True)
        if self.out:
            self.out.write_text(json.dumps(self.result, indent=1) + "\n")

    def time(self, work: Callable[[], Any]) -> dict[str, float]:
        """Milliseconds, minimum and median, the device waited for."""
        for _ in range(3):
            work()
        found = []
        for _ in range(self.rounds):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append((time.perf_counter() - start) * 1e3)
        return {"min_ms": round(min(found), 3), "median_ms": round(statistics.median(found), 3)}

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def images(self, dtype: torch.dtype) -> torch.Tensor:
        index = torch.arange(self.regions.number, device=self.device)
        whole = torch.where(self.regions.masks(index)[:, None], self.b, self.x).to(dtype)
        return whole.contiguous(memory_format=torch.channels_last)


def tf32(on: bool) -> None:
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.benchmark = True


def correctness(bench: Bench) -> torch.Tensor:
    """The plan and the boxes against the plain net in full float32."""
    tf32(on=False)
    bench.plan = trace(bench.net, (3, bench.side, bench.side))
    images = bench.images(torch.float32)
    expected = torch.cat([bench.net(part) for part in images.split(64)])
    scale = expected.abs().max().item()
    planned = torch.cat([bench.plan(part) for part in images.split(64)])
    changes = Changes(bench.plan, bench.regions, 64)
    boxes = in_order(list(changes.outputs(Base(bench.plan, bench.x), bench.b)))
    gaps = {
        name: (found - expected).abs().max().item() / scale
        for name, found in (("plan", planned), ("boxes", boxes))
    }
    bench.keep("correctness", gaps | {"backend": getattr(bench.plan.steps[0].call, "backend", "")})
    assert max(gaps.values()) < 1e-4, gaps
    return expected


def plain(bench: Bench) -> None:
    """A channels-last forward of all ready images, the honest lower bound without boxes."""
    for name, dtype, on in (("tf32", torch.float32, True), ("bf16", torch.bfloat16, True)):
        tf32(on)
        net = copy.deepcopy(bench.net).to(dtype=dtype, memory_format=torch.channels_last)
        images = bench.images(dtype)
        for size in (64, 256):
            parts = images.split(size)
            told = bench.time(lambda parts=parts, net=net: [net(part) for part in parts])
            bench.keep(f"plain_{name}_{size}", told)


def planned(bench: Bench) -> None:
    """The folded plan on whole images."""
    for name, plan, dtype in plans(bench):
        images = bench.images(dtype)
        for size in (64, 256):
            parts = images.split(size)
            told = bench.time(lambda parts=parts, plan=plan: [plan(part) for part in parts])
            bench.keep(f"plan_{name}_{size}", told)


def plans(bench: Bench) -> list[tuple[str, Any, torch.dtype]]:
    tf32(on=True)
    half = trace(copy.deepcopy(bench.net).bfloat16(), (3, bench.side, bench.side))
    return [("tf32", bench.plan, torch.float32), ("bf16", half, torch.bfloat16)]


def boxes(bench: Bench, expected: torch.Tensor) -> None:
    """Boxes, eager and as one CUDA graph, by group size and switch to whole maps."""
    for name, plan, dtype in plans(bench):
        x, b = bench.x.to(dtype), bench.b.to(dtype)
        for size in (32, 64, 96, 160, 625):
            for cut in (0.4, 0.6, 0.75):
                if bench.left() < 20:
                    return
                changes = Changes(plan, bench.regions, size, cut)
                label = f"boxes_{name}_{size}_{cut}"
                told: dict[str, Any] = {}
                if size == 96:
                    told["eager"] = bench.time(
                        lambda c=changes, p=plan, x=x, b=b: list(c.outputs(Base(p, x), b))
                    )
                if bench.device == "cuda":
                    try:
                        graph = GraphedChanges(changes, x, b)
                    except RuntimeError as error:
                        bench.keep(label, told | {"error": str(error)[:300]})
                        continue
                    told["graph"] = bench.time(lambda g=graph, x=x, b=b: g(x, b))
                    out = graph(x, b)
                else:
                    out = in_order(list(changes.outputs(Base(plan, x), b)))
                told["max_logit_difference"] = (out.float() - expected).abs().max().item()
                gap = (out.float().softmax(1) - expected.softmax(1)).abs().max().item()
                bench.keep(label, told | {"max_probability_difference": gap})


def captum(bench: Bench) -> None:
    try:
        from captum.attr import Occlusion as Peer
    except ImportError:
        bench.keep("captum", "not installed")
        return
    tf32(on=True)
    step = 16 if bench.quick else 8
    for size in (32, 256):
        told = bench.time(
            lambda size=size: Peer(bench.net).attribute(
                bench.x[None], sliding_window_shapes=(3, 32, 32), strides=(3, step, step),
                baselines=0, target=1, perturbations_per_eval=size,
            )
        )  # fmt: skip
        bench.keep(f"captum_{size}", told)


def jobs(bench: Bench) -> None:
    """Whole map makers as the service runs them, base values and masks included."""
    tf32(on=True)
    scorer = Scorer(bench.net, "prob", plan=bench.plan)
    target = torch.tensor([1], device=bench.device)
    full = scorer.read(scorer.outputs(bench.x[None]))[0, target]
    rise = Rise(id="rise", masks=8 if bench.quick else 4000)

    def case() -> Case:
        return Case(bench.x, scorer, target, full, 0, 8 if bench.quick else 256)

    bench.keep("job_occlusion", bench.time(lambda: make(bench.part, case(), bench.b)))
    bench.rounds = 2
    bench.keep("job_rise", bench.time(lambda: make(rise, case(), bench.b)) | {"masks": rise.masks})


def quality(bench: Bench) -> None:
    """Error of RISE's estimators and samplings at equal N, against many masks of another seed."""
    tf32(on=True)
    scorer = Scorer(bench.net, "logit", plan=bench.plan)
    target = torch.tensor([1], device=bench.device)
    full = scorer.read(scorer.outputs(bench.x[None]))[0, target]

    def made(seed: int, masks: int, **fields: str) -> torch.Tensor:
        part = Rise(id="rise", masks=masks, **fields)
        return make(part, Case(bench.x, scorer, target, full, seed, 256), bench.b)[0]

    reference = 16 if bench.quick else 20_000
    count = 8 if bench.quick else 500
    for estimator in ("raw", "slope"):
        whole = made(99, reference, estimator=estimator)
        for sampling in ("iid", "balanced"):
            errors = [
                ((made(s, count, estimator=estimator, sampling=sampling) - whole).std()
                 / whole.std()).item()
                for s in range(4)
            ]  # fmt: skip
            bench.keep(f"rise_{estimator}_{sampling}_{count}", {"relative_error": errors})
            if bench.left() < 20:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--budget-s", type=float, default=240)
    parser.add_argument("--data", type=Path, help="not used: times do not depend on the images")
    bench = Bench(parser.parse_args())
    options = parser.parse_args()
    with torch.inference_mode():
        expected = correctness(bench)
        if options.quality:
            quality(bench)
            return
        for section in (plain, planned, captum, jobs):
            if bench.left() > 25:
                section(bench)
        boxes(bench, expected)


if __name__ == "__main__":
    main()
