"""Arms of training with cheap steps on CIFAR-10, paired by seed, on one device.

    python -m tests.bench.dynamic_downsampling --data cifar10.npz --device cuda --out FILE.json
    python -m tests.bench.dynamic_downsampling --merge FILE.json FILE.json --out ALL.json

a plain | b periodic 2 of 5, input and kernel, shared statistics | c the same, input only |
d annealed, statistics skipped, matched norms, kernels where faster | e progressive resizing
with the defaults of Composer | first: input only, the first 66 % of the steps cheap, learning
rate over operations | first_steps: the same over steps |
g: first, four batches a cheap step | ramp: half the side for 50 % of the steps, three quarters
until 74 %, rate over operations | f plain, cut to the time of ``--shortened-to``. Only the schedule
differs. ``--units "0:a,first 1:a"`` shares seeds and arms out over several processes.
``--data digits`` takes the built-in set, enlarged to 32 x 32.
"""

import argparse
import gc
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
from models.core.spec import DatasetRef
from models.data import images
from models.data.images import ImageData
from models.data.spec import ImageOptions
from models.dynamic_downsampling.report import ratios_of
from models.dynamic_downsampling.setup import prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.dynamic_downsampling.train import finish, fit_cheap
from models.supervised.hooks import Hooks, SubRun
from models.supervised.loop import Fitted, fit
from models.supervised.steps import Mode
from tests.bench import cifar10
from tests.models.dynamic_downsampling.plain import new_net

PERIODIC = {"type": "periodic", "period": 5, "n_cheap": 3}  # in the first 80 %: near 2 of 5 in all
NAIVE = {"schedule": PERIODIC | {"n_cheap": 2}, "refine_fraction": 0.0, "bn_mode": "shared"}
OURS = {
    "schedule": {"type": "anneal", "p0": 1.0, "p1": 0.6, "shape": "linear"},
    "warmup_full_fraction": 0.05,
    "refine_fraction": 0.2,
    "cheap_lr_scale": "match_norm",
    "kernel_layers": "auto",
}
FIRST = {
    "schedule": {"type": "list", "intervals": [{"start": 0.0, "end": 0.66}]},
    "kernel_pool": "none",
    "rate_over": "operations",
}
RAMP = {
    "type": "list",
    "intervals": [
        {"start": 0.0, "end": 0.5, "input_scale": 0.5},
        {"start": 0.5, "end": 0.74, "input_scale": 0.75},
    ],
}
DOWN = {
    "b": NAIVE,
    "c": NAIVE | {"kernel_pool": "none", "bn_mode": "skip"},
    "d": OURS,
    "first": FIRST,
    "first_steps": FIRST | {"rate_over": "steps"},
    "ramp": FIRST | {"schedule": RAMP},
    "g": FIRST | {"cheap_batch_multiplier": 4},
}
ARMS = {"a", "e", "f", *DOWN}
NATURAL, DIGITS = {"crop_padding": 4, "flip": True}, {"crop_padding": 2}
NEAR = 0.01  # below the plain accuracy: what most arms reach on their way


def make_spec(options: argparse.Namespace, seed: int, **fields: Any) -> DynamicDownsamplingTrain:
    """The common part of all arms."""
    model = {"name": options.net} | ({"width": options.width} if options.width else {})
    common = {
        "kind": "dynamic_downsampling.train",
        "model": model,
        "data": {"dataset": "cifar10"},
        "images": {"augment": DIGITS if options.data.name == "digits" else NATURAL},
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


def load(options: argparse.Namespace) -> ImageData:
    """CIFAR-10 of a packed file, or the built-in digits."""
    if options.data.name != "digits":
        return cifar10.load(options.data, options.device, options.subset)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), device=options.device)
        return images.load(DatasetRef(dataset="digits"), ImageOptions(image_size=32), run, 0)


def train(arm: str, spec: DynamicDownsamplingTrain, data: ImageData, on: str) -> dict[str, Any]:
    """One training; its figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), device=on, checkpoint_interval_s=1e9)
        began = time.perf_counter()
        if arm in DOWN:
            setup = prepare(spec, data, run)
            fitted = fit_cheap(setup, run, SubRun(saves_checkpoints=False))
            accuracy = finish(setup, fitted).accuracy
            cheap = len(setup.decisions) - setup.decisions.count(0)
            pooled = sum(layer.reason == "pooled" for layer in setup.layers)
            ratios = ratios_of(setup, fitted.clock, setup.decisions)
        else:
            net = new_net(spec, data, on)
            total = spec.steps(len(data.train))[1]
            how = progressive(total, data.size[0]) if arm == "e" else {}
            fitted = fit(
                net, data, spec, run, Hooks(sub_run=SubRun(saves_checkpoints=False), **how)
            )
            accuracy, cheap, pooled, ratios = fitted.scores.accuracy, 0, 0, {}
        results = figures(fitted, accuracy, time.perf_counter() - began)
    return results | {"cheap_batches": cheap, "pooled_layers": pooled} | ratios


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


def steady_s(row: dict[str, Any]) -> float:
    """Seconds of training without the first steps of each kind (search, capture)."""
    return row["train_s"] - row["warmup_s"]


def summary(runs: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over seeds; savings and changes of accuracy paired by seed with arm a and arm f.

    Args:
        runs: of each arm, figures by seed.
    """
    target = mean(row["test_accuracy"] for row in runs["a"].values())
    return {arm: _arm_summary(runs, arm, target) for arm in sorted(runs)}


def _arm_summary(
    runs: dict[str, dict[str, dict[str, Any]]], arm: str, target: float
) -> dict[str, Any]:
    rows = list(runs[arm].values())
    both = [(row, runs["a"][seed]) for seed, row in runs[arm].items() if seed in runs["a"]]
    accuracies = [row["test_accuracy"] for row in rows]
    savings = [1 - steady_s(row) / steady_s(plain) for row, plain in both]
    return {
        "seeds": len(rows),
        "accuracy_mean": mean(accuracies),
        "accuracy_std": stdev(accuracies) if len(rows) > 1 else None,
        "train_s_without_warmup_mean": mean(map(steady_s, rows)),
        "saving_mean": mean(savings) if savings else None,
        "change_points": _paired(runs, arm, "a"),
        "gain_over_f_points": _paired(runs, arm, "f"),
        "gain_over_e_points": _paired(runs, arm, "e"),
        "s_to_mean_plain_accuracy": [_reached(row, target) for row in rows],
        "s_to_a_point_below": [_reached(row, target - NEAR) for row in rows],
    }


def _paired(
    runs: dict[str, dict[str, dict[str, Any]]], arm: str, other: str
) -> dict[str, float | None] | None:
    """Mean difference of accuracy in points and its standard error over common seeds."""
    seeds = runs[arm].keys() & runs.get(other, {}).keys()
    if not seeds or arm == other:
        return None
    change = [
        100 * (runs[arm][seed]["test_accuracy"] - runs[other][seed]["test_accuracy"])
        for seed in sorted(seeds)
    ]
    error = stdev(change) / len(change) ** 0.5 if len(change) > 1 else None
    return {"seeds": len(change), "mean": mean(change), "se": error}


def _reached(row: dict[str, Any], accuracy: float) -> float | None:
    """Seconds, first steps included, until a test showed this accuracy."""
    return next((seconds for seconds, figures in row["curve"] if figures >= accuracy), None)


def merge(files: list[Path], out: Path) -> None:
    """One file of the results of several processes."""
    parts = [json.loads(file.read_text()) for file in files]
    runs: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for part in parts:
        for arm, rows in part["runs"].items():
            runs[arm] |= rows
    contents = parts[0] | {"processes": len(parts), "summary": summary(runs), "runs": runs}
    out.write_text(json.dumps(contents, indent=1))


def shortened(runs: dict[str, dict[str, dict[str, Any]]], seed: str, to: str, total: int) -> int:
    """Steps of plain training in the time of arm ``to``, of this seed or else of any before."""
    rows = {arm: runs[arm].get(seed) or next(iter(runs[arm].values())) for arm in ("a", to)}
    return round(total * steady_s(rows[to]) / steady_s(rows["a"]))


def parse() -> argparse.Namespace:
    """The command line; ``units`` becomes pairs of seed and arm in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--merge", type=Path, nargs="+", help="results to put into one file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", default="resnet8")
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--subset", type=int)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--units", default="0:a,first,f,e,b,c,d,g", help="seed:arm,arm seed:arm")
    parser.add_argument("--shortened-to", default="first", help="arm whose time arm f gets")
    parser.add_argument("--cut-to", type=float, help="share of the steps of f, in place of a time")
    parser.add_argument("--budget-s", type=float, default=600)
    options = parser.parse_args()
    parts = [unit.split(":") for unit in options.units.split()]
    options.units = [(seed, arm) for seed, arms in parts for arm in arms.split(",")]
    if unknown := {arm for _, arm in options.units} - ARMS:
        parser.error(f"--units: {sorted(unknown)} are none of {', '.join(sorted(ARMS))}")
    arms = [arm for _, arm in options.units]
    before = set(arms[: arms.index("f")]) if "f" in arms and not options.cut_to else set(ARMS)
    if not {"a", options.shortened_to} <= before:
        parser.error(f"--units: a and {options.shortened_to}, to which f is cut, must precede it")
    return options


def main() -> None:
    """Train arms and seeds in the order asked for, while the budget lasts; write after each."""
    options = parse()
    if options.merge:
        merge(options.merge, options.out)
        return
    deadline = time.monotonic() + options.budget_s
    data = load(options)
    runs: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for seed, arm in options.units:
        if time.monotonic() > deadline:
            return
        fields: dict[str, Any] = {"downsample": DOWN[arm]} if arm in DOWN else {}
        if arm == "f":
            total = make_spec(options, int(seed)).steps(len(data.train))[1]
            fields["max_steps"] = (
                round(options.cut_to * total)
                if options.cut_to
                else shortened(runs, seed, options.shortened_to, total)
            )
        spec = make_spec(options, int(seed), **fields)
        runs[arm][seed] = train(arm, spec, data, options.device)
        gc.collect()  # graphs of the last net hold its memory
        print(seed, arm, {k: v for k, v in runs[arm][seed].items() if k != "curve"}, flush=True)
        contents = {
            "what": f"dynamic downsampling on {options.data.stem}, arms as in the docstring",
            "options": {k: str(v) for k, v in vars(options).items() if k not in ("data", "out")},
            "device": devices.describe(options.device),
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            "summary": summary(runs) if runs["a"] else None,
            "runs": runs,
        }
        options.out.write_text(json.dumps(contents, indent=1))


if __name__ == "__main__":
    main()
