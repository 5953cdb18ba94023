"""CIFAR-10 accuracy of the four arms, for ``tests.bench.selective_gpu --quality``.

The number of epochs is what a timed probe says fits the budget. The threshold is chosen on the last
tenth of the training images. Arms are trained in turn for one seed after the other, so a run that
is cut off leaves whole seeds.
"""

import io
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch

from models.core.run import Run
from models.core.training import Arm
from models.data import images, synthetic
from models.data.images import ImageData
from models.selective_convolution import report
from models.selective_convolution import train as method
from models.selective_convolution.spec import SelectiveConvolutionTrain
from tests.bench import cifar10

ARMS = ("plain", "selective", "closing only", "wider")
THRESHOLDS = (1e-3, 1e-2, 4e-2)
CHOOSING = 0.25  # of the budget
RESERVE = 0.93  # of the budget that is planned for
PROBE_STEPS = 40


class Plan(NamedTuple):
    """What to train."""

    folder: Path | None
    growth: int
    batch: int
    seeds: int


def make_spec(
    arm: str, seed: int, epochs: int, *, growth: int = 12, threshold: float = 1e-3, batch: int = 256
) -> SelectiveConvolutionTrain:
    """DenseNet-40 in the paper's recipe, shortened; ``arm`` says what may happen to slots.

    The rate grows with the batch from the paper's 0.1 at 64, up to 0.2.
    """
    chosen: dict[str, Any] = {"threshold": threshold}
    chosen |= {"plain": {"enabled": False}, "wider": {"enabled": False}}.get(arm, {})
    chosen |= {"realloc": False} if arm == "closing only" else {}
    return SelectiveConvolutionTrain.model_validate(
        {
            "kind": "selective_convolution.train",
            "model": {"name": "densenet40", "growth": growth + (arm == "wider")},
            "data": {"dataset": "none"},
            "images": {"augment": {"crop_padding": 4, "flip": True}},
            "epochs": epochs,
            "batch_size": batch,
            "optimizer": {"lr": min(0.2, 0.1 * batch / 64), "weight_decay": 1e-4, "warmup": 0.0},
            "seed": seed,
            "channels_last": torch.cuda.is_available(),
            "selective": chosen,
        }
    )


def read(folder: Path | None, *, quick: bool) -> ImageData:
    """CIFAR-10 of ``tests.bench.cifar10``, or generated images."""
    if quick or folder is None:
        pairs = [synthetic.blobs(n, 10, 16, 3, seed) for n, seed in ((256, 1), (128, 2))]
        return images.from_tensors(*map(list, pairs), [str(k) for k in range(10)], "cpu")
    path = folder / "cifar10.npz" if folder.is_dir() else folder
    return cifar10.load(path, "cuda" if torch.cuda.is_available() else "cpu")


def held_out(data: ImageData) -> ImageData:
    """The last tenth of the training images as validation images."""
    cut = len(data.train) * 9 // 10
    parts = (data.train[:cut], data.train_labels[:cut], data.train[cut:], data.train_labels[cut:])
    return ImageData(*parts, data.classes, data.mean, data.std)


def first(data: ImageData, count: int) -> ImageData:
    """The first training images."""
    parts = (data.train[:count], data.train_labels[:count], data.test, data.test_labels)
    return ImageData(*parts, data.classes, data.mean, data.std)


def train_arm(bench: Any, data: ImageData, spec: SelectiveConvolutionTrain) -> dict[str, Any]:
    folder = bench.out.with_suffix(".run")
    folder.mkdir(exist_ok=True)
    events = io.StringIO()
    run = Run(folder, events, device=bench.on, checkpoint_interval_s=1e9)
    started = time.monotonic()
    net = method.new_net(spec, data, bench.on)
    counted, fitted = method.fit_selective(net, spec, data, run, Arm(keeps=False))
    found = report.values(spec, data, net, counted, fitted)
    names = ("test_accuracy", "test_nll", "best_test_accuracy", "train_seconds", "median_step_ms")
    names += ("median_round_ms", "parameters", "shifts_in_use", "effective_weights", "forward_macs")
    names += ("rounds", "slots", "closed", "reallocated", "open_at_the_end", "copies_at_the_end")
    told = {name: found[name] for name in names}
    told["wall_seconds"] = time.monotonic() - started
    warned = [line for line in events.getvalue().splitlines() if "warn" in line]
    return told | ({"warnings": warned[:3]} if warned else {})


def run(bench: Any, plan: Plan) -> None:
    """Probe, threshold, arms; each is a section of the bench's file."""
    data = read(plan.folder, quick=bench.quick)
    if bench.quick:
        plan = plan._replace(growth=4, batch=32, seeds=2)
    bench.section("probe", lambda bench: probe(bench, data, plan))
    costs = bench.found["probe"]
    if isinstance(costs, str):
        raise SystemExit(costs)
    bench.section("threshold", lambda bench: choose(bench, data, plan, costs))
    picked = bench.found["threshold"]
    threshold = picked["chosen"] if isinstance(picked, dict) else THRESHOLDS[1]
    bench.section("accuracy", lambda bench: compare(bench, data, plan, costs, threshold))


def probe(bench: Any, data: ImageData, plan: Plan) -> dict[str, Any]:
    """Seconds that a run of each arm takes beside its steps, and those of an epoch."""
    part, found = first(data, PROBE_STEPS * plan.batch), {}
    for arm in ("plain", "selective", "wider"):
        spec = make_spec(arm, 0, 2, growth=plan.growth, batch=plan.batch)
        train_arm(bench, part, spec)  # compiles kernels, tries algorithms
        told = train_arm(bench, part, spec)
        steps = len(data.train) // plan.batch
        step_s = (told["median_step_ms"] or 1000 * told["train_seconds"] / 2 / steps) / 1000
        own = 2 * min(PROBE_STEPS, steps) * step_s
        beside = max(0.0, told["wall_seconds"] - own)  # two tests, the capture of graphs
        found[arm] = {"epoch_s": steps * step_s + 0.4 * beside, "beside_s": beside}
    found["closing only"] = found["selective"]
    return found


def epochs_in(seconds: float, costs: dict[str, Any], arms: tuple[str, ...]) -> int:
    """Epochs that fit so many seconds when each arm is trained once; two at least."""
    beside = sum(costs[arm]["beside_s"] for arm in arms)
    return max(2, int((seconds - beside) / sum(costs[arm]["epoch_s"] for arm in arms)))


def choose(bench: Any, data: ImageData, plan: Plan, costs: dict[str, Any]) -> dict[str, Any]:
    """The threshold of best validation accuracy among those that re-use slots, one seed."""
    part, found = held_out(data), {}
    tried = THRESHOLDS[: 1 if bench.quick else None]
    seconds = CHOOSING * bench.left
    epochs = 2 if bench.quick else epochs_in(seconds, costs, ("selective",) * len(tried))
    for threshold in tried:
        spec = make_spec(
            "selective", 100, epochs, growth=plan.growth, threshold=threshold, batch=plan.batch
        )
        found[str(threshold)] = train_arm(bench, part, spec)
    active = [name for name in found if found[name]["reallocated"]] or list(found)
    best = max(active, key=lambda name: found[name]["test_accuracy"])
    return {"epochs": epochs, "validation": found, "chosen": float(best)}


def compare(
    bench: Any, data: ImageData, plan: Plan, costs: dict[str, Any], threshold: float
) -> dict[str, Any]:
    """Four arms, paired by seed; a seed is finished before the next begins."""
    epochs = 2 if bench.quick else epochs_in(RESERVE * bench.left / plan.seeds, costs, ARMS)
    arms: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    found = {"epochs": epochs, "batch": plan.batch, "growth": plan.growth, "threshold": threshold}
    for seed in range(plan.seeds):
        for arm, rows in arms.items():
            if bench.left <= 0:
                break
            spec = make_spec(
                arm, seed, epochs, growth=plan.growth, threshold=threshold, batch=plan.batch
            )
            rows.append(train_arm(bench, data, spec))
            bench.found["accuracy so far"] = found | {"arms": arms, "paired": paired(arms)}
            bench.write()
    bench.found.pop("accuracy so far", None)
    means = {arm: mean(row["test_accuracy"] for row in rows) for arm, rows in arms.items() if rows}
    return found | {"mean_test_accuracy": means, "paired": paired(arms), "arms": arms}


def paired(arms: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Mean difference of test accuracy to the plain arm, its standard error, what it says."""
    found = {}
    for name, rows in arms.items():
        pairs = zip(rows, arms["plain"], strict=False)
        gaps = [row["test_accuracy"] - plain["test_accuracy"] for row, plain in pairs]
        if name != "plain" and len(gaps) > 1:
            error = stdev(gaps) / len(gaps) ** 0.5
            found[name] = {
                "gain": mean(gaps),
                "standard_error": error,
                "beyond_2_standard_errors": abs(mean(gaps)) > 2 * error,
                "seeds": len(gaps),
            }
    return found
