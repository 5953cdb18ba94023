"""Floods on a subgrid: time of a step beside the plain one, errors beside pooled heights.

    python -m tests.bench.terrain_subgrid --out FILE.json [--quick] [--sections cpu,gpu,quality]
        [--rasters FOLDER]

``cpu`` and ``gpu`` alternate plain and subgrid steps on the same state, every cell wet. ``quality``
floods real terrain under waters, fine and coarse, and measures the depth at the end against the
pooled fine one; ``--rasters`` holds GeoTIFFs. Windows of a raster overlap: their figures are shown
one by one, not averaged into a confidence interval.
"""

import argparse
import json
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from models.terrain import measures
from models.terrain.dem.pooling import BASELINES
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.gpu.engine import GpuFlood
from models.terrain.solver.scheme import Ground, Physics, dry
from models.terrain.solver.subgrid import tables_of

FACTOR, MANNING, PAIRS = 4, 0.05, 9
# raster, windows (row, column), cells a side, scale of the discharges, duration in s
SITES = (
    ("upper_lee_10m", ((0, 0), (96, 48), (48, 96), (144, 144)), 96, 1.0, 1800.0),
    ("merewether_1m", ((0, 0), (80, 65), (160, 0)), 256, 1 / 16, 900.0),
    ("prairie_potholes_1m", ((0, 0), (144, 144)), 256, 1 / 16, 900.0),
)
WATERS = ("rain", "spring", "west", "north", "flood")


def rough(n, factor=FACTOR):
    """Fine heights of n x n coarse cells."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1, 1, n * factor // 8 + 2, n * factor // 8 + 2, generator=g)
    z = torch.nn.functional.interpolate(z, size=(n * factor, n * factor), mode="bicubic")[:, 0]
    return 1.5 * z + 0.05 * torch.randn(z.shape, generator=g)


def pair(n, device):
    """A plain and a subgrid flood of n x n cells under 1 m of water."""
    z = rough(n)
    lowest, grid = tables_of(z, FACTOR)
    pooled = torch.nn.functional.avg_pool2d(z, FACTOR)
    grounds = Ground(pooled, MANNING, 10.0), Ground(lowest, MANNING, 10.0, subgrid=grid)
    physics, floods = Physics(dt_max=0.2), []
    for ground in grounds:
        moved = ground._replace(z=ground.z.to(device))
        if ground.subgrid is not None:
            moved = moved._replace(subgrid=ground.subgrid.mapped(lambda t: t.to(device)))
        start = dry(moved.z)._replace(h=torch.ones_like(moved.z))
        if device == "cpu":
            floods.append(FusedFlood(moved, Forcing(), physics, start, 1))
        else:
            floods.append(GpuFlood(moved, [Forcing()], physics, start))
    return floods


def timed(flood, steps, device):
    if device == "cpu":
        began = time.process_time()
        flood.advance(1e9, steps)
        return (time.process_time() - began) / steps
    before = flood.totals[0].steps
    torch.cuda.synchronize()
    began = time.perf_counter()
    flood.advance(1e9, steps)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / (flood.totals[0].steps - before)


def speed(device, sizes, cell_steps):
    """Nanoseconds a cell-step of both, alternating; min and median of the pairs."""
    rows = []
    for n in sizes:
        floods = pair(n, device)
        steps = max(32, int(cell_steps / n / n))
        [timed(flood, steps, device) for flood in floods]
        runs = [[timed(flood, steps, device) for flood in floods] for _ in range(PAIRS)]
        ns = [[1e9 * t / n / n for t in column] for column in zip(*runs, strict=True)]
        rows.append({
            "cells": n, "plain_ns": [min(ns[0]), statistics.median(ns[0])],
            "subgrid_ns": [min(ns[1]), statistics.median(ns[1])],
            "ratio_of_medians": statistics.median(ns[1]) / statistics.median(ns[0]),
            "ratio_of_minima": min(ns[1]) / min(ns[0]),
        })  # fmt: skip
    return rows


def forcing_of(water, n, dx, scale, k, factor):
    """Water k of a window of n fine cells, on cells ``factor`` times as large."""
    if water == "rain":
        return Forcing((), constant(35 / 3.6e6))
    if water == "spring":
        x, y = (int((0.2 + 0.6 * (((k + 1) * 0.618 + 2.3 * c) % 1)) * n) for c in (1.1, 1.9))
        return Forcing((Inlet(constant(30 * scale), (y // factor,), (x // factor,)),))
    size, count = n // factor, max(1, int(100 * scale**0.5 / dx) // 8 * 8 // factor)
    first = size // 2 - count // 2
    along, edge = tuple(range(first, first + count)), (0,) * count
    cells = (edge, along) if water == "north" else (along, edge)
    return Forcing((Inlet(constant((150 if water == "flood" else 60) * scale), *cells),))


def errors_of(task):
    """Errors of every method in one window under one water."""
    name, z, dx, water, k, scale, duration, factor = task
    torch.set_num_threads(1)
    fine, n = torch.from_numpy(z)[None], z.shape[0]
    flood = FusedFlood(
        Ground(fine, MANNING, dx), forcing_of(water, n, dx, scale, k, 1), Physics(), wet_m=0.1
    )
    began = time.process_time()
    flood.advance(duration)
    fine_s = time.process_time() - began
    truth = measures.pooled(flood.depth[0], factor).numpy()
    methods = {method: maker(fine[0], factor)[None] for method, maker in BASELINES.items()}
    grounds = {method: Ground(bed, MANNING, dx * factor) for method, bed in methods.items()}
    lowest, grid = tables_of(fine, factor)
    grounds["subgrid"] = Ground(lowest, MANNING, dx * factor, subgrid=grid)
    row = {"site": name, "window": k, "water": water, "factor": factor, "fine_cpu_s": fine_s}
    for method, ground in grounds.items():
        forcing = forcing_of(water, n, dx, scale, k, factor)
        coarse = FusedFlood(ground, forcing, Physics(h_floor=0.1), wet_m=0.1)
        coarse.advance(0.01)
        began = time.process_time()
        coarse.advance(duration)
        took, depth = time.process_time() - began, coarse.depth[0].numpy()
        wet = (truth > 0.01) | (depth > 0.01)
        gap = np.abs(depth - truth)
        row[method] = {
            "mae_m": float(gap.mean()), "mae_wet_m": float(gap[wet].mean()) if wet.any() else 0.0,
            "csi_01": measures.csi(depth, truth, 0.1), "cpu_s": took,
            "balance": abs(coarse.volume / max(coarse.totals.entered, 1e-9) - 1),
        }  # fmt: skip
    return row


def quality(folder, quick):
    import rasterio  # the other sections do without

    tasks = []
    for name, windows, size, scale, duration in SITES:
        with rasterio.open(folder / f"{name}.tif") as raster:
            whole, dx = raster.read(1).astype(np.float32), raster.res[0]
        for k, (i, j) in enumerate(windows):
            z = whole[i : i + size, j : j + size]
            if z.shape != (size, size) or z.min() < -500:
                continue
            z = np.ascontiguousarray(z - z.mean())
            for factor in (4, 8, 16):
                tasks += [(name, z, dx, w, k, scale, duration, factor) for w in WATERS]
    tasks = tasks[:2] if quick else tasks
    errors_of((*tasks[0][:6], 1.0, 8))  # compiles before the workers start
    with ProcessPoolExecutor(2 if quick else 14) as pool:
        return list(pool.map(errors_of, tasks))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sections", default="cpu,gpu,quality")
    parser.add_argument("--rasters", type=Path, default=Path("../shared/data/terrain"))
    options = parser.parse_args()
    result = {"torch": torch.__version__, "machine": platform.machine()}
    sizes, work = ((32,), 1e5) if options.quick else ((64, 125, 256, 512, 1024), 4e7)
    for section in options.sections.split(","):
        if section == "cpu":
            result["cpu"] = speed("cpu", sizes, work)
        elif section == "gpu":
            result["device"] = torch.cuda.get_device_name()
            result["gpu"] = speed("cuda", (125, 512, 1024, 2000), 4e9)
        else:
            result["quality"] = quality(options.rasters, options.quick)
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
