"""Learned coarse terrain against the baselines, trained and evaluated on one GPU or one CPU.

    python -m tests.bench.terrain_quality --out FILE.json [--factor 8] [--inputs flow]
        [--data FILE.npz] [--budget-s 540] [--weights FILE.safetensors] [--quick]

One terrain has to serve several waters: every training terrain is flooded by an inflow, rain and a
spring. Held out are generated terrains and windows of real rasters (an npz of
tests.bench.terrain_windows); the windows of ``--train-raster`` are trained on instead. Evaluated
under waters of the trained kinds and under others: five thirds of the greatest inflow, an
inflow at the middle of any edge without an outlet, a second spring. "tuned": the terrain's own
heights optimized by Adam under three waters (inflow, rain, spring) or nine at once; evaluated
under those three and the unseen ones.
"""

import argparse
import copy
import json
import math
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from models.core import checkpoint
from models.terrain import measures
from models.terrain.dem.pooling import BASELINES
from models.terrain.learning.losses import CLIP_NORM, clip_per_sample
from models.terrain.learning.net import Downsampler, coarse
from models.terrain.spec.solver import Solver
from tests.bench.terrain_samples import (
    TEST_WATERS,
    TRAIN_WATERS,
    TUNING_WATERS,
    UNSEEN_WATERS,
    CoarseFloods,
    sample_set,
    streets,
    transformed,
    units,
    valleys,
    water_of,
)

TUNED = {3: (10, 50), 9: (10, 50)}  # waters: Adam steps
TUNE_LR = 0.03
EMA = 0.998
STREET_SCALE = 1 / 16  # discharges of terrain at 1 m


class Trainee:
    """A net, its running average and its optimizer."""

    def __init__(self, factor, width, inputs, device):
        order = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        # on a CPU, NHWC is unsafe for strided 1x1 convolutions of few channels (oneDNN issue 6035)
        self.net = Downsampler(factor, width, inputs=inputs).to(device, memory_format=order)
        self.averaged = copy.deepcopy(self.net).eval()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-3, weight_decay=1e-4)
        self.flow, self.gpu, self.steps = inputs == "flow", device.type == "cuda", 0

    def beds(self, set_, chosen, turn):
        z = transformed(set_.z[chosen], turn)
        flow = transformed(set_.flow[chosen], turn) if self.flow else None
        with torch.autocast("cuda", torch.bfloat16, enabled=self.gpu):
            return coarse(self.net, z, flow).float()

    def learn(self, loss, lr):
        """One optimizer step, skipped if the gradient is not finite."""
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP_NORM)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.steps += 1
        keep = min(EMA, self.steps / (self.steps + 10))
        with torch.no_grad():
            for mine, theirs in zip(self.averaged.parameters(), self.net.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)


def clip_by_water(waters):
    """A hook that keeps the derivatives of each water within twice their own median."""
    return lambda grad: torch.cat([clip_per_sample(part) for part in grad.chunk(waters)])


def train(sets, options, seconds, batch, width, on_history):
    """A net trained for ``seconds``: L1 of depths over that of mean pooling, averaged weights."""
    device = sets[0].z.device
    torch.manual_seed(options.seed)
    trainee = Trainee(options.factor, width, options.inputs, device)
    floods = [CoarseFloods(set_, batch * len(set_.names)) for set_ in sets]
    goals = [units(one, options.factor, batch) for one in floods]
    g, began, ratios_seen = torch.Generator().manual_seed(options.seed), time.monotonic(), [[], []]
    history, due = [], seconds / 10
    while (spent := time.monotonic() - began) < seconds:
        which = trainee.steps % len(sets)
        set_ = sets[which]
        turn = int(torch.randint(0, len(set_.truth) // goals[which].numel(), (), generator=g))
        chosen = torch.randperm(len(set_.z), generator=g)[:batch].to(device)
        bed = trainee.beds(set_, chosen, turn)
        every = bed.repeat(len(set_.names), 1, 1)
        every.register_hook(clip_by_water(len(set_.names)))
        rows = set_.rows(chosen, turn)
        depth = floods[which](every, rows)
        errors = (depth - set_.truth[rows]).abs().mean((1, 2)).view(-1, len(chosen))
        ratios = errors / goals[which][:, chosen]
        rate = min(1, trainee.steps / 100) * (1 + math.cos(math.pi * spent / seconds)) / 2
        trainee.learn(ratios.mean(), 1e-3 * rate)
        ratios_seen[which].append(ratios.detach().mean(1))
        if spent >= due or time.monotonic() - began >= seconds:
            due += seconds / 10
            row = [torch.stack(part).mean(0).tolist() for part in ratios_seen if part]
            history.append({"s": spent, "steps": trainee.steps, "ratios": row})
            ratios_seen = [[], []]
            on_history(history)
    return trainee.averaged, trainee.steps / (time.monotonic() - began), history


def net_beds(net, set_):
    """Coarse heights in batches."""
    with torch.no_grad():
        parts = torch.arange(len(set_.z), device=set_.z.device).split(8)
        flow = net.inputs == "flow"
        return torch.cat([coarse(net, set_.z[k], set_.flow[k] if flow else None) for k in parts])


def tuned(floods, start, water_count, steps):
    """Coarse heights as free variables under the first waters, after each count of ``steps``.

    The error is that over mean pooling's, the mean over the waters; the best terrain so far counts.
    """
    set_ = floods.set
    whole = torch.arange(len(set_.z), device=start.device)
    goals = units(floods, set_.z.shape[1] // start.shape[1], len(whole))[:water_count]
    bed = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([bed], lr=TUNE_LR)
    best, best_bed = torch.full((len(bed),), math.inf, device=bed.device), start.clone()
    snapshots, rows = {}, set_.rows(whole)[: water_count * len(whole)]
    for step in range(max(steps) + 1):
        depth = floods(bed.repeat(water_count, 1, 1), rows)
        errors = (depth - set_.truth[rows]).abs().mean((1, 2)).view(water_count, -1)
        score = (errors / goals).mean(0)
        better = score.detach() < best
        best = torch.where(better, score.detach(), best)
        best_bed = torch.where(better[:, None, None], bed.detach(), best_bed)
        if step in steps:
            snapshots[step] = best_bed.clone()
        optimiser.param_groups[0]["lr"] = TUNE_LR * (1 - 0.9 * step / max(steps))
        optimiser.zero_grad()
        score.sum().backward()
        optimiser.step()
    return snapshots


class Judge:
    """Ratios to mean pooling of every coarse terrain of one held-out set, under every water."""

    def __init__(self, set_, factor):
        self.set, self.floods = set_, CoarseFloods(set_, len(set_.truth))
        self.whole = torch.arange(len(set_.z), device=set_.z.device)
        self.beds = {
            name: torch.stack([maker(z, factor) for z in set_.z.cpu()]).to(set_.z.device)
            for name, maker in BASELINES.items()
        }
        self.results, self.base = {}, None
        picks = np.random.default_rng(0).integers(0, len(self.whole), (2000, len(self.whole)))
        self.picks = picks
        for name, bed in self.beds.items():
            self.add(name, bed)

    def add(self, name, bed):
        """Measure one coarse terrain; mean pooling comes first."""
        set_, self.beds[name] = self.set, bed
        with torch.no_grad():
            depth = self.floods(
                bed.repeat(len(set_.names), 1, 1).contiguous(), set_.rows(self.whole)
            )
        each = (depth - set_.truth).abs().mean((1, 2)).view(len(set_.names), -1).cpu().numpy()
        self.base = each if self.base is None else self.base
        prediction, truth = depth.cpu().numpy(), set_.truth.cpu().numpy()
        wet = [measures.csi(a, b, 0.1) for a, b in zip(prediction, truth, strict=True)]
        for k, water in enumerate(set_.names):
            if water not in TEST_WATERS + UNSEEN_WATERS:
                continue
            spread = each[k][self.picks].mean(1) / self.base[k][self.picks].mean(1)
            part = slice(k * len(self.whole), (k + 1) * len(self.whole))
            self.results.setdefault(water, {})[name] = {
                "mae_m": float(each[k].mean()),
                "ratio": float(each[k].mean() / self.base[k].mean()),
                "ratio_95": [float(q) for q in np.quantile(spread, (0.025, 0.975))],
                "better_than_mean": float((each[k] < self.base[k]).mean()),
                "csi_01": float(np.mean(wet[part])),
                "least_depth_m": float(depth[part].min()),
            }

    def tune(self, start, waters, steps):
        """Add the terrain ``start`` after so many steps under the first waters."""
        for count, bed in tuned(self.floods, self.beds[start], waters, steps).items():
            self.add(f"{start}, {waters} waters, {count} steps", bed)


class Sizes:
    """How much of everything, by device and factor."""

    def __init__(self, options, device):
        factor, gpu = options.factor, device.type == "cuda"
        self.n, self.dx = 32 * factor, 32.0 / factor
        self.real, self.duration = 256, 1800.0
        self.valleys = {8: 2048, 16: 320}.get(factor, 320) if gpu else 24
        self.streets, self.tests = (512, 32) if gpu else (8, 4)
        self.width, self.batch, self.turns = (64, 32, 8) if gpu else (16, 4, 8)
        self.tuned = TUNED
        if options.quick:
            self.n, self.dx, self.real, self.duration = 4 * factor, 8.0, 4 * factor, 20.0
            self.valleys, self.streets, self.tests, self.tuned = 3, 3, 2, {3: (1, 2), 9: (1,)}
            self.width, self.batch, self.turns = 8, 2, 2


def training_sets(sizes, options, real, device):
    """Training sets: generated valleys; streets with the windows of the training raster."""
    side = sizes.n * sizes.dx
    zs = valleys(0, sizes.valleys, sizes.n, sizes.dx)
    yield sample_set(
        zs, TRAIN_WATERS, lambda name, k: water_of(name, k, 1.0, side), sizes.dx, options.factor,
        sizes.duration, device, sizes.turns,
    )  # fmt: skip
    zs = streets(0, sizes.streets, sizes.real)
    if options.train_raster:
        more = torch.from_numpy(real[options.train_raster])[:, : sizes.real, : sizes.real]
        zs = torch.cat([zs, more])
    yield sample_set(
        zs, TRAIN_WATERS, lambda name, k: water_of(name, k, STREET_SCALE, float(sizes.real)), 1.0,
        options.factor, sizes.duration / 2, device, sizes.turns,
    )  # fmt: skip


def held_out(sizes, options, real, device):
    """Names and sample sets of the evaluation: generated terrain, then each held-out raster."""
    waters = TEST_WATERS + TUNING_WATERS + UNSEEN_WATERS

    def made(zs, dx, scale, duration):
        side = zs.shape[1] * dx
        named = lambda name, k: water_of(name, -1 - k, scale, side)  # noqa: E731
        return sample_set(zs, waters, named, dx, options.factor, duration, device)

    zs = valleys(1_000_000, sizes.tests, sizes.n, sizes.dx)
    yield "generated", made(zs, sizes.dx, 1.0, sizes.duration)
    for name in sorted(
        key for key in real if f"{key}_cell_m" in real and key != options.train_raster
    ):
        zs, cell = torch.from_numpy(real[name]), float(real[f"{name}_cell_m"])
        if options.quick:
            zs = zs[:2, : sizes.real, : sizes.real].contiguous()
        small = cell < 2
        scale, duration = (STREET_SCALE, sizes.duration / 2) if small else (1.0, sizes.duration)
        yield name, made(zs, cell, scale, duration)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factor", type=int, default=8)
    parser.add_argument("--inputs", choices=("heights", "flow"), default="heights")
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--train-raster", help="raster whose windows are trained on, not evaluated")
    parser.add_argument("--budget-s", type=float, default=540.0)
    parser.add_argument("--weights", type=Path, help="where the net goes, for terrain.compare")
    parser.add_argument(
        "--judge-s", type=float, default=90.0, help="time reserved for the evaluation"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


class Log:
    """Results, written to the file after every part."""

    def __init__(self, options, device, sizes):
        self.began, self.out, self.budget = time.monotonic(), options.out, options.budget_s
        self.results = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "torch": str(torch.__version__),
            "options": {k: str(v) for k, v in vars(options).items()},
            "sizes": vars(sizes), "train": {}, "held_out": {},
        }  # fmt: skip

    def left(self):
        return self.budget - (time.monotonic() - self.began)

    def keep(self, message):
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")
        print(f"{time.monotonic() - self.began:.0f} s", message, flush=True)


def learn(sizes, options, real, device, log):
    """The net, trained for the time that the evaluation leaves."""
    sets = list(training_sets(sizes, options, real, device))
    report = log.results["train"]
    report |= {"terrains": [len(s.z) for s in sets], "waters": TRAIN_WATERS, "turns": sizes.turns}
    report["data_s"] = log.budget - log.left()
    log.keep(report)
    seconds = 3 if options.quick else max(5, log.left() - options.judge_s)

    def on_history(history):
        report["history"] = history
        log.keep(history[-1])

    net, report["steps_per_s"], _ = train(
        sets, options, seconds, sizes.batch, sizes.width, on_history
    )
    return net


def main():
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    real = {key: value for path in options.data for key, value in np.load(path).items()}
    sizes = Sizes(options, device)
    log, judges = Log(options, device, sizes), {}
    net = learn(sizes, options, real, device, log)
    if options.weights:
        keep_net(net, options)
    for name, set_ in held_out(sizes, options, real, device):
        judges[name] = Judge(set_, options.factor)
        judges[name].add("net", net_beds(net, set_))
        log.results["held_out"][name] = judges[name].results
        log.keep((name, brief(judges[name])))
    arms = [(waters, start) for waters in sizes.tuned for start in ("net", "mean")]
    for (name, judge), (waters, start) in product(judges.items(), arms):
        if log.left() > 0:
            judge.tune(start, waters, sizes.tuned[waters])
            log.keep((name, waters, start))


def brief(judge):
    """Ratios alone, to be printed."""
    return {
        w: {m: round(r["ratio"], 2) for m, r in rows.items()} for w, rows in judge.results.items()
    }


def keep_net(net, options):
    """The net as ``terrain.train`` leaves it."""
    shape = {"name": "terrain_downsampler", "factor": options.factor, "norm": "group"}
    shape |= {"width": net.stem.out_channels, "inputs": options.inputs}
    metadata = {"net": shape, "solver": Solver().model_dump()}
    checkpoint.write(options.weights, net.state_dict(), metadata)


if __name__ == "__main__":
    main()
