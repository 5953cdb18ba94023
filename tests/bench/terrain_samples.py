"""Terrains under several waters with their fine floods, for the quality benchmark.

Generated valleys, streets (generated too, of random shape, at 1 m) and windows of real rasters.
Every terrain is flooded by each of its waters; one coarse terrain has to serve all of them.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.terrain.dem.hydrology import flow_accumulation
from models.terrain.dem.pooling import mean
from models.terrain.dem.synthetic import generate
from models.terrain.solver.boundary import Extent, forcing_of, ground_of, physics_of, resolve_water
from models.terrain.solver.forcing import Forcing
from models.terrain.solver.gpu.engine import GpuFlood
from models.terrain.solver.gpu.layout import BoundaryTables, Tuning, boundary_tables, build_layout
from models.terrain.solver.gpu.rollout import GpuTape
from models.terrain.solver.scheme import Ground
from models.terrain.spec.solver import Solver
from models.terrain.spec.terrains import Synthetic
from models.terrain.spec.water import Inflow, Rain, Source, Valley

COARSE = Tuning(4, 32, 4)
FINE_CELLS = 2**23  # of the fine floods at once
EDGES = ("left", "top", "right", "bottom")
TRAIN_WATERS = ("valley", "rain", "spring")  # waters of training
TEST_WATERS = ("inflow", "rain", "spring")  # of the same kinds, on held-out terrains
TUNING_WATERS = ("trickle", "cloudburst", "side 1", "side 2", "spring 2", "spring 3")  # to tune on
UNSEEN_WATERS = ("flood", "side", "spring elsewhere")  # never trained or tuned on
SPRINGS = {"spring": 3, "spring elsewhere": 5, "spring 2": 7, "spring 3": 9}
FLOWS = {"inflow": 60.0, "trickle": 30.0, "flood": 150.0}


class SampleSet(NamedTuple):
    """Terrains of one size, each under the same number of waters, in up to eight orientations.

    Attributes:
        z: fine heights about 0, m [t, n, n].
        flow: of :func:`models.terrain.dem.hydrology.flow_accumulation` [t, 2, n, n].
        truth: pooled depth at the end, m [turns * waters * t, nc, nc].
        tables: coarse boundary conditions, rows like those of ``truth``.
        drain: coarse outlets, like ``truth``.
        forcings: of the coarse grids.
        names: of the waters.
        dx: side of a coarse cell, m.
        duration: s.
    """

    z: Tensor
    flow: Tensor
    truth: Tensor
    tables: BoundaryTables
    drain: Tensor
    forcings: list[Forcing]
    names: tuple[str, ...]
    dx: float
    duration: float

    def rows(self, chosen, turn=0):
        """Rows of the chosen terrains under every water [waters * chosen]."""
        waters = torch.arange(len(self.names), device=chosen.device)[:, None]
        return ((turn * len(self.names) + waters) * len(self.z) + chosen).flatten()


def transformed(z, k):
    """One of the eight symmetries of the last two axes, a square."""
    z = torch.rot90(z, k % 4, (-2, -1))
    return (z.mT if k % 8 >= 4 else z).contiguous()


def _share(k, salt=0):
    return ((k + 1) * 0.6180339887 + 0.37 * salt) % 1


def valleys(first, count, n, dx):
    """The benchmark's generated terrains, each in an orientation of its own."""

    def one(k):
        made = Synthetic(rows=n, columns=n, cell_size_m=dx, variant=k)
        return transformed(generate(made, 0), k * 5 + k // 8)

    with ThreadPoolExecutor(8) as pool:
        return torch.stack(list(pool.map(one, range(first, first + count))))


def streets(first, count, n):
    """Generated terrains at 1 m of random relief, slope, ditches, kerbs, dams and buildings.

    Every third is steeper and carved by its own streams.
    """

    def one(k):
        share = [_share(k, salt) for salt in range(8)]
        made = Synthetic(
            rows=n, columns=n, cell_size_m=1.0, variant=k,
            relief_m=1 + (40 if k % 3 == 2 else 14) * share[0] ** 2,
            slope=0.05 * share[1] ** 2, channel_depth_m=1.5 * share[2],
            channel_width_cells=2 + 8 * share[3], levee_height_m=0.1 + 1.4 * share[4],
            levees=int(4 * share[5]), roads=int(4 * share[6]),
            buildings=int(40 * share[7]) if k % 2 else 0,
        )  # fmt: skip
        z = generate(made, 1)
        for _ in range(2 if k % 3 == 2 else 0):
            z = z - (0.05 + 0.2 * share[2]) * (flow_accumulation(z)[1].log2() - 3).clamp(min=0)
        return transformed(z - z.mean(), k * 5 + k // 8)

    with ThreadPoolExecutor(8) as pool:
        return torch.stack(list(pool.map(one, range(first, first + count))))


def water_of(name, k, scale, side):
    """Water by name for terrain k, negative where held out; ``side``: of the terrain, m.

    ``scale``: discharges relative to those of the generated valleys.
    """
    length = 100 * scale**0.5
    if name in ("rain", "cloudburst"):
        held = 35.0 if name == "rain" else 55.0
        return [Rain(type="rain", mm_per_h=held if k < 0 else 20 + 40 * _share(k))]
    if name in SPRINGS:
        x, y = ((0.2 + 0.6 * _share(abs(k), SPRINGS[name] + axis)) * side for axis in (0, 1))
        flow = 30.0 if k < 0 else 15 + 30 * _share(k, 2)
        return [Source(type="source", x_m=x, y_m=y, radius_m=12.0 * scale**0.5,
                       discharge_m3_s=flow * scale)]  # fmt: skip
    if name.startswith("side"):
        edge = EDGES[(k + int(name[4:] or 0)) % 4]
        return [Inflow(type="inflow", edge=edge, length_m=length, discharge_m3_s=60.0 * scale)]
    flow = FLOWS.get(name) or 30 + 60 * _share(k, 1)
    return [Valley(type="valley", discharge_m3_s=flow * scale, length_m=length)]


def _boundaries(zs, waters, dx, shape):
    """Outlets [b, ny, nx] and forcings of a grid over the same terrains."""
    n, fine_dx = zs.shape[1], dx * shape[0] / zs.shape[1]
    extent, drains, forcings = Extent(n * fine_dx, n * fine_dx), [], []
    for z, water in zip(zs, waters, strict=True):
        settled = resolve_water(water, z.numpy(), np.zeros(z.shape, bool), fine_dx)
        ground = ground_of(torch.zeros(1, *shape), 0.0, settled, extent, dx, Solver())
        drains.append(torch.zeros(1, *shape) if ground.drain is None else ground.drain)
        forcings.append(forcing_of(settled, extent, shape, dx))
    return torch.cat(drains), forcings


def _transformed_forcings(forcings, n, k):
    """The same waters on a transformed grid of n x n cells."""
    cells_before = torch.empty(n * n, dtype=torch.long)
    cells_before[transformed(torch.arange(n * n).view(n, n), k).flatten()] = torch.arange(n * n)
    new_cell = [divmod(cell, n) for cell in cells_before.tolist()]

    def moved(inlet):
        cells = [new_cell[i * n + j] for i, j in zip(inlet.rows, inlet.columns, strict=True)]
        rows, columns = zip(*cells, strict=True)
        return inlet._replace(rows=rows, columns=columns)

    return [one._replace(inlets=tuple(map(moved, one.inlets))) for one in forcings]


def engine(ground, forcings, physics, **options):
    """Dry floods on the engine of the ground's device."""
    if ground.z.device.type == "cuda":
        return GpuFlood(ground, forcings, physics, **options)
    from models.terrain.solver.cpu.engine import FusedFlood

    return FusedFlood(ground, forcings[0], physics)


def _fine_depths(zs, waters, dx, factor, duration, device):
    """Pooled depths at the end of fine floods [b, nc, nc]."""
    n, depths = zs.shape[1], []
    count = FINE_CELLS // n**2 if device.type == "cuda" else 1
    for k in range(0, len(zs), count):
        part = slice(k, k + count)
        drain, forcings = _boundaries(zs[part], waters[part], dx, (n, n))
        ground = Ground(zs[part].to(device), Solver().manning, dx, drain.to(device))
        flood = engine(ground, forcings, physics_of(Solver()))
        flood.advance(duration)
        depths.append(F.avg_pool2d(flood.depth, factor))
    return torch.cat(depths)


def sample_set(zs, kinds, named, dx, factor, duration, device, turns=1):
    """Flood fine terrains zs [t, n, n] under every water of ``kinds``.

    ``named(name, k)``: the water of that name for terrain k.
    """
    nc = zs.shape[1] // factor
    waters = [named(name, k) for name in kinds for k in range(len(zs))]
    every = zs.repeat(len(kinds), 1, 1)
    truth = _fine_depths(every, waters, dx, factor, duration, device)
    drain, forcings = _boundaries(every, waters, dx * factor, (nc, nc))
    truth, drain = (
        torch.cat([transformed(field, k) for k in range(turns)]) for field in (truth, drain)
    )
    forcings = [one for k in range(turns) for one in _transformed_forcings(forcings, nc, k)]
    tables = boundary_tables(drain, forcings, build_layout(len(drain), nc, nc, COARSE), dx * factor)
    tables = BoundaryTables(*(table.to(device) for table in tables))
    with ThreadPoolExecutor(8) as pool:
        flow = torch.stack(list(pool.map(flow_accumulation, zs)))
    moved = (field.to(device) for field in (zs, flow, truth))
    return SampleSet(*moved, tables, drain.to(device), forcings, kinds, dx * factor, duration)


class CoarseFloods:
    """Coarse floods of a sample set, ``batch`` at a time, as functions of the beds."""

    def __init__(self, set_, batch, steps=2048):
        self.set, self.tape, self.batch = set_, None, batch
        if set_.z.device.type == "cuda":
            index = torch.arange(batch, device=set_.z.device) % len(set_.truth)
            ground = Ground(set_.truth[index] * 0, Solver().manning, set_.dx, set_.drain[index])
            part = BoundaryTables(*(table[index] for table in set_.tables))
            physics = physics_of(Solver(), coarse=True)
            self.tape = GpuTape(ground, part, physics, steps, COARSE)

    def __call__(self, bed, rows):
        """Depths at the end [b, nc, nc] of the given rows, at most ``batch`` of them."""
        set_, physics = self.set, physics_of(Solver(), coarse=True)
        if self.tape is not None:
            padded = torch.arange(self.batch, device=bed.device) % len(rows)
            self.tape.flood.use_boundaries(set_.tables, rows[padded])
            return self.tape(bed[padded], [set_.duration])[0][: len(rows)]
        from models.terrain.solver.cpu.rollout import BoundaryConditions, rollout

        boundaries = [
            BoundaryConditions(
                Ground(bed[:1], Solver().manning, set_.dx, set_.drain[k : k + 1]), set_.forcings[k]
            )
            for k in rows.tolist()
        ]
        return rollout(bed, boundaries, physics, [set_.duration])[0]

    def errors(self, beds, chosen, turn=0):
        """MAE of the beds [t, nc, nc] of the chosen terrains under every water [waters, t]."""
        rows = self.set.rows(chosen, turn)
        depth = self(beds.repeat(len(self.set.names), 1, 1), rows)
        return (depth - self.set.truth[rows]).abs().mean((1, 2)).view(-1, len(chosen))


def units(floods, factor, batch):
    """MAE of mean pooling [waters, t], at least half the median of its water.

    Shallow rain and deep rivers then have equal weight, as in the ratio to mean pooling.
    """
    set_, errors_by_part = floods.set, []
    with torch.no_grad():
        for part in torch.arange(len(set_.z), device=set_.z.device).split(batch):
            bed = torch.stack([mean(z, factor) for z in set_.z[part]])
            errors_by_part.append(floods.errors(bed, part))
    errors = torch.cat(errors_by_part, 1)
    return torch.maximum(errors, errors.median(1, keepdim=True).values / 2).clamp(min=1e-4)
