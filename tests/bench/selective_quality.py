"""CIFAR-10 accuracy of selective DenseNets beside plain ones, runs split over GPUs and calls.

    python -m tests.bench.selective_quality --out A.json --data FOLDER --arms plain --seeds 0,1
    python -m tests.bench.selective_quality --out G.json --data FOLDER --choose 0.003,0.01,0.03
    python -m tests.bench.selective_quality --out ALL.json --merge G.json A.json B.json

FOLDER holds cifar10.npz of ``tests.bench.cifar10``. ``--choose`` trains one seed with each
threshold on nine tenths of the training images and tests on the last tenth; the arms are then
trained on all of them. Rows are written after every run, and a run that would end after the budget
is left out. ``--quick`` runs the same code in small on generated images.
"""

import argparse
import io
import json
import platform
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from models.core import device
from models.core.run import Run
from models.data import images, synthetic
from models.data.images import ImageData
from models.nets.selective import conv_gpu
from models.selective_convolution import report
from models.selective_convolution import train as method
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.supervised.hooks import SubRun
from tests.bench import cifar10
from tests.bench.selective_checks import LIMITS, gaps_of

ARMS = ("plain", "selective", "closing only", "wider")
CHOOSING_SEED = 100  # no arm is compared with it
REPORTED = (
    *("test_accuracy", "test_nll", "best_test_accuracy", "train_seconds", "median_step_ms"),
    *("median_round_ms", "peak_gpu_bytes", "parameters", "shifts_in_use", "effective_weights"),
    *("forward_macs", "rounds", "slots", "closed", "reallocated", "open_at_the_end"),
    *("copies_at_the_end",),
)


def make_spec(
    arm: str,
    seed: int,
    epochs: int,
    *,
    name: str = "densenet40",
    growth: int = 12,
    threshold: float = 1e-3,
    batch: int = 256,
) -> SelectiveConvolutionTrain:
    """A DenseNet in the paper's recipe, shortened; ``arm`` says what may happen to slots.

    The rate grows with the batch from the paper's 0.1 at 64, up to 0.2. ``wider`` is plain with one
    channel of growth more, the least step there is: more parameters than the shifts add.
    """
    chosen: dict[str, Any] = {"threshold": threshold}
    chosen |= {"plain": {"enabled": False}, "wider": {"enabled": False}}.get(arm, {})
    chosen |= {"realloc": False} if arm == "closing only" else {}
    return SelectiveConvolutionTrain.model_validate(
        {
            "kind": "selective_convolution.train",
            "model": {"name": name, "growth": growth + (arm == "wider")},
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


def read(folder: Path | None, on: str) -> ImageData:
    """CIFAR-10 of ``tests.bench.cifar10``; generated images where no folder is given."""
    if folder is None:
        pairs = [synthetic.blobs(n, 10, 16, 3, seed) for n, seed in ((256, 1), (128, 2))]
        return images.from_tensors(*map(list, pairs), [str(k) for k in range(10)], on)
    return cifar10.load(folder / "cifar10.npz" if folder.is_dir() else folder, on)


def held_out(data: ImageData) -> ImageData:
    """The last tenth of the training images as validation images."""
    cut = len(data.train) * 9 // 10
    parts = (data.train[:cut], data.train_labels[:cut], data.train[cut:], data.train_labels[cut:])
    return ImageData(*parts, data.classes, data.mean, data.std)


def train_arm(data: ImageData, spec: SelectiveConvolutionTrain, on: str) -> dict[str, Any]:
    """One training: figures at the end, test accuracy by epoch, slots closed and opened by round.

    The main figure is that of the last epoch.
    """
    events, started = io.StringIO(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), events, device=on, checkpoint_interval_s=1e9)
        net = method.new_net(spec, data, on)
        counted, fitted = method.fit_selective(
            net, spec, data, run, SubRun(saves_checkpoints=False)
        )
    figures = report.values(spec, data, net, counted, fitted)
    contents: dict[str, Any] = {name: figures[name] for name in REPORTED}
    contents["wall_seconds"] = time.monotonic() - started
    contents["accuracy_by_epoch"] = [row["test_accuracy"] for row in fitted.history]
    lines = map(json.loads, events.getvalue().splitlines())
    rounds = [line["values"] for line in lines if "reallocated" in line.get("values", {})]
    for name in ("closed", "reallocated"):
        contents[f"{name}_by_round"] = [int(row[name]) for row in rounds]
    warned = [line for line in events.getvalue().splitlines() if "warn" in line]
    return contents | ({"warnings": warned[:3]} if warned else {})


class Jobs:
    """The runs of one process and what came of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.on = device.pick()
        device.tune(self.on)
        self.ends = time.monotonic() + options.budget_s
        self.longest_s = 0.0
        names = ("net", "growth", "batch", "epochs", "choose_epochs", "quick")
        self.figures: dict[str, Any] = {
            "device": device.describe(self.on) | {"python": platform.python_version()},
            "setting": {name: getattr(options, name) for name in names},
            "units": self.check(),
            "choosing": [],
            "rows": [],
        }
        self.data = read(options.data, self.on)

    def check(self) -> str:
        """Which programs train: the products in bfloat16 if they are right here, or the others."""
        try:
            gaps = gaps_of("products, bf16", 36, (8, 8), self.on, training=True)
        except Exception as error:  # a compiler of another version may refuse them
            gaps = {str(error)[:300]: float("inf")}
        if max(gaps.values()) < LIMITS["products, bf16"]:
            return "products"
        conv_gpu.TYPES = ()
        return f"activation written, for the products are not right here: {gaps}"

    def train(self, kind: str, data: ImageData, arm: str, seed: int, threshold: float) -> None:
        """One run into the list ``kind`` of the file, unless it would end after the budget."""
        chosen = self.options
        epochs = chosen.choose_epochs if kind == "choosing" else chosen.epochs
        label = {"arm": arm, "seed": seed, "threshold": threshold, "epochs": epochs}
        if time.monotonic() + self.longest_s * epochs > self.ends:
            print("no time for", label, flush=True)
            return
        spec = make_spec(
            arm, seed, epochs, name=chosen.net, growth=chosen.growth, threshold=threshold,
            batch=chosen.batch,
        )  # fmt: skip
        row = label | train_arm(data, spec, self.on)
        self.longest_s = max(self.longest_s, row["wall_seconds"] / epochs)
        self.figures[kind].append(row)
        self.write()
        short = {name: row[name] for name in (*label, *REPORTED[:2], "closed", "reallocated")}
        print(kind, json.dumps(short | {"wall_seconds": row["wall_seconds"]}), flush=True)

    def choose(self) -> float | None:
        """The threshold of best validation accuracy among those that re-used slots."""
        data = held_out(self.data)
        for threshold in self.options.choose:
            self.train("choosing", data, "selective", CHOOSING_SEED, threshold)
        picked = best_threshold(self.figures["choosing"])
        self.figures["chosen_threshold"] = picked
        self.write()
        return picked

    def write(self) -> None:
        self.options.out.write_text(json.dumps(self.figures, indent=1) + "\n")


def best_threshold(rows: Iterable[dict[str, Any]]) -> float | None:
    """Threshold of the best validation accuracy; without re-use a run says nothing of it."""
    active = [row for row in rows if row["reallocated"]]
    return max(active, key=lambda row: row["test_accuracy"])["threshold"] if active else None


def merge(paths: Iterable[Path]) -> dict[str, Any]:
    """The rows of several files of one setting; means and paired differences with their errors.

    Raises:
        ValueError: if settings differ, or a seed of an arm was trained twice.
    """
    parts = [json.loads(path.read_text()) for path in paths]
    settings = [part["setting"] for part in parts]
    if any(setting != settings[0] for setting in settings):
        raise ValueError(f"files of different settings: {settings}; merge those of one net alone")
    rows = sorted((r for p in parts for r in p["rows"]), key=lambda r: (r["arm"], r["seed"]))
    names = [(row["arm"], row["seed"]) for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"a seed of an arm twice among {names}; leave one of the files out")
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in ARMS}
    return {
        "devices": [part["device"] for part in parts],
        "units": [part.get("units") for part in parts],
        "setting": settings[0],
        "choosing": [row for part in parts for row in part["choosing"]],
        "mean": {arm: summary(figures) for arm, figures in by_arm.items() if figures},
        "paired": {arm: paired(by_arm[arm], by_arm["plain"]) for arm in ARMS[1:]},
        "rows": rows,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the seeds of one arm."""
    names = ("test_accuracy", "test_nll", "median_step_ms", "train_seconds", "closed")
    names += ("reallocated", "copies_at_the_end", "open_at_the_end", "slots", "parameters")
    return {"seeds": len(rows)} | {
        name: mean(row[name] for row in rows) for name in names if rows[0][name] is not None
    }


def paired(rows: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean difference of test accuracy to the plain arm by seed, its standard error, what it says.

    In shares of 1; None where fewer than two seeds are there.
    """
    beside = {row["seed"]: row["test_accuracy"] for row in plain}
    gaps = [r["test_accuracy"] - beside[r["seed"]] for r in rows if r["seed"] in beside]
    if len(gaps) < 2:
        return {"seeds": len(gaps), "gain": None}
    error = stdev(gaps) / len(gaps) ** 0.5
    says = "no difference beyond 2 standard errors"
    if abs(mean(gaps)) > 2 * error:
        says = "a gain" if mean(gaps) > 0 else "a loss"
    return {"seeds": len(gaps), "gain": mean(gaps), "standard_error": error, "says": says}


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+")
    parser.add_argument("--net", default="densenet40")
    parser.add_argument("--growth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--choose-epochs", type=int, default=12)
    parser.add_argument("--choose", type=numbers, default=[])
    parser.add_argument("--threshold", type=float, help="of the arms, where none is chosen")
    parser.add_argument("--arms", default="")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget-s", type=float, default=500)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.merge:
        options.out.write_text(json.dumps(merge(options.merge), indent=1) + "\n")
        return
    if options.quick:
        options.data, options.growth, options.batch = None, 4, 32
        options.epochs = options.choose_epochs = 3
    jobs = Jobs(options)
    picked = jobs.choose() if options.choose else None
    threshold = options.threshold or picked
    for seed in map(int, options.seeds.split(",")):
        for arm in filter(None, options.arms.split(",")):
            if threshold is None and arm in ("selective", "closing only"):
                raise SystemExit(f"arm {arm} needs --threshold, or --choose with one that re-uses")
            jobs.train("rows", jobs.data, arm, seed, threshold or 0.5)


if __name__ == "__main__":
    main()
