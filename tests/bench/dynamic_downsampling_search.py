"""Ways to shrink the images early in a training, searched at equal cost; one seed paired with all.

    python -m tests.bench.dynamic_downsampling_search --data cifar10.npz --out FILE.json

Every variant is a list of phases (share of the steps at its end, pixels) of one plain net and costs
about .6 of the plain training by the cost model below. The final figures of what wins come from
``tests.bench.dynamic_downsampling`` on other seeds.
"""

import argparse
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.core import device as devices
from models.core.device import generator
from models.core.run import Run
from models.data.images import ImageData
from models.dynamic_downsampling.cheap import shrink
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.supervised.hooks import Hooks, SubRun
from models.supervised.loop import fit
from models.supervised.steps import Batch, Mode, learning_rate
from tests.bench import cifar10
from tests.bench.dynamic_downsampling import figures, make_spec, progressive
from tests.models.dynamic_downsampling.plain import new_net

FIXED = 0.13  # part of a full step's time that does not shrink with the image; 16 of 32 px: .35


class Variant(NamedTuple):
    """A plan of image sizes.

    Attributes:
        phases: (share of the steps at its end, pixels), in order, up to 1.
        how: ``area``, or ``window``: a random window of ``window`` pixels, then area.
        window: pixels of the window; 0 draws a size between the phase's and the full one.
        rate: ``cosine`` over the steps, ``cost`` over the time that they cost, ``late``: at its
            peak until the images are full.
        longer: factor on the number of epochs.
        decay: weight decay.
        peak: factor on the peak learning rate.
        smoothing: of the labels.
    """

    phases: tuple[tuple[float, int], ...] = ((1.0, 32),)
    how: str = "area"
    window: int = 24
    rate: str = "cosine"
    longer: float = 1.0
    decay: float = 5e-4
    peak: float = 1.0
    smoothing: float = 0.0


FIRST = ((0.63, 16), (1.0, 32))
RAMP = ((0.46, 16), (0.72, 24), (1.0, 32))
LONG = ((0.8, 16), (1.0, 32))
VARIANTS = {
    "plain": Variant(),
    "first": Variant(FIRST),
    "short": Variant(longer=0.6),
    "ramp": Variant(RAMP),
    "first_cost": Variant(FIRST, rate="cost"),
    "ramp_cost": Variant(RAMP, rate="cost"),
    "window": Variant(FIRST, how="window"),
    "long": Variant(LONG, longer=1.25),
    "long_ramp": Variant(((0.66, 16), (0.84, 24), (1.0, 32)), longer=1.2),
    "smooth": Variant(((0.44, 16), (0.54, 20), (0.64, 24), (0.74, 28), (1.0, 32))),
    "windows": Variant(FIRST, how="window", window=0),
    "first_late": Variant(FIRST, rate="late"),
    "ramp_window": Variant(RAMP, how="window", window=28, rate="cost"),
    "composer": Variant(),
    "plain_decay_2": Variant(decay=1e-3),
    "plain_peak_2": Variant(peak=2.0),
    "plain_smoothed": Variant(smoothing=0.1),
    "first_decay_2": Variant(FIRST, decay=1e-3),
    "first_smoothed": Variant(FIRST, smoothing=0.1),
    "short_decay_2": Variant(longer=0.6, decay=1e-3),
}


def cost(pixels: int) -> float:
    """Time of a step on images of 32 px shrunken to ``pixels``, over that of a full step."""
    return FIXED + (1 - FIXED) * (pixels / 32) ** 2


def size_at(phases: tuple[tuple[float, int], ...], share: float) -> int:
    """Pixels of the images after this share of the steps."""
    return next((pixels for end, pixels in phases if share < end), phases[-1][1])


def rates(variant: Variant, spec: DynamicDownsamplingTrain, total: int) -> Callable[[int], float]:
    """Learning rate of each step, from 0."""
    sizes = [size_at(variant.phases, step / total) for step in range(total)]
    if variant.rate == "late":
        first = next(step for step, pixels in enumerate(sizes) if pixels == 32)
        return lambda step: (
            spec.optimizer.lr
            * (
                min(1.0, 20 * (step + 1) / total)
                if step < first
                else (1 + math.cos(math.pi * (step - first) / (total - first))) / 2
            )
        )
    if variant.rate == "cosine":
        return lambda step: learning_rate(spec.optimizer, step, total)
    spent = torch.tensor([0.0, *(cost(pixels) for pixels in sizes)]).cumsum(0)
    positions = (spent / spent[-1] * total).tolist()
    return lambda step: learning_rate(spec.optimizer, positions[step], total)  # ty: ignore[invalid-argument-type]


def smaller(variant: Variant, seed: int, total: int) -> Callable[[Tensor, int], Tensor]:
    """What makes the images of a step from full ones."""

    def prepare(images: Tensor, step: int) -> Tensor:
        full, pixels = images.shape[-1], size_at(variant.phases, step / total)
        if pixels == full:
            return images
        if variant.how == "window":
            drawn = torch.rand(1, generator=generator(seed, "window", step)).item()
            window = variant.window or round(pixels + (full - pixels) * drawn)
            images = shrink(images, (window, window), "crop", seed, step)
        return shrink(images, (pixels, pixels), "area", seed, step)

    return prepare


def loss_of(smoothing: float) -> Callable[[nn.Module, Batch, Mode], Tensor]:
    """Mean cross-entropy with smoothed labels."""
    return lambda net, batch, _: functional.cross_entropy(
        net(batch.images), batch.labels, label_smoothing=smoothing
    )


def train(name: str, options: argparse.Namespace, seed: int, data: ImageData) -> dict[str, Any]:
    """One training of a variant; its figures."""
    variant = VARIANTS[name]
    per_epoch = len(data.train) // options.batch
    total = round(options.epochs * variant.longer * per_epoch)
    optimizer = {"lr": options.lr * variant.peak, "weight_decay": variant.decay}
    spec = make_spec(options, seed, max_steps=total, optimizer=optimizer)
    modes = {pixels: Mode(f"{pixels} px") for pixels in range(4, 33, 4)}
    how = {
        "prepare": smaller(variant, seed, total),
        "mode_of": lambda step: modes[size_at(variant.phases, step / total)],
        "rate": rates(variant, spec, total),
        "forward": loss_of(variant.smoothing),
    }
    if name == "composer":
        how |= progressive(total, 32)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), device=options.device, checkpoint_interval_s=1e9)
        net = new_net(spec, data, options.device)
        fitted = fit(net, data, spec, run, Hooks(sub_run=SubRun(saves_checkpoints=False), **how))
    results = figures(fitted, fitted.scores.accuracy, time.perf_counter() - began)
    shares = [cost(size_at(variant.phases, step / total)) for step in range(total)]
    return {
        "variant": name,
        "seed": seed,
        "cost": sum(shares) / per_epoch / options.epochs,
    } | results


def main() -> None:
    """Train the variants in order, one seed after the other; write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--subset", type=int)
    parser.add_argument("--lr", type=float, default=0.4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--budget-s", type=float, default=400)
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget_s
    data = cifar10.load(options.data, options.device, options.subset)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for name in options.variants.split(","):
            if time.monotonic() > deadline:
                return
            rows.append(train(name, options, seed, data))
            gc.collect()  # graphs of the last net hold its memory
            print({k: v for k, v in rows[-1].items() if k != "curve"}, flush=True)
            contents = {
                "what": "plans of image sizes on JPEG CIFAR-10, variants as in the script",
                "options": {
                    k: str(v) for k, v in vars(options).items() if k not in ("data", "out")
                },
                "device": devices.describe(options.device),
                "runs": rows,
            }
            options.out.write_text(json.dumps(contents, indent=1))


if __name__ == "__main__":
    main()
