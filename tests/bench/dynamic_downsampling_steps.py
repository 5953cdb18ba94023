"""Times of full and cheap steps on random images: nets and batches that section 8 asks for.

    python -m tests.bench.dynamic_downsampling_steps --out FILE.json

Each step is forward, backward and SGD, as the service takes it, with and without CUDA graphs.
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
from models.core.steps import FULL, Batch, Mode, cross_entropy, make_optimizer, make_step
from models.dynamic_downsampling import cost
from models.dynamic_downsampling.cheap import install, shrink
from models.dynamic_downsampling.parts import Downsample
from models.dynamic_downsampling.pooled_conv import Switch
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.nets.build import build_net

CASES = [  # net, stem, pixels, batch, classes
    ("resnet18", "3x3", 32, 512, 10),
    ("resnet18", "3x3", 32, 2048, 10),
    ("resnet50", "7x7", 224, 256, 1000),
]
QUICK = [("resnet8", "3x3", 16, 8, 10)]
CHEAP = Mode("cheap")
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
    net: nn.Module, spec: DynamicDownsamplingTrain, switch: Switch, on: str, *, graphs: bool
) -> Callable[[Mode, Batch], Tensor]:
    """One step of either mode, recorded if asked."""
    optimizer = make_optimizer(net, spec.optimizer)
    optimizer.param_groups[0]["lr"].fill_(PEAK)

    def forward(net: nn.Module, batch: Batch, mode: Mode) -> Tensor:
        if mode is FULL:
            return cross_entropy(net, batch)
        with switch.cheap():
            return cross_entropy(net, batch)

    step = make_step(net, optimizer, forward, spec, on)
    return GraphedStep(step, print) if graphs else step


def median_ms(step: Callable[[Mode, Batch], Tensor], mode: Mode, batch: Batch, on: str) -> float:
    """Median of a few steps after ten that do not count, the device waited for."""
    seconds = []
    for index in range(10 + REPEATS):
        started = time.perf_counter()
        step(mode, batch)
        if on == "cuda":
            torch.cuda.synchronize()
        if index >= 10:
            seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds)


def measure(case: tuple[str, str, int, int, int], on: str, *, graphs: bool) -> dict[str, Any]:
    """Full, input-only and input-and-kernel steps of one net."""
    name, stem, pixels, batch, classes = case
    row: dict[str, Any] = {"net": name, "pixels": pixels, "batch": batch, "graphs": graphs}
    for pooling, label in (("none", "input"), ("avg", "input_and_kernel")):
        spec, switch = spec_of(name, stem, pooling), Switch()
        net = build_net(spec.model.model_dump(), classes).to(on, memory_format=torch.channels_last)
        install(net, spec.downsample, switch)
        step = stepper(net, spec, switch, on, graphs=graphs)
        images = torch.randn(batch, 3, pixels, pixels, device=on)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, classes, (batch,), device=on)
        size = (pixels // 2, pixels // 2)
        small = shrink(images, size, "area", 0, 0).contiguous(memory_format=torch.channels_last)
        row["full_ms"] = median_ms(step, FULL, Batch(images, labels), on)
        row[f"{label}_ms"] = median_ms(step, CHEAP, Batch(small, labels), on)
        row[f"{label}_ratio"] = row[f"{label}_ms"] / row["full_ms"]
        down = Downsample(kernel_pool=pooling)
        costs = cost.step_costs(spec.model, down, (3, pixels, pixels), classes, 0.5)
        row[f"{label}_flop_ratio"] = costs.ratio
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
    for case in QUICK if options.quick else CASES:
        for graphs in (False, True) if on == "cuda" else (False,):
            if time.monotonic() > deadline:
                return
            rows.append(measure(case, on, graphs=graphs))
            print(rows[-1], flush=True)
            told = {"what": "times of steps on random images", "device": devices.describe(on)}
            options.out.write_text(json.dumps(told | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
