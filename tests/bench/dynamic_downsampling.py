"""Arms of training with cheap steps on CIFAR-10, paired by seed, on one device.

    python -m tests.bench.dynamic_downsampling --data cifar10.npz --device cuda --out FILE.json

a plain | b periodic 2 of 5, input and kernel, shared statistics | c the same, input only |
d ours: annealed, statistics skipped, matched norms, kernels where faster | e progressive resizing
with the defaults of Composer | f plain, cut to the time of d or of ``--shortened-to`` | first:
input only, the first 63 % of the steps cheap. Only the schedule differs.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch.nn import functional

from models.core import device as devices
from models.core.run import Run
from models.core.steps import Mode
from models.core.train import Fitted, fit
from models.core.training import Arm
from models.data.images import ImageData
from models.dynamic_downsampling.setup import new_net, prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.dynamic_downsampling.train import finish, fit_cheap
from tests.bench import cifar10

PERIODIC = {"type": "periodic", "period": 5, "n_cheap": 3}  # in the first 80 %: near 2 of 5 in all
NAIVE = {"schedule": PERIODIC | {"n_cheap": 2}, "refine_fraction": 0.0, "bn_mode": "shared"}
OURS = {
    "schedule": {"type": "anneal", "p0": 1.0, "p1": 0.6, "shape": "linear"},
    "warmup_full_fraction": 0.05,
    "refine_fraction": 0.2,
    "cheap_lr_scale": "match_norm",
    "kernel_layers": "auto",
}
DOWN = {
    "b": NAIVE,
    "c": NAIVE | {"kernel_pool": "none", "bn_mode": "skip"},
    "d": OURS,
    "first": {
        "schedule": {"type": "list", "intervals": [{"start": 0.0, "end": 0.63}]},
        "kernel_pool": "none",
    },
    "d_input_only": OURS | {"kernel_pool": "none", "kernel_layers": "all"},
}


def make_spec(options: argparse.Namespace, seed: int, **fields: Any) -> DynamicDownsamplingTrain:
    """The common part of all arms."""
    model = {"name": options.net} | ({"width": options.width} if options.width else {})
    common = {
        "kind": "dynamic_downsampling.train",
        "model": model,
        "data": {"dataset": "cifar10"},
        "images": {"augment": {"crop_padding": 4, "flip": True}},
        "batch_size": options.batch,
        "optimizer": {"lr": options.lr},
        "seed": seed,
    }
    length = {} if "max_steps" in fields else {"epochs": options.epochs}
    return DynamicDownsamplingTrain.model_validate(common | length | fields)


def progressive(total: int, full: int) -> dict[str, Any]:
    """Composer's resizing: half size for half the run, full for the last fifth, linear between.

    Args:
        total: steps of the run.
        full: height and width of the images in pixels.
    """

    def size(step: int) -> int:
        done = min(1.0, max(0.0, (step / total - 0.5) / 0.3))
        return round((0.5 + 0.5 * done) * full / 4) * 4

    def resize(images: torch.Tensor, step: int) -> torch.Tensor:
        return images if size(step) == full else functional.interpolate(images, size=size(step))

    modes = {pixels: Mode(f"{pixels} px") for pixels in range(4, full + 1, 4)}
    return {"prepare": resize, "mode_of": lambda step: modes[size(step)]}


def train(arm: str, spec: DynamicDownsamplingTrain, data: ImageData, on: str) -> dict[str, Any]:
    """One training; its figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), device=on, checkpoint_interval_s=1e9)
        began = time.perf_counter()
        if arm in DOWN:
            setup = prepare(spec, data, run)
            fitted = fit_cheap(setup, run, Arm(keeps=False))
            accuracy, switched = finish(setup, fitted).accuracy, sum(setup.decisions)
            pooled = sum(layer.reason == "pooled" for layer in setup.layers)
        else:
            net = new_net(spec, data, on)
            total = spec.steps(len(data.train))[1]
            how = progressive(total, data.size[0]) if arm == "e" else {}
            fitted = fit(net, data, spec, run, arm=Arm(keeps=False), **how)
            accuracy, switched, pooled = fitted.scores.accuracy, 0, 0
        return figures(fitted, accuracy, time.perf_counter() - began) | {
            "cheap_steps": switched,
            "pooled_layers": pooled,
        }


def figures(fitted: Fitted, accuracy: float, wall_s: float) -> dict[str, Any]:
    """What is kept of a training."""
    clock = fitted.clock
    return {
        "test_accuracy": accuracy,
        "test_nll": fitted.scores.nll,
        "steps": fitted.steps,
        "train_s": round(clock.seconds, 3),
        "warmup_s": round(clock.warmup_seconds, 3),
        "wall_s": round(wall_s, 3),
        "median_step_ms": {mode: clock.median_ms(mode) for mode in clock.counts},
        "peak_bytes": clock.peak_bytes,
        "curve": [[round(r["seconds"], 2), round(r["test_accuracy"], 4)] for r in fitted.history],
    }


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over seeds; savings and changes of accuracy paired by seed with arm a."""
    table = {}
    for arm, rows in runs.items():
        plain = runs["a"][: len(rows)]
        steady = [row["train_s"] - row["warmup_s"] for row in rows]
        saving = [
            1 - s / (p["train_s"] - p["warmup_s"]) for s, p in zip(steady, plain, strict=True)
        ]
        change = [
            100 * (row["test_accuracy"] - p["test_accuracy"])
            for row, p in zip(rows, plain, strict=True)
        ]
        table[arm] = {
            "seeds": len(rows),
            "accuracy_mean": mean(row["test_accuracy"] for row in rows),
            "accuracy_std": stdev(row["test_accuracy"] for row in rows) if len(rows) > 1 else None,
            "train_s_without_warmup_mean": mean(steady),
            "saving_mean": mean(saving),
            "change_points_mean": mean(change),
            "change_points_se": stdev(change) / len(change) ** 0.5 if len(change) > 1 else None,
        }
    return table


def main() -> None:
    """Train all arms of one seed, then of the next, while the budget lasts; write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", default="resnet8")
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--subset", type=int)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", default="a,b,c,d,d_input_only,e,f")
    parser.add_argument("--shortened-to", default="d", help="arm whose time arm f gets")
    parser.add_argument("--budget-s", type=float, default=600)
    options = parser.parse_args()
    arms = options.arms.split(",")
    if unknown := set(arms) - {"a", "e", "f", *DOWN}:
        parser.error(f"--arms: {sorted(unknown)} are none of a, e, f, {', '.join(DOWN)}")
    if arms[0] != "a":
        parser.error("--arms: a comes first, the others are compared with it")
    if "f" in arms and options.shortened_to not in arms[: arms.index("f")]:
        parser.error(
            f"--arms: f is cut to the time of {options.shortened_to}, which must precede it"
        )
    deadline = time.monotonic() + options.budget_s
    data = cifar10.load(options.data, options.device, options.subset)
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for seed in options.seeds:
        for arm in arms:
            if time.monotonic() > deadline:
                return
            fields: dict[str, Any] = {"downsample": DOWN[arm]} if arm in DOWN else {}
            if arm == "f":
                last = {name: runs[name][-1] for name in ("a", options.shortened_to)}
                steady = {k: r["train_s"] - r["warmup_s"] for k, r in last.items()}
                fields["max_steps"] = round(
                    last["a"]["steps"] * steady[options.shortened_to] / steady["a"]
                )
            spec = make_spec(options, seed, **fields)
            runs[arm].append(train(arm, spec, data, options.device))
            print(seed, arm, {k: v for k, v in runs[arm][-1].items() if k != "curve"}, flush=True)
            told = {
                "what": "dynamic downsampling on JPEG CIFAR-10, arms as in the docstring",
                "options": {
                    k: str(v) for k, v in vars(options).items() if k not in ("data", "out")
                },
                "device": devices.describe(options.device),
                "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
                "summary": summary(runs),
                "runs": runs,
            }
            options.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
