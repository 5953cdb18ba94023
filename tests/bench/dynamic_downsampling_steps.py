"""Times of full and cheap steps on random images: the nets and batches of the README ("Measured").

    python -m tests.bench.dynamic_downsampling_steps --out FILE.json

Each step is forward, backward and SGD, as the service takes it, with and without CUDA graphs. On a
CPU the time is that of the process, so other processes do not count: set OMP_NUM_THREADS=1.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from models.core import device as devices
from models.core.graphs import GraphedStep
from models.dynamic_downsampling import cost
from models.dynamic_downsampling.cheap import plan_layers, shrink
from models.dynamic_downsampling.cheap_mode import CheapMode
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.nets.build import build_net
from models.supervised.steps import FULL, Batch, Mode, cross_entropy, make_optimizer, make_step

CASES = [  # net, stem, pixels, batch, classes
    ("resnet18", "3x3", 32, 512, 10),
    ("resnet18", "3x3", 32, 2048, 10),
    ("resnet50", "7x7", 224, 256, 1000),
]
CPU_CASES = [("resnet8", "3x3", 32, 64, 10), ("resnet14", "3x3", 32, 64, 10)]
QUICK = [("resnet8", "3x3", 16, 8, 10)]
CHEAP = Mode("cheap")
SCALES = (0.5, 0.75)
REPEATS = 20
PEAK = 1e-3  # random labels: nothing is to be learnt


def spec_of(name: str, stem: str, pooling: str) -> DynamicDownsamplingTrain:
    """A spec whose cheap steps pool filters or not."""
    return DynamicDownsamplingTrain.model_validate(
        {
            "kind": "dynamic_downsampling.train",
            "model": {"name": name, "stem": stem},
            "data": {"dataset": "none"},
            "optimizer": {"lr": PEAK},
            "downsample": {"kernel_pool": pooling},
        }
    )


def stepper(
    net: nn.Module, spec: DynamicDownsamplingTrain, cheap: CheapMode, on: str, *, graphs: bool
) -> Callable[[Mode, Batch], Tensor]:
    """One step of either mode, recorded if asked."""
    optimizer = make_optimizer(net, spec.optimizer)
    optimizer.param_groups[0]["lr"].fill_(PEAK)

    def forward(net: nn.Module, batch: Batch, mode: Mode) -> Tensor:
        if mode is FULL:
            return cross_entropy(net, batch)
        with cheap.cheap():
            return cross_entropy(net, batch)

    step = make_step(net, optimizer, forward, spec, on)
    return GraphedStep(step, print) if graphs else step


def medians_ms(
    step: Callable[[Mode, Batch], Tensor], batches: dict[str, tuple[Mode, Batch]], on: str
) -> dict[str, float]:
    """Medians of a few steps of each kind, taken in turn, after ten rounds that do not count."""
    clock = time.perf_counter if on == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {label: [] for label in batches}
    for index in range(10 + REPEATS):
        for label, (mode, batch) in batches.items():
            started = clock()
            step(mode, batch)
            if on == "cuda":
                torch.cuda.synchronize()
            if index >= 10:
                seconds[label].append(clock() - started)
    return {label: 1000 * median(each) for label, each in seconds.items()}


def measure(case: tuple[str, str, int, int, int], on: str, *, graphs: bool) -> dict[str, Any]:
    """Full steps and cheap ones of half and three quarters of the side, filters whole or pooled."""
    name, stem, pixels, batch, classes = case
    row: dict[str, Any] = {"net": name, "pixels": pixels, "batch": batch, "graphs": graphs}
    for pooling, label in (("none", "input"), ("avg", "input_and_kernel")):
        spec = spec_of(name, stem, pooling)
        net = build_net(spec.model.model_dump(), classes).to(on, memory_format=torch.channels_last)
        poolings, _ = plan_layers(net, spec.downsample, 3, (pixels, pixels))
        cheap = CheapMode(net, poolings)
        step = stepper(net, spec, cheap, on, graphs=graphs)
        images = torch.randn(batch, 3, pixels, pixels, device=on)
        labels = torch.randint(0, classes, (batch,), device=on)

        def batch_of(scale: float, x: Tensor = images, y: Tensor = labels) -> Batch:
            side = round(scale * x.shape[2])
            small = shrink(x, (side, side), "area", 0, 0)
            return Batch(small.contiguous(memory_format=torch.channels_last), y)

        kinds = {"full": (FULL, batch_of(1.0))}
        kinds |= {f"{label}_{scale}": (CHEAP, batch_of(scale)) for scale in SCALES}
        times = medians_ms(step, kinds, on)
        row |= {f"{kind}_ms": ms for kind, ms in times.items()}
        row |= {f"{kind}_ratio": ms / times["full"] for kind, ms in times.items() if kind != "full"}
        for scale in SCALES:
            shape = (3, pixels, pixels)
            costs = cost.step_costs(spec.model, spec.downsample, shape, classes, scale)
            row[f"{label}_{scale}_flop_ratio"] = costs.ratio
        del step, net
        gc.collect()
    return row


def main() -> None:
    """Time all cases; write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one tiny net, for a try on a CPU")
    parser.add_argument("--budget-s", type=float, default=100)
    options = parser.parse_args()
    on = devices.pick()
    devices.tune(on)
    deadline, rows = time.monotonic() + options.budget_s, []
    cases = CASES if on == "cuda" else CPU_CASES
    for case in QUICK if options.quick else cases:
        for graphs in (False, True) if on == "cuda" else (False,):
            if time.monotonic() > deadline:
                return
            rows.append(measure(case, on, graphs=graphs))
            print(rows[-1], flush=True)
            contents = {"what": "times of steps on random images", "device": devices.describe(on)}
            options.out.write_text(json.dumps(contents | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
