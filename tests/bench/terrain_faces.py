"""Tuning a subgrid's faces to a scene: errors under waters tuned on, that judged, and unseen.

    python -m tests.bench.terrain_faces --out FILE.json [--quick] [--rasters FOLDER] [--steps 30]

Of real terrain, windows are flooded fine and coarse. The error is that of the depth at the end on
cells over 1 cm in either flood. Heights are tuned in the same way, under the same waters. Windows
of a raster overlap: their figures are shown one by one, not averaged into a confidence interval.
"""

import argparse
import io
import json
import platform
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from models.core.run import Run
from models.terrain import measures
from models.terrain.dem.pooling import mean
from models.terrain.learning.coarse_floods import depths
from models.terrain.learning.faces import FloodConstants, faces_of, learn
from models.terrain.learning.losses import relative
from models.terrain.learning.search import Matches, search
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.scheme import Ground, Physics
from models.terrain.solver.subgrid import SubgridTerrain, changed, subgrid_of
from models.terrain.solver.time_stepping import BoundaryConditions
from tests.bench.terrain_subgrid import MANNING, SITES

FACTOR = 8
# name: edge, discharge in m3/s of a catchment's window, place of a spring or rain in mm/h
TUNED = {"rain": 35.0, "spring": (30.0, 0), "west": 60.0}
JUDGES = {"heavy rain": 70.0, "spring b": (30.0, 7), "small west": 25.0}
UNSEEN = {"flood": 150.0, "north": 60.0, "spring c": (30.0, 13)}
COARSE = Physics(h_floor=0.1)


def forcing_of(name, value, n, dx, scale, k, factor):
    """A water on a window of n fine cells, on cells ``factor`` times as large."""
    if "rain" in name:
        return Forcing((), constant(value / 3.6e6))
    if "spring" in name:
        discharge, place = value
        at = ((0.2 + 0.6 * (((k + 1 + place) * 0.618 + 2.3 * c) % 1)) * n for c in (1.1, 1.9))
        x, y = (int(v) // factor for v in at)
        return Forcing((Inlet(constant(discharge * scale), (y,), (x,)),))
    size, count = n // factor, max(1, int(100 * scale**0.5 / dx) // 8 * 8 // factor)
    first = size // 2 - count // 2
    along, edge = tuple(range(first, first + count)), (0,) * count
    cells = (edge, along) if name == "north" else (along, edge)
    return Forcing((Inlet(constant(value * scale), *cells),))


class Window:
    """A window of a raster with its fine floods."""

    def __init__(self, z, dx, scale, k, duration):
        self.z, self.dx, self.scale, self.k, self.duration = z, dx, scale, k, duration
        self.truth, self.pooled = {}, mean(torch.from_numpy(z), FACTOR)
        for name, value in (TUNED | JUDGES | UNSEEN).items():
            flood = FusedFlood(
                Ground(torch.from_numpy(z)[None], MANNING, dx), self.forcing(name, value, 1),
                Physics(),
            )  # fmt: skip
            flood.advance(duration)
            self.truth[name] = measures.pooled(flood.depth[0], FACTOR)

    def forcing(self, name, value, factor):
        return forcing_of(name, value, len(self.z), self.dx, self.scale, self.k, factor)

    def ground(self, terrain):
        """Of a subgrid, or of coarse heights [ny, nx]."""
        if isinstance(terrain, SubgridTerrain):
            return Ground(terrain.lowest, MANNING, self.dx * FACTOR, subgrid=terrain.tables)
        return Ground(terrain[None], MANNING, self.dx * FACTOR)

    def depth(self, terrain, name, value):
        flood = FusedFlood(self.ground(terrain), self.forcing(name, value, FACTOR), COARSE)
        flood.advance(self.duration)
        return flood.depth[0]

    def errors(self, terrain):
        """MAE in m on wet cells, and CSI at 0.1 m, of every water."""
        rows = {}
        for name, value in (TUNED | JUDGES | UNSEEN).items():
            depth, truth = self.depth(terrain, name, value), self.truth[name]
            wet = (truth > 0.01) | (depth > 0.01)
            gap = float((depth - truth).abs()[wet].mean()) if wet.any() else 0.0
            csi = measures.csi(depth.numpy(), truth.numpy(), 0.1)
            rows[name] = {"mae_wet_m": gap, "csi_01": csi}
        return rows

    def matches(self, waters, terrain):
        """Floods to match, in units of mean pooling's error."""
        boundaries = [
            BoundaryConditions(self.ground(terrain), self.forcing(name, value, FACTOR))
            for name, value in waters.items()
        ]
        truth = torch.stack([self.truth[name] for name in waters])
        pooled = [self.depth(self.pooled, name, value) for name, value in waters.items()]
        units = (torch.stack(pooled) - truth).abs().mean((1, 2)).clamp(min=1e-6)
        return Matches(boundaries, truth[None], units)


def tuned_faces(window, steps, run):
    untrained = subgrid_of(torch.from_numpy(window.z), FACTOR)
    floods = window.matches(TUNED, untrained)
    judges = window.matches(JUDGES, untrained)
    constants = FloodConstants(COARSE, window.duration, by_reference=False)
    best = learn(untrained, floods, judges, constants, steps, run)
    tables = changed(untrained.tables, untrained.lowest, *faces_of(best.values))
    return untrained, untrained._replace(tables=tables), best


def tuned_heights(window, steps, run):
    z = window.pooled[None].clone().requires_grad_()
    floods = window.matches(TUNED, window.pooled)
    judges = window.matches(JUDGES, window.pooled)

    def error(some):
        beds = z.expand(len(some.boundaries), -1, -1)
        got = depths(beds, some.boundaries, COARSE, [window.duration])
        return relative(got, some.target, some.units)

    best = search([z], [0.03], error, floods, judges, steps, run)
    return best.values[0][0], best


def row_of(window, steps, run):
    began = time.process_time()
    untrained, faces, best = tuned_faces(window, steps, run)
    took = time.process_time() - began
    heights, by_heights = tuned_heights(window, steps, run)
    terrains = {"mean": window.pooled, "subgrid": untrained, "faces": faces, "heights": heights}
    return {
        "errors": {name: window.errors(terrain) for name, terrain in terrains.items()},
        "faces_judged": [best.first, best.error, best.step],
        "heights_judged": [by_heights.first, by_heights.error, by_heights.step],
        "tuning_cpu_s": took,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rasters", type=Path, default=Path("../shared/data/terrain"))
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {"torch": torch.__version__, "machine": platform.machine(), "steps": options.steps,
              "factor": FACTOR, "windows": []}  # fmt: skip
    run = Run(options.out.parent, events=io.StringIO())
    for site, corners, size, scale, duration in SITES[: 1 if options.quick else None]:
        with rasterio.open(options.rasters / f"{site}.tif") as raster:
            whole, dx = raster.read(1).astype(np.float32), raster.res[0]
        for k, (i, j) in enumerate(corners):
            z = whole[i : i + size, j : j + size]
            if z.shape != (size, size) or z.min() < -500:
                continue
            if options.quick and result["windows"]:
                return
            window = Window(np.ascontiguousarray(z - z.mean()), dx, scale, k, duration)
            row = {"site": site, "window": k} | row_of(window, options.steps, run)
            result["windows"].append(row)
            options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
