"""Windows of real terrain under waters, fine and coarse, for what is learned of faces."""

import functools
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from models.terrain import measures
from models.terrain.learning.face_features import FaceFeatures, features_of
from models.terrain.learning.search import Matches
from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.forcing import Forcing, Inlet, constant
from models.terrain.solver.scheme import Ground, Physics
from models.terrain.solver.subgrid import changed, subgrid_of
from models.terrain.solver.time_stepping import BoundaryConditions

# site: file, cells a side of a window for factors 8 and 16, for 4, first cells of windows
SITES = {
    "suburb": ("merewether_1m.tif", 256, 128, ((0, 8), (160, 32), (80, 20), (0, 60))),
    "prairie": ("prairie_potholes_1m.tif", 256, 128, ((0, 0), (144, 144), (0, 144), (144, 0))),
    "catchment": ("upper_lee_10m.tif", 96, 96, ((24, 80), (128, 72), (72, 48), (72, 96))),
    "marsh": ("zSW3.asc", 128, 128, ((0, 0), (316, 140), (156, 0), (28, 100))),
    "hills": ("qgis3d_dtm.tif", 256, 128,
              tuple((i, j) for i in (0, 512, 1024, 1536) for j in (200, 1300))),
}  # fmt: skip
SHEET = {"catchment": 10.0, "marsh": 2.0}  # side of a fine cell in m, else 1
TRAINED = {
    "rain": 35.0,
    "heavy rain": 70.0,
    "spring": 0,
    "spring b": 7,
    "west": 60.0,
    "small west": 25.0,
}
UNSEEN = {"flood": 150.0, "north": 60.0, "spring c": 13, "light rain": 15.0}
FINE, COARSE, MANNING, BLOCK = Physics(), Physics(h_floor=0.1), 0.05, 16


def cut(rasters: list[Path], out: Path) -> None:
    import rasterio  # only here

    arrays = {}
    for site, (name, size, _, corners) in SITES.items():
        path = next(folder / name for folder in rasters if (folder / name).exists())
        with rasterio.open(path) as raster:
            band = raster.read(1, masked=True)
        for k, (i, j) in enumerate(corners):
            part = band[i : i + size, j : j + size]
            assert part.shape == (size, size), (site, k)
            assert not np.ma.getmaskarray(part).any(), (site, k)
            z = np.asarray(part, np.float32)
            arrays[f"{site}-{k}"] = z - z.mean()
    np.savez_compressed(out / "windows.npz", **arrays)


def overlap(site: str, size: int) -> float:
    """Share of the windows' cells that another window of the site has too."""
    corners = SITES[site][3]
    grid = np.zeros(np.max(corners, 0) + size, np.int64)
    for i, j in corners:
        grid[i : i + size, j : j + size] += 1
    return float(
        sum((grid[i : i + size, j : j + size] > 1).mean() for i, j in corners) / len(corners)
    )


class Window:
    """A window with its pooled fine floods, coarse by one factor."""

    def __init__(self, folder: Path, name: str, factor: int) -> None:
        self.site, index = name.rsplit("-", 1)
        self.name, self.k, self.factor = name, int(index), factor
        with np.load(folder / "windows.npz") as arrays:
            z = arrays[name]
        size = SITES[self.site][2 if factor == 4 else 1]
        self.z = torch.from_numpy(np.ascontiguousarray(z[:size, :size] - z[:size, :size].mean()))
        self.dx, self.n = SHEET.get(self.site, 1.0), size
        side = size * self.dx
        self.scale, self.duration = (side / 1000) ** 2, 1800 * math.sqrt(side / 1000)
        self._folder = folder

    @functools.cached_property
    def truth(self) -> dict[str, torch.Tensor]:
        with np.load(self._folder / f"floods-{self.name}-{self.n}.npz") as arrays:
            pooled = {name: torch.from_numpy(arrays[name]) for name in arrays}
        return {name: measures.pooled(h, self.factor // 4) for name, h in pooled.items()}

    @functools.cached_property
    def terrain(self):
        return subgrid_of(self.z, self.factor)

    @functools.cached_property
    def features(self) -> list[FaceFeatures]:
        path = self._folder / f"features-{self.factor}-{self.name}.npz"
        if not path.exists():
            torch.set_num_threads(1)
            found = features_of(self.z, self.terrain, self.dx * self.factor, lambda: None)
            arrays = {
                f"{k}{name}": v.numpy()
                for k, some in enumerate(found)
                for name, v in some._asdict().items()
            }
            part = path.with_name(f"{path.stem}.part.npz")
            np.savez(part, **arrays)
            part.replace(path)
        with np.load(path) as arrays:
            names = FaceFeatures._fields
            return [
                FaceFeatures(*(torch.from_numpy(arrays[f"{k}{name}"]) for name in names))
                for k in (0, 1)
            ]

    def prepare(self) -> None:
        assert self.features

    def forcing(self, name: str, factor: int) -> Forcing:
        value = (TRAINED | UNSEEN)[name]
        if "rain" in name:
            return Forcing((), constant(value / 3.6e6))
        if "spring" in name:  # over 4 x 4 fine cells
            share = ((self.k + 1 + value) * 0.618 + 2.3 * c for c in (1.1, 1.9))
            x, y = (int((0.2 + 0.6 * (s % 1)) * self.n) // 4 * 4 for s in share)
            near = range(1) if factor >= 4 else range(4)
            cells = [(y // factor + i, x // factor + j) for i in near for j in near]
            return Forcing(
                (Inlet(constant(30 * self.scale), *map(tuple, zip(*cells, strict=True))),)
            )
        count = max(1, round(100 * math.sqrt(self.scale) / self.dx / BLOCK))
        first = self.n // BLOCK // 2 - count // 2
        along = tuple(range(first * BLOCK // factor, (first + count) * BLOCK // factor))
        cells = (0,) * len(along), along
        return Forcing(
            (Inlet(constant(value * self.scale), *(cells if name == "north" else cells[::-1])),)
        )

    def run(self, ground: Ground, name: str, factor: int, physics: Physics) -> torch.Tensor:
        flood = FusedFlood(ground, self.forcing(name, factor), physics)
        flood.advance(self.duration)
        return flood.depth[0]

    def flood_fine(self) -> None:
        ground = Ground(self.z[None], MANNING, self.dx)
        began = time.process_time()
        pooled = {
            name: measures.pooled(self.run(ground, name, 1, FINE), 4).numpy()
            for name in TRAINED | UNSEEN
        }
        target = self._folder / f"floods-{self.name}-{self.n}.npz"
        np.savez(target, **pooled)
        target.with_suffix(".json").write_text(json.dumps({"cpu_s": time.process_time() - began}))

    def coarse(self, name: str, faces=None) -> torch.Tensor:
        """Depth on mean heights (``faces`` "mean") or on the subgrid with changed faces."""
        dx = self.dx * self.factor
        if faces == "mean":
            z = torch.nn.functional.avg_pool2d(self.z[None], self.factor)
            return self.run(Ground(z, MANNING, dx), name, self.factor, COARSE)
        tables = self.terrain.tables
        if faces is not None:
            tables = changed(tables, self.terrain.lowest, *faces)
        return self.run(
            Ground(self.terrain.lowest, MANNING, dx, subgrid=tables), name, self.factor, COARSE
        )

    def matches(self, names: list[str]) -> Matches:
        tables, dx = self.terrain.tables, self.dx * self.factor
        ground = Ground(self.terrain.lowest, MANNING, dx, subgrid=tables)
        boundaries = [BoundaryConditions(ground, self.forcing(name, self.factor)) for name in names]
        truth = torch.stack([self.truth[name] for name in names])
        return Matches(boundaries, truth[None], torch.tensor([self.units[name] for name in names]))

    @functools.cached_property
    def units(self) -> dict[str, float]:
        """The smaller error of mean pooling and of the untrained subgrid, at least 0.1 mm, m."""
        return {
            name: max(
                1e-4,
                min(
                    float((self.coarse(name, by) - self.truth[name]).abs().mean())
                    for by in ("mean", None)
                ),
            )
            for name in TRAINED
        }

    def errors(self, name: str, faces) -> dict[str, float]:
        depth, truth = self.coarse(name, faces), self.truth[name]
        wet = (truth > 0.01) | (depth > 0.01)
        gap = float((depth - truth).abs()[wet].mean()) if wet.any() else 0.0
        return {"mae_wet_m": gap, "csi_01": measures.csi(depth.numpy(), truth.numpy(), 0.1)}
