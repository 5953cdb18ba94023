"""Where the cells of a batch of floods lie on a GPU, and what surrounds their beds."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.terrain.solver.forcing import Forcing, Series, constant

PAD, LEFT = 4, 32  # rows above and below, columns before a field; walls


class Tuning(NamedTuple):
    """How the programs are cut.

    Attributes:
        down: rows of a tile.
        across: columns of a tile, at most.
        warps: of a program.
        log: the cube root by the chip's logarithm; else by its bits and two steps.
        aligned: a thread has neighbouring cells; else the lanes of a warp do.
        turning: every other step walks the tiles backwards, towards what the cache still holds.
        lazy: dry tiles are left out, where no tape is kept.
    """

    down: int = 4
    across: int = 64
    warps: int = 4
    log: bool = False
    aligned: bool = False
    turning: bool = True
    lazy: bool = True


class Layout(NamedTuple):
    """Where a cell lies in a padded field [batch, rows, pitch]."""

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
        """Of a padded field."""
        return self.batch, self.rows, self.pitch

    @property
    def tiles(self) -> int:
        """Of a sample."""
        return self.down * self.across

    def inner(self, field: Tensor) -> Tensor:
        """The cells of the grid, a view of a padded field."""
        return field[..., PAD : PAD + self.ny, LEFT : LEFT + self.nx]

    def by_tile(self, field: Tensor) -> Tensor:
        """Greatest value of each tile [b, tiles] of a padded field."""
        rows, columns = self.down * self.tile[0], self.across * self.tile[1]
        tiled = field[:, PAD : PAD + rows, LEFT : LEFT + columns]
        return torch.nn.functional.max_pool2d(tiled, self.tile).flatten(1)


def layout(batch: int, ny: int, nx: int, tuning: Tuning = Tuning()) -> Layout:  # noqa: B008
    """Tiles no wider than the grid needs, rows a multiple of 128 bytes."""
    width = min(tuning.across, max(16, 2 ** math.ceil(math.log2(nx))))
    height = min(tuning.down, max(4, 2 ** math.ceil(math.log2(ny))))
    down, across = math.ceil(ny / height), math.ceil(nx / width)
    rows = PAD + down * height + PAD
    pitch = LEFT + math.ceil(across * width / 32) * 32
    return Layout(batch, ny, nx, rows, pitch, down, across, (height, width))


class Worlds(NamedTuple):
    """What surrounds the beds of some samples, on the device.

    Attributes:
        cells: offsets in a padded field of cells with inflow [b, c]; -1: none.
        tiles: of these cells [b, c].
        gain: m/s there per unit of their series [b, c].
        series: which one [b, c]; the first is the rain.
        moments: s [b, series, points].
        values: at these moments, m3/s; of the rain m/s.
        drain: coefficients of outlets [b, rows, pitch].
        drains: whether an outlet is in a tile or beside it [b, tiles].
    """

    cells: Tensor
    tiles: Tensor
    gain: Tensor
    series: Tensor
    moments: Tensor
    values: Tensor
    drain: Tensor
    drains: Tensor


def worlds_of(drain: Tensor | None, forcings: list[Forcing], lay: Layout, dx: float) -> Worlds:
    """Surroundings of all samples in tables of one width.

    Args:
        drain: coefficients of outlets [b, ny, nx], on the device; None without.
        forcings: of each sample; no rain maps.
        lay: of the fields.
        dx: side of a cell in m.
    """
    device = None if drain is None else drain.device
    rows, all_series = zip(*(_inlets(forcing, lay, dx) for forcing in forcings), strict=True)
    width = 2 ** math.ceil(math.log2(max([16, *map(len, rows)])))
    filled = [row + [(-1, 0, 0.0, 0)] * (width - len(row)) for row in rows]
    dtypes = (torch.int32, torch.int32, torch.float64, torch.int32)
    columns = [
        torch.tensor([[cell[k] for cell in row] for row in filled], dtype=dtype, device=device)
        for k, dtype in enumerate(dtypes)
    ]
    points = 2 ** math.ceil(math.log2(max(len(s.times) for one in all_series for s in one)))
    count = max(map(len, all_series))
    full = [[*one, *[constant(0.0)] * (count - len(one))] for one in all_series]
    tables = [[_stretched(one, points) for one in sample] for sample in full]
    moments, values = (
        torch.tensor(
            [[one[k] for one in sample] for sample in tables], dtype=torch.float64, device=device
        )
        for k in (0, 1)
    )
    return Worlds(*columns, moments, values, *_outlets(drain, len(forcings), lay))


def _inlets(
    forcing: Forcing, lay: Layout, dx: float
) -> tuple[list[tuple[int, int, float, int]], list[Series]]:
    """Cells with inflow of a sample, and its series; the first is the rain."""
    series, rows = [forcing.rain or constant(0.0)], []
    for inlet in forcing.inlets:
        share = 1 / (len(inlet.rows) * dx * dx)
        for i, j in zip(inlet.rows, inlet.columns, strict=True):
            tile = i // lay.tile[0] * lay.across + j // lay.tile[1]
            rows.append(((i + PAD) * lay.pitch + LEFT + j, tile, share, len(series)))
        series.append(inlet.series)
    return rows, series


def _outlets(drain: Tensor | None, count: int, lay: Layout) -> tuple[Tensor, Tensor]:
    """Padded coefficients, and the tiles near them; one cell of nothing without outlets."""
    if drain is None:
        return torch.zeros(count, 1, 1), torch.zeros(count, lay.tiles, dtype=torch.int32)
    wide = torch.zeros(count, *lay.shape[1:], device=drain.device)
    lay.inner(wide).copy_(drain)
    near = torch.nn.functional.max_pool2d((wide > 0).float(), 3, 1, 1)
    return wide, (lay.by_tile(near) > 0).int()


def _stretched(series: Series, points: int) -> tuple[list[float], list[float]]:
    """A series with more points; those behind its end repeat the last value."""
    more = points - len(series.times)
    times = [*series.times, *(series.times[-1] + k for k in range(1, more + 1))]
    return times, [*series.values, *[series.values[-1]] * more]
