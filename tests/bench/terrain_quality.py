"""Learned terrain against hand-made coarse terrain, trained and judged on one GPU or one CPU.

Part of ``tests.bench.terrain_gpu --quality``. Training terrains are generated; with ``--data`` (an
npz of tests.bench.terrain_windows) windows of one real raster join them and those of another are
held out. Floods in training: inflow of 30 to 90 m3/s, or rain. Judged on other terrains, under
these and under water the net never saw: five thirds of the greatest inflow, a spring on a slope.
"""

import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.terrain import measures
from models.terrain.boundary import Extent, forcing_of, ground_of, physics_of, settle
from models.terrain.forcing import Forcing
from models.terrain.gpu import GpuFlood
from models.terrain.gpu_layout import Tuning, Worlds, layout, worlds_of
from models.terrain.gpu_rollout import GpuTape
from models.terrain.losses import CLIP_NORM, tamed
from models.terrain.net import Downsampler, coarse
from models.terrain.parts import Rain, Solver, Source, Synthetic, Valley
from models.terrain.pooling import BASELINES
from models.terrain.scenes import generate
from models.terrain.scheme import Ground

COARSE = Tuning(4, 32, 4)
FINE_AT_ONCE = 32
OPTIMISE_STEPS, OPTIMISE_LR = 120, 0.03
EMA = 0.99
TRAIN_RASTER, TEST_RASTER = "prairie_potholes_1m", "merewether_1m"


class Group(NamedTuple):
    """Terrains of one size with their floods.

    Attributes:
        z: fine heights about 0, m [b, n, n], on the device.
        truth: pooled depth at the end, m [b, nc, nc].
        worlds: table of the coarse surroundings.
        drain: coarse outlets [b, nc, nc].
        forcings: of the coarse grids.
        dx: side of a coarse cell, m.
        duration: s.
    """

    z: Tensor
    truth: Tensor
    worlds: Worlds
    drain: Tensor
    forcings: list[Forcing]
    dx: float
    duration: float


def turned(z, k):
    """One of the eight symmetries of the last two axes, a square."""
    z = torch.rot90(z, k % 4, (-2, -1))
    return (z.mT if k % 8 >= 4 else z).contiguous()


def synthetic(first, count, n, dx):
    """Generated terrains, each turned its own way."""

    def one(k):
        made = Synthetic(rows=n, columns=n, cell_size_m=dx, variant=k)
        return turned(generate(made, 0), k * 5 + k // 8)

    with ThreadPoolExecutor(8) as pool:
        return torch.stack(list(pool.map(one, range(first, first + count))))


def water_of(name, k, scale, side=1024.0):
    """Water by name; ``scale``: discharges relative to the generated terrains'."""
    share = (k * 0.6180339887) % 1
    if name == "train":
        name = "rain" if k % 4 == 3 else "mixed"
    if name == "rain":
        return [Rain(type="rain", mm_per_h=35.0 if k < 0 else 20 + 40 * share)]
    if name == "spring":
        at = (0.3 + 0.4 * share) * side
        return [Source(type="source", x_m=at, y_m=at, radius_m=12.0 * scale**0.5,
                       discharge_m3_s=30.0 * scale)]  # fmt: skip
    flow = {"mixed": 30 + 60 * share, "inflow": 60.0, "flood": 150.0}[name]
    return [Valley(type="valley", discharge_m3_s=flow * scale, length_m=100 * scale**0.5)]


def surroundings(zs, waters, dx, shape):
    """Outlets [b, ny, nx] and forcings of a grid over the same terrains."""
    n, fine_dx = zs.shape[1], dx * shape[0] / zs.shape[1]
    extent, drains, forcings = Extent(n * fine_dx, n * fine_dx), [], []
    for z, water in zip(zs, waters, strict=True):
        settled = settle(water, z.numpy(), np.zeros(z.shape, bool), fine_dx)
        ground = ground_of(torch.zeros(1, *shape), 0.0, settled, extent, dx, Solver())
        drains.append(torch.zeros(1, *shape) if ground.drain is None else ground.drain)
        forcings.append(forcing_of(settled, extent, shape, dx))
    return torch.cat(drains), forcings


def turned_water(forcing, n, k):
    """The same water on a turned grid of n x n cells."""
    there = torch.empty(n * n, dtype=torch.long)
    there[turned(torch.arange(n * n).view(n, n), k).flatten()] = torch.arange(n * n)
    inlets = []
    for inlet in forcing.inlets:
        cells = there[torch.tensor(inlet.rows) * n + torch.tensor(inlet.columns)].tolist()
        places = zip(*(divmod(cell, n) for cell in cells), strict=True)
        inlets.append(inlet._replace(**dict(zip(("rows", "columns"), places, strict=True))))
    return forcing._replace(inlets=tuple(inlets))


def group_of(zs, waters, fine_dx, factor, duration, device, turns=1):
    """Flood the fine terrains, pool the depths; ``turns`` symmetric copies share one flood."""
    n, nc = zs.shape[1], zs.shape[1] // factor
    drain, forcings = surroundings(zs, waters, fine_dx, (n, n))
    depths = []
    count = FINE_AT_ONCE if device.type == "cuda" else 1
    for k in range(0, len(zs), count):
        part = slice(k, k + count)
        ground = Ground(zs[part].to(device), Solver().manning, fine_dx, drain[part].to(device))
        flood = engine(ground, forcings[part], physics_of(Solver()))
        flood.advance(duration)
        depths.append(F.avg_pool2d(flood.depth, factor))
    dx = fine_dx * factor
    drain, forcings = surroundings(zs, waters, dx, (nc, nc))
    truth = torch.cat(depths)
    zs, drain, truth = (
        torch.cat([turned(field, k) for k in range(turns)]) for field in (zs, drain, truth)
    )
    forcings = [turned_water(one, nc, k) for k in range(turns) for one in forcings]
    worlds = worlds_of(drain, forcings, layout(len(zs), nc, nc, COARSE), dx)
    worlds = Worlds(*(table.to(device) for table in worlds))
    return Group(zs.to(device), truth, worlds, drain.to(device), forcings, dx, duration)


def engine(ground, forcings, physics, **options):
    """Dry floods on the engine of the ground's device."""
    if ground.z.device.type == "cuda":
        return GpuFlood(ground, forcings, physics, **options)
    from models.terrain.fused import FusedFlood

    return FusedFlood(ground, forcings[0], physics)


class CoarseFloods:
    """Coarse floods of a group, ``batch`` at a time, differentiable by the beds."""

    def __init__(self, group, batch, steps):
        self.group, self.tape = group, None
        if group.z.device.type == "cuda":
            index = torch.arange(batch, device=group.z.device) % len(group.z)
            ground = Ground(group.truth[index] * 0, Solver().manning, group.dx, group.drain[index])
            part = Worlds(*(table[index] for table in group.worlds))
            physics = physics_of(Solver(), coarse=True)
            self.tape = GpuTape(ground, part, physics, steps, COARSE)

    def __call__(self, bed, index):
        """Depths at the end [batch, nc, nc] of the samples ``index``."""
        group, physics = self.group, physics_of(Solver(), coarse=True)
        if self.tape is not None:
            self.tape.flood.take(group.worlds, index)
            return self.tape(bed, [group.duration])[0]
        from models.terrain.rollout import World, rollout

        worlds = [
            World(
                Ground(bed[:1], Solver().manning, group.dx, group.drain[k : k + 1]),
                group.forcings[k],
            )
            for k in index.tolist()
        ]
        return rollout(bed, worlds, physics, [group.duration])[0]


def flooded(group, beds):
    """Coarse depths at the end [b, nc, nc]."""
    whole = torch.arange(len(beds), device=beds.device)
    with torch.no_grad():
        return CoarseFloods(group, len(beds), 4096)(beds.contiguous(), whole)


def optimised(group, start, steps):
    """Coarse heights themselves as free variables of their own flood; the best of each."""
    floods, whole = CoarseFloods(group, len(group.z), 4096), torch.arange(len(group.z))
    bed = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([bed], lr=OPTIMISE_LR)
    best, kept = torch.full((len(bed),), math.inf, device=bed.device), start.clone()
    for _ in range(steps):
        error = (floods(bed, whole.to(bed.device)) - group.truth).abs().mean((1, 2))
        better = error.detach() < best
        best = torch.where(better, error.detach(), best)
        kept = torch.where(better[:, None, None], bed.detach(), kept)
        optimiser.zero_grad()
        error.sum().backward()
        optimiser.step()
    return kept


def net_beds(net, z):
    """Coarse heights in batches."""
    with torch.no_grad():
        return torch.cat([coarse(net, part) for part in z.split(16)])


def scales(floods, factor, batch):
    """What a sample's error is divided by: that of mean pooling [b], at least half the median.

    Shallow rain and deep rivers then weigh alike, as they do in the ratio to mean pooling.
    """
    group, found = floods.group, []
    whole = torch.arange(len(group.z), device=group.z.device)
    with torch.no_grad():
        for part in whole.split(batch):
            index = part[torch.arange(batch, device=part.device) % len(part)]
            bed = F.avg_pool2d(group.z[index][:, None], factor)[:, 0].contiguous()
            error = (floods(bed, index) - group.truth[index]).abs().mean((1, 2))
            found.append(error[: len(part)])
    errors = torch.cat(found)
    return errors.clamp(min=float(errors.median()) / 2).clamp(min=1e-4)


def train(groups, factor, width, seconds, batch, seed=0):
    """A net after so many seconds: L1 of depths over mean pooling's; averaged weights."""
    device = groups[0].z.device
    torch.manual_seed(seed)
    order = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    # on a CPU, NHWC is unsafe for strided 1x1 convolutions of few channels (oneDNN issue 6035)
    net = Downsampler(factor, width).to(device, memory_format=order)
    averaged = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    floods = [CoarseFloods(group, batch, 2048) for group in groups]
    units = [scales(one, factor, batch) for one in floods]
    g, step, began, losses = torch.Generator().manual_seed(seed), 0, time.monotonic(), []
    while (spent := (time.monotonic() - began) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = (
            1e-3 * min(1, step / 50) * (1 + math.cos(math.pi * spent)) / 2
        )
        which = 1 if len(groups) > 1 and step % 4 == 3 else 0
        group = groups[which]
        index = torch.randint(0, len(group.z), (batch,), generator=g).to(device)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            bed = coarse(net, group.z[index])
        bed = bed.float()
        bed.register_hook(tamed)
        errors = (floods[which](bed, index) - group.truth[index]).abs().mean((1, 2))
        loss = (errors / units[which][index]).mean()
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        if torch.isfinite(norm):
            optimiser.step()
        with torch.no_grad():
            for mine, theirs in zip(averaged.parameters(), net.parameters(), strict=True):
                mine.lerp_(theirs, 1 - min(EMA, step / (step + 10)))
        losses.append(loss.detach())
        step += 1
    parts = torch.stack(losses).split(max(1, len(losses) // 10))
    told = [float(part.mean()) for part in parts]
    spent = time.monotonic() - began
    return averaged, {
        "steps": step,
        "steps_per_s": step / spent,
        "batch": batch,
        "losses": told,
        "seconds": seconds,
    }


def judge(group, net, factor, steps, start=None):
    """MAE of every method on a held-out group, with the ratio to mean pooling."""
    z = group.z.cpu()
    beds = {
        name: torch.stack([maker(one, factor) for one in z]).to(group.z.device)
        for name, maker in BASELINES.items()
    }
    beds["net"] = net_beds(net, group.z)
    beds["optimised"] = optimised(group, beds["mean"], steps)
    beds["net, then optimised"] = optimised(group, beds["net"], steps // 4)
    if start is not None:
        beds["optimised for other water"] = start
    rows = {}
    for name, bed in beds.items():
        depth = flooded(group, bed)
        each = (depth - group.truth).abs().mean((1, 2)).cpu()
        said, truth = depth.cpu().numpy(), group.truth.cpu().numpy()
        rows[name] = {
            "mae_m": float(each.mean()),
            "each_mae_m": each.tolist(),
            "csi_01": float(
                np.mean([measures.csi(a, b, 0.1) for a, b in zip(said, truth, strict=True)])
            ),
            "least_depth_m": float(depth.min()),
        }
    base = np.array(rows["mean"]["each_mae_m"])
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(base), (2000, len(base)))
    for row in rows.values():
        each = np.array(row.pop("each_mae_m"))
        row["ratio"] = float(each.mean() / base.mean())
        spread = each[picks].mean(1) / base[picks].mean(1)
        row["ratio_95"] = [float(q) for q in np.quantile(spread, (0.025, 0.975))]
        row["better_than_mean"] = float((each < base).mean())
    return rows, beds["optimised"]


def quality(bench, factor, data, share):
    """One factor: data, training, every held-out set."""
    quick, device = bench.quick, torch.device(bench.device)
    n, dx = (32, 16.0) if quick else (32 * factor, 32.0 / factor)
    gpu = device.type == "cuda"
    if gpu:
        scenes, tests, width, batch = {8: 1024, 16: 256}.get(factor, 384), 32, 64, 64
    else:
        scenes, tests, width, batch = 96 * 8 // factor, 8, 16, 8
    duration = 1800.0
    if quick:
        scenes, tests, width, batch, duration = 4, 2, 8, 2, 40.0
    began = time.monotonic()
    zs = synthetic(0, scenes, n, dx)
    waters = [water_of("train", k, 1.0) for k in range(scenes)]
    turns = 8 if gpu or quick else 1
    groups = [group_of(zs, waters, dx, factor, duration, device, turns)]
    real = {} if data is None else dict(np.load(data))
    if TRAIN_RASTER in real:
        cut = torch.from_numpy(real[TRAIN_RASTER])
        many = torch.cat([cut, cut])  # each under two waters
        waters = [water_of("train", k, 1 / 16) for k in range(len(many))]
        cell = float(real[f"{TRAIN_RASTER}_cell_m"])
        groups.append(group_of(many, waters, cell, factor, duration / 2, device, 8 if gpu else 1))
    found = {
        "factor": factor, "fine": [n, n], "cell_m": dx, "train": [len(g.z) for g in groups],
        "data_s": time.monotonic() - began,
    }  # fmt: skip
    print(found, flush=True)
    seconds = (
        4 if quick else max(5, share * (bench.left() - (25 if gpu else 170)))
    )  # judging has the rest
    net, found["training"] = train(groups, factor, width, seconds, batch)
    del groups
    found["held_out"], start = {}, None
    steps = 4 if quick else OPTIMISE_STEPS if gpu else OPTIMISE_STEPS // 2
    held = synthetic(1_000_000, tests, n, dx)
    for name in ("inflow", "rain", "flood", "spring"):
        waters = [water_of(name, -1 - k, 1.0, n * dx) for k in range(tests)]
        rows, best = judge(
            group_of(held, waters, dx, factor, duration, device), net, factor, steps, start
        )
        start = best if start is None else start
        found["held_out"][name] = rows
        bench.keep()
        if bench.left() < 10:
            return found
    if TEST_RASTER in real:
        cut = torch.from_numpy(real[TEST_RASTER])
        for name in ("inflow", "rain", "spring"):
            waters = [water_of(name, -1 - k, 1 / 16, 256.0) for k in range(len(cut))]
            cell = float(real[f"{TEST_RASTER}_cell_m"])
            group = group_of(cut, waters, cell, factor, duration / 2, device)
            found["held_out"][f"{TEST_RASTER} {name}"], _ = judge(group, net, factor, steps)
            bench.keep()
    return found
