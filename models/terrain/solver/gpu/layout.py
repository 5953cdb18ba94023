"""Memory layout of a batch of floods on a GPU, and tables of their boundary conditions."""

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from models.terrain.solver.forcing import Forcing, Series, constant, integrals_of

PAD, LEFT = 4, 32  # wall rows above and below, wall columns before a field


class Tuning(NamedTuple):
    """Launch parameters of the kernels.

    Attributes:
        down: rows of a tile.
        across: columns of a tile, at most.
        warps: per program.
        log: cube root by the hardware logarithm; else by bit arithmetic and a series.
        aligned: neighbouring cells belong to one thread; else to neighbouring lanes of a warp.
        turning: every other step processes the tiles in reverse order, which reuses the cache.
        lazy: dry tiles are skipped, unless a tape is recorded.
    """

    down: int = 4
    across: int = 64
    warps: int = 4
    log: bool = False
    aligned: bool = False
    turning: bool = True
    lazy: bool = True


class Layout(NamedTuple):
    """Position of the cells in a padded field [batch, rows, pitch].

    ``down`` and ``across`` count tiles; ``tile`` holds the rows and columns of one.
    """

    batch: int
    ny: int
    nx: int
    rows: int
    pitch: int
    down: int  # tiles
    across: int
    tile: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a padded field."""
        return self.batch, self.rows, self.pitch

    @property
    def tiles(self) -> int:
        """Tiles of a sample."""
        return self.down * self.across

    def inner(self, field: Tensor) -> Tensor:
        """View [..., ny, nx] of the cells of the grid in a padded field [..., rows, pitch]."""
        return field[..., PAD : PAD + self.ny, LEFT : LEFT + self.nx]

    def by_tile(self, field: Tensor) -> Tensor:
        """Greatest value of each tile [b, tiles] of a padded field."""
        rows, columns = self.down * self.tile[0], self.across * self.tile[1]
        tiled = field[:, PAD : PAD + rows, LEFT : LEFT + columns]
        return torch.nn.functional.max_pool2d(tiled, self.tile).flatten(1)


def build_layout(batch: int, ny: int, nx: int, tuning: Tuning = Tuning()) -> Layout:  # noqa: B008
    """Tiles no larger than the grid needs, rows a multiple of 128 bytes.

    Args:
        batch: samples.
        ny: rows of the grid.
        nx: columns of the grid.
        tuning: largest tiles.
    """
    width = min(tuning.across, max(16, 2 ** math.ceil(math.log2(nx))))
    height = min(tuning.down, max(4, 2 ** math.ceil(math.log2(ny))))
    down, across = math.ceil(ny / height), math.ceil(nx / width)
    rows = PAD + down * height + PAD
    pitch = LEFT + math.ceil(across * width / 32) * 32
    return Layout(batch, ny, nx, rows, pitch, down, across, (height, width))


class BoundaryTables(NamedTuple):
    """Boundary conditions of a batch of samples, as tensors on the device.

    Attributes:
        cells: offsets in a padded field of cells with inflow [b, c]; -1: none.
        tiles: of these cells [b, c].
        gain: of these cells, m/s per unit of their series [b, c].
        shared: number of entries with the same cell [b, c].
        series: index of their series [b, c]; series 0 is the rain.
        moments: s [b, series, points].
        values: at these moments, m3/s; of the rain m/s.
        integrals: of each series from its first moment to these.
        drain: coefficients of outlets [b, rows, pitch].
        drains: whether an outlet is in a tile or next to it [b, tiles].
    """

    cells: Tensor
    tiles: Tensor
    gain: Tensor
    shared: Tensor
    series: Tensor
    moments: Tensor
    values: Tensor
    integrals: Tensor
    drain: Tensor
    drains: Tensor


def boundary_tables(
    drain: Tensor | None, forcings: list[Forcing], layout: Layout, dx: float
) -> BoundaryTables:
    """Tables of one width with the boundary conditions of all samples.

    Args:
        drain: coefficients of outlets [b, ny, nx], on the device; None: no outlets.
        forcings: of each sample; no rain maps.
        layout: of the padded fields.
        dx: side of a cell in m.
    """
    device = None if drain is None else drain.device
    rows, all_series = zip(*(_inlets(forcing, layout, dx) for forcing in forcings), strict=True)
    width = 2 ** math.ceil(math.log2(max([16, *map(len, rows)])))
    filled = [row + [(-1, 0, 0.0, 0, 0)] * (width - len(row)) for row in rows]
    dtypes = (torch.int32, torch.int32, torch.float64, torch.int32, torch.int32)
    columns = [
        torch.tensor([[cell[k] for cell in row] for row in filled], dtype=dtype, device=device)
        for k, dtype in enumerate(dtypes)
    ]
    points = 2 ** math.ceil(math.log2(max(len(s.times) for one in all_series for s in one)))
    count = max(map(len, all_series))
    full = [[*one, *[constant(0.0)] * (count - len(one))] for one in all_series]
    tables = [[_padded_series(one, points) for one in sample] for sample in full]
    series = (
        torch.tensor(
            [[one[k] for one in sample] for sample in tables], dtype=torch.float64, device=device
        )
        for k in (0, 1, 2)
    )
    return BoundaryTables(*columns, *series, *_outlets(drain, len(forcings), layout))


def _inlets(
    forcing: Forcing, layout: Layout, dx: float
) -> tuple[list[tuple[int, int, float, int, int]], list[Series]]:
    """Cells with inflow of a sample, and its series; the first is the rain."""
    series, rows = [forcing.rain or constant(0.0)], []
    count = Counter(
        cell for inlet in forcing.inlets for cell in zip(inlet.rows, inlet.columns, strict=True)
    )
    for inlet in forcing.inlets:
        share = 1 / (len(inlet.rows) * dx * dx)
        for i, j in zip(inlet.rows, inlet.columns, strict=True):
            tile = i // layout.tile[0] * layout.across + j // layout.tile[1]
            offset = (i + PAD) * layout.pitch + LEFT + j
            rows.append((offset, tile, share, count[i, j], len(series)))
        series.append(inlet.series)
    return rows, series


def _outlets(drain: Tensor | None, count: int, layout: Layout) -> tuple[Tensor, Tensor]:
    """Padded coefficients and flags of the tiles near them; one zero cell without outlets."""
    if drain is None:
        return torch.zeros(count, 1, 1), torch.zeros(count, layout.tiles, dtype=torch.int32)
    wide = torch.zeros(count, *layout.shape[1:], device=drain.device)
    layout.inner(wide).copy_(drain)
    near = torch.nn.functional.max_pool2d((wide > 0).float(), 3, 1, 1)
    return wide, (layout.by_tile(near) > 0).int()


def _padded_series(series: Series, points: int) -> tuple[list[float], list[float], list[float]]:
    """Times, values, integrals of a series, its last value repeated to ``points`` points."""
    more = points - len(series.times)
    times = [*series.times, *(series.times[-1] + k for k in range(1, more + 1))]
    longer = Series(tuple(times), (*series.values, *[series.values[-1]] * more))
    return times, list(longer.values), integrals_of(longer)
