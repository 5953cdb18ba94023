"""The product's training on one GPU and on several: correct first, then timed.

    python -m tests.bench.ranks_gpu --out FILE [--ranks 1,2] [--repeats 2] [--quick]

Every number of GPUs runs in processes of its own under torchrun, in turn and over again. Timed are
whole steps of the loop (batches, augmentation, step, the ranks' agreement on stops) in windows of
steps after the warm-up; the host waits for the GPU at their ends alone. Strong: one batch size over
all GPUs; weak: so many images a GPU. ``--quick`` runs the same code in small, on a CPU too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from models.core import device, ranks
from models.core.run import Run
from models.data import images
from models.data.images import ImageData
from models.dynamic_downsampling.setup import prepare
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain
from models.dynamic_downsampling.train import fit_cheap
from models.nets.build import build_net
from models.selective_convolution.spec import SelectiveConvolutionTrain
from models.selective_convolution.train import fit_selective, new_net
from models.supervised.hooks import Hooks, SubRun
from models.supervised.loop import fit
from models.supervised.steps import Mode

ALONE = SubRun(saves_checkpoints=False)
CASES = ("resnet18", "resnet18 cheap", "densenet40 selective")
BATCH = {"resnet18": 512, "resnet18 cheap": 512, "densenet40 selective": 128}


class TimedRun(Run):
    """A run that notes the time at the ends of windows of steps.

    Args:
        folder: of the run.
        on: torch device.
        first: steps before the first window.
        size: steps of a window.
    """

    def __init__(self, folder: Path, on: str, first: int, size: int) -> None:
        super().__init__(folder, (folder / "events.jsonl").open("w"), on, 1e9)
        self.first, self.size, self.steps = first, size, 0
        self.times: list[float] = []

    def checkpoint_due(self) -> bool:
        """Asked once a step, after it."""
        self.steps += 1
        if self.steps >= self.first and (self.steps - self.first) % self.size == 0:
            if self.device == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
        return False

    @property
    def warned(self) -> list[str]:
        """Warnings, of CUDA graphs that were not recorded among them."""
        lines = (self.dir / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [e["message"] for e in events if e.get("event") == "warning"]


class Bench:
    """What the processes of one number of GPUs measure.

    Args:
        folder: for files.
        quick: small nets and few steps.
    """

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.on = device.pick()
        self.warm, self.window, self.windows = (14, 2, 2) if quick else (60, 40, 4)

    @property
    def total(self) -> int:
        """Steps of a timed training."""
        return self.warm + self.window * self.windows

    def data(self, per_epoch: int, batch: int) -> ImageData:
        """Random images: an epoch of ``per_epoch`` steps."""
        side, draws = (16 if self.quick else 32), torch.Generator().manual_seed(0)

        def part(count: int) -> list[torch.Tensor]:
            pixels = torch.randint(256, (count, side, side, 3), generator=draws, dtype=torch.uint8)
            return [pixels, torch.randint(10, (count,), generator=draws)]

        return images.from_tensors(part(per_epoch * batch), part(64), list("abcdefghij"), self.on)

    def timed(self, train: Callable[[TimedRun], Any], batch: int) -> dict[str, Any]:
        """Milliseconds a step in each window, and images a second in the fastest and the middle."""
        own = Path(tempfile.mkdtemp(dir=self.folder))
        run = TimedRun(own, self.on, self.warm, self.window)
        train(run)
        ms = [1000 * (b - a) / self.window for a, b in zip(run.times, run.times[1:], strict=False)]
        rates = {"images_per_s_max": 1000 * batch / min(ms)}
        rates["images_per_s_median"] = 1000 * batch / median(ms)
        return {"batch": batch, "ms": ms, **rates, "warnings": run.warned}


def resnet(bench: Bench, batch: int, *, cheap: bool) -> Callable[[TimedRun], Any]:
    """ResNet-18, all steps full, or all timed ones at half the side."""
    data = bench.data(bench.total, batch)
    part = [{"start": 0.0, "end": 1.0}] if cheap else []
    down = {"schedule": {"type": "list", "intervals": part}, "kernel_pool": "none"}
    spec = DynamicDownsamplingTrain.model_validate(
        {
            "kind": "dynamic_downsampling.train",
            "model": {"name": "resnet8" if bench.quick else "resnet18"},
            "data": {"dataset": "none"},
            "images": {"augment": {"crop_padding": 1 if bench.quick else 4, "flip": True}},
            "max_steps": bench.total,
            "batch_size": batch,
            "downsample": down | {"refine_fraction": 0.0}
            if cheap
            else {"schedule": {"type": "off"}},
        }
    )
    return lambda run: fit_cheap(prepare(spec, data, run), run, ALONE)


def densenet(bench: Bench, batch: int) -> Callable[[TimedRun], Any]:
    """Selective DenseNet-40 with rounds of allocation between epochs, timed with the steps."""
    per_epoch = bench.total // 4
    data = bench.data(per_epoch, batch)
    small = {"growth": 4, "layers": 1} if bench.quick else {}
    spec = SelectiveConvolutionTrain.model_validate(
        {
            "kind": "selective_convolution.train",
            "model": {"name": "densenet40", **small},
            "data": {"dataset": "none"},
            "images": {"augment": {"crop_padding": 1 if bench.quick else 4, "flip": True}},
            "epochs": 4,
            "batch_size": batch,
            "channels_last": bench.on == "cuda",
            "selective": {"threshold": 0.1},
        }
    )
    return lambda run: fit_selective(new_net(spec, data, bench.on), spec, data, run, ALONE)


def case_of(bench: Bench, name: str, batch: int) -> dict[str, Any]:
    """One case at one batch size over all processes."""
    if name == "densenet40 selective":
        train = densenet(bench, batch)
    else:
        train = resnet(bench, batch, cheap=name.endswith("cheap"))
    return bench.timed(train, batch)


def agreement(bench: Bench) -> dict[str, Any]:
    """Steps of two modes, recorded and eager, from the same weights: largest gaps.

    The ranks of one training must hold the same bits; recorded and eager steps may differ in
    rounding, as cuDNN adds in any order.
    """
    states = {}
    data = bench.data(20, 16)
    for compiled in ("off", "auto"):
        spec = DynamicDownsamplingTrain.model_validate(
            {
                "kind": "dynamic_downsampling.train",
                "model": {"name": "resnet8"},
                "data": {"dataset": "none"},
                "max_steps": 40,
                "batch_size": 16,
                "precision": "fp32",
                "compile": compiled,
                "optimizer": {"lr": 0.01},
            }
        )
        torch.manual_seed(0)
        net = build_net({"name": "resnet8"}, 10, 3).to(bench.on)
        run = TimedRun(Path(tempfile.mkdtemp(dir=bench.folder)), bench.on, 10**6, 1)
        modes = Hooks(mode_of=lambda step: Mode("even" if step % 2 else "odd"), sub_run=ALONE)
        fit(net, data, spec, run, modes)
        states[compiled] = torch.cat([p.detach().flatten() for p in net.parameters()])
        states[f"{compiled} warnings"] = run.warned
    mine = states["auto"].clone()
    ranks.broadcast([mine])
    apart = float((mine - states["auto"]).abs().max())
    gap = float((states["off"] - states["auto"]).abs().max())
    return {
        "gap_of_graph_to_eager": gap,
        "largest_weight": float(states["off"].abs().max()),
        "gap_of_last_rank_to_first": apart,
        "warnings": states["auto warnings"],
    }


def measure(bench: Bench) -> dict[str, Any]:
    """All cases; strong and weak scaling are one where there is one process."""
    count, figures = ranks.world_size(), {}
    figures["agreement"] = agreement(bench)
    for name in CASES:
        batch = 16 if bench.quick else BATCH[name]
        figures[f"{name}, strong"] = case_of(bench, name, batch)
        if count > 1:
            figures[f"{name}, weak"] = case_of(bench, name, batch * count)
    return figures


def child(folder: Path, *, quick: bool) -> None:
    """What each process of torchrun does."""
    bench = Bench(folder, quick=quick)
    ranks.start(bench.on)
    figures = measure(bench)
    if not ranks.is_first():
        figures = {}
    gathered: list[Any] = [None] * ranks.world_size()
    if ranks.world_size() > 1:
        torch.distributed.all_gather_object(gathered, figures)
    if ranks.is_first():
        (folder / "figures.json").write_text(json.dumps(figures, allow_nan=False))
    ranks.leave()


def launch(count: int, *, quick: bool) -> dict[str, Any]:
    """The figures of ``count`` processes.

    Raises:
        RuntimeError: with the end of what they wrote, if they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={count}", "-m", __spec__.name, "--child", folder]
        command += ["--quick"] if quick else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-6000:])
        return json.loads((Path(folder) / "figures.json").read_text())


def scaling(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Images a second over those of one process, each the best of the repeats and windows."""
    ratios: dict[str, dict[str, float]] = {}
    best = {
        count: {
            name: max(r[name]["images_per_s_max"] for r in each) for name in each[0] if "," in name
        }
        for count, each in runs.items()
        if each
    }
    for count, figures in best.items():
        for name, rate in figures.items():
            alone = best["1"][f"{name.partition(',')[0]}, strong"]
            ratios.setdefault(count, {})[name] = rate / alone
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ranks", default="1,2", help="numbers of processes, 1 first")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, quick=options.quick)
        return
    counts = options.ranks.split(",")
    runs: dict[str, list[dict[str, Any]]] = {count: [] for count in counts}
    contents: dict[str, Any] = {"device": device.describe(device.pick()), "runs": runs}
    for _ in range(options.repeats):
        for count in counts:
            runs[count].append(launch(int(count), quick=options.quick))
            options.out.write_text(json.dumps(contents, indent=1))
    contents["ratios_to_one"] = scaling(runs)
    options.out.write_text(json.dumps(contents, indent=1))
    sys.stdout.write(json.dumps(contents["ratios_to_one"], indent=1) + "\n")


if __name__ == "__main__":
    main()
