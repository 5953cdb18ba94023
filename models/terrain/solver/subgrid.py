"""Subgrid terrain: what a coarse cell stores and a coarse face conveys, from the fine heights.

Casulli 2009 (doi 10.1002/fld.1896), van Ormondt et al. 2025 (doi 10.5194/gmd-18-843-2025). A cell
has the depth over its lowest fine height as a function of its mean depth, a face its flow depth and
friction as functions of the water level, all as tables of a few entries. Lookups need no search:
the entries of a cell are evenly spaced in the square root of its mean depth, those of a face in
the level. They are rounded to 16 bits, so that a lookup reads little memory: those of a cell to
1/65535 of the last, those of a face to shorter floats.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

ENTRIES = 16  # of a table
LEAST_SPAN_M = 0.25  # of a face's table, so that films and deep water are told apart on level beds
STORAGE_UNITS = 65535  # entries are multiples of this part of the last one
DEPTH_BIAS, DEPTH_EXPONENT = 2.0**-16, (127 - 16) << 23  # of packed depths, m; bits
FRICTION_EXPONENT = (127 - 12) << 23
LEAST_FRICTION, MOST_FRICTION = 2.0**-12, 15.9  # what a packed friction can be
BLEND_M = 0.1  # flow depth at which the friction of films and of deep water weigh the same


class FaceTables(NamedTuple):
    """Faces of one direction [..., ny, nx], tables with one more axis of ``entries``.

    Attributes:
        sill: level in m at which water begins to cross; the level of the first entry.
        span: from the sill to the level of the last entry, at which the whole width is under water,
            m.
        mean: mean height of the paths across the face, m.
        depth: flow depth, mean over the width of the depth over each path, m.
        friction: factor of n^2, (depth^(5/3) / conveyance)^2; 1 where the bed is level.
        far: ``friction`` of infinitely deep water.
    """

    sill: Tensor
    span: Tensor
    mean: Tensor
    depth: Tensor
    friction: Tensor
    far: Tensor

    @property
    def mT(self) -> "FaceTables":  # noqa: N802  # as of a tensor
        """The faces with rows and columns exchanged."""
        return FaceTables(*(_transposed(field, self.sill.dim()) for field in self))


class Subgrid(NamedTuple):
    """Tables of a coarse grid [b, ny, nx]; heights count from the datum of the bed.

    Attributes:
        full: mean depth in m at which a whole cell is under water.
        storage: depth in m over the lowest fine height, at mean depths full (k / (n-1))^2, k from 0
            to n - 1 [b, ny, nx, n].
        x: faces between columns [b, ny, nx-1].
        y: faces between rows [b, ny-1, nx].
    """

    full: Tensor
    storage: Tensor
    x: FaceTables
    y: FaceTables

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Subgrid":
        """The tables with a function applied to every field."""
        x, y = (FaceTables(*map(function, faces)) for faces in (self.x, self.y))
        return Subgrid(function(self.full), function(self.storage), x, y)

    def over(self, datum: float) -> "Subgrid":
        """The tables with levels that count from ``datum`` m higher."""
        x, y = (
            faces._replace(sill=faces.sill - datum, mean=faces.mean - datum)
            for faces in (self.x, self.y)
        )
        return self._replace(x=x, y=y)


class SubgridTerrain(NamedTuple):
    """A coarse terrain with subgrid tables, in metres above the raster's datum.

    Attributes:
        lowest: lowest fine height of each cell, float32 [1, ny, nx].
        tables: storage of the cells and conveyance of the faces.
        factor: fine cells a coarse cell and side.
    """

    lowest: Tensor
    tables: Subgrid
    factor: int

    def over(self, datum: float) -> "SubgridTerrain":
        """The terrain with heights that count from ``datum`` m higher."""
        return self._replace(lowest=self.lowest - datum, tables=self.tables.over(datum))

    def bed_under(self, h: Float[np.ndarray, "ny nx"]) -> Float[np.ndarray, "ny nx"]:
        """Heights in m of level beds on which mean depths ``h`` in m reach the same levels."""
        depth = torch.from_numpy(h)[None]
        rise = depth_over_lowest(depth, self.tables).double() - depth
        return (self.lowest.double() + rise)[0].numpy()

    def filled_to(self, level: Float[np.ndarray, "ny nx"]) -> Float[np.ndarray, "ny nx"]:
        """Mean depths in m of water at levels in m."""
        above = torch.from_numpy(level)[None].double() - self.lowest
        return mean_depth(above, self.tables.mapped(Tensor.double))[0].numpy()


class FaceShape(NamedTuple):
    """A face at a water level: flow depth in m, factor of the friction; 1 on level beds."""

    depth: Tensor
    friction: Tensor | float


def _transposed(field: Tensor, axes: int) -> Tensor:
    first = axes - 2
    return field.transpose(first, first + 1)


def depth_over_lowest(h: Float[Tensor, "b ny nx"], grid: Subgrid) -> Float[Tensor, "b ny nx"]:
    """Depth in m over the lowest fine height of cells with mean depth ``h`` in m.

    Linear between the entries; beyond the last one the whole cell is under water.
    """
    k, x = _storage_entry(h, grid)
    low, high = _entries(grid.storage, k)
    between = low + (high - low) * (x - k**2) / (2 * k + 1)
    return torch.where(
        (h < grid.full) & (grid.full > 0), between, h + (grid.storage[..., -1] - grid.full)
    )


def storage_slope(h: Float[Tensor, "b ny nx"], grid: Subgrid) -> Float[Tensor, "b ny nx"]:
    """Rise of the water level over that of the mean depth, the inverse of the wet share, >= 1."""
    last = grid.storage.shape[-1] - 1
    k, _ = _storage_entry(h, grid)
    low, high = _entries(grid.storage, k)
    bumpy = (h < grid.full) & (grid.full > 0)
    step = torch.where(bumpy, (2 * k + 1) * grid.full, 1)
    return torch.where(bumpy, (high - low) * last**2 / step, 1)


def _storage_entry(h: Tensor, grid: Subgrid) -> tuple[Tensor, Tensor]:
    """First entry k of a mean depth, and h / full (n - 1)^2, from k^2 to (k + 1)^2."""
    last, bumpy = grid.storage.shape[-1] - 1, grid.full > 0
    x = torch.where(bumpy, h / torch.where(bumpy, grid.full, 1), 0) * last**2
    return x.detach().clamp(min=0).sqrt().long().clamp(max=last - 1), x


def mean_depth(d: Float[Tensor, "b ny nx"], grid: Subgrid) -> Float[Tensor, "b ny nx"]:
    """The inverse of :func:`depth_over_lowest`; 0 for ``d`` below 0."""
    last = grid.storage.shape[-1] - 1
    k = torch.searchsorted(grid.storage.contiguous(), d[..., None].contiguous(), right=True) - 1
    k = k[..., 0].clamp(0, last - 1)
    low, high = _entries(grid.storage, k)
    rise = torch.where(high > low, high - low, 1)
    between = grid.full * (k**2 + (2 * k + 1) * ((d - low) / rise).clamp(max=1)) / last**2
    above = d - (grid.storage[..., -1] - grid.full)
    return torch.where(d < grid.storage[..., -1], between, above).clamp(min=0)


def face_shape(level: Float[Tensor, "b ny nx"], faces: FaceTables) -> FaceShape:
    """Flow depth and friction factor of faces at a water level in m.

    Linear between the entries. Above the last one the flow depth is level - mean, and the friction
    factor approaches ``far`` with the square of the depth, as the variance of the bed has it.
    """
    last = faces.depth.shape[-1] - 1
    x = ((level - faces.sill) / faces.span * last).clamp(0, last)
    k = x.detach().long().clamp(max=last - 1)
    low, high = _entries(faces.depth, k)
    depth = torch.maximum(low + (high - low) * (x - k), level - faces.mean)
    low, high = _entries(faces.friction, k)
    within = low + (high - low) * (x - k)
    whole = faces.depth[..., -1]
    above = level > faces.sill + faces.span
    share = torch.where(above, whole / torch.where(above, depth, 1), 1)
    deep = faces.far - (faces.far - faces.friction[..., -1]) * share**2
    return FaceShape(depth, torch.where(above, deep, within))


def _entries(table: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Entries k and k + 1."""
    both = table.gather(-1, torch.stack([k, k + 1], -1))
    return both[..., 0], both[..., 1]


def tables_of(
    z: Float[Tensor, "b ny nx"], factor: int, entries: int = ENTRIES
) -> tuple[Float[Tensor, "b nyc nxc"], Subgrid]:
    """Lowest heights and tables of the coarse cells of a fine terrain.

    Args:
        z: fine heights in m, rows and columns multiples of the factor.
        factor: fine cells a coarse cell and side, even.
        entries: of a table, at least 2.
    """
    lowest, full, storage = _storage(z, factor, entries)
    x = _faces(_paths(z, factor), entries)
    y = _faces(_paths(z.mT, factor), entries).mT
    return lowest, Subgrid(full, storage, x, y)


def subgrid_of(z: Float[Tensor, "ny nx"], factor: int, entries: int = ENTRIES) -> SubgridTerrain:
    """The subgrid terrain of fine heights in m, rows and columns multiples of the factor."""
    return SubgridTerrain(*tables_of(z[None], factor, entries), factor)


def _storage(z: Tensor, factor: int, entries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest height, mean depth when full, and the storage table, rounded to its units."""
    b, ny, nx = z.shape
    blocks = z.view(b, ny // factor, factor, nx // factor, factor).permute(0, 1, 3, 2, 4)
    heights = blocks.flatten(3).sort(-1).values.double()
    lowest, count = heights[..., :1], heights.shape[-1]
    above = heights - lowest
    order = torch.arange(1, count + 1, device=z.device)
    reached = (above * order - above.cumsum(-1)) / count  # mean depth as the next height is reached
    full = reached[..., -1:]
    share = torch.linspace(0, 1, entries, dtype=torch.float64, device=z.device) ** 2
    knots = full * share
    k = torch.searchsorted(reached.contiguous(), knots.contiguous(), right=True).clamp(1, count) - 1
    storage = above.gather(-1, k) + (knots - reached.gather(-1, k)) * count / (k + 1)
    top = storage[..., -1:]
    units = torch.where(top > 0, storage / top.clamp(min=1e-300), 0).mul(STORAGE_UNITS).round()
    return lowest[..., 0].to(z), full[..., 0].to(z), (units / STORAGE_UNITS * top).to(z)


def _paths(z: Tensor, factor: int) -> Float[Tensor, "b ny nx paths"]:
    """Heights of the paths between neighbours in a row.

    Of the sorted heights of the half cells on both sides of the face, in pairs, the higher one. So
    no face is deeper on the average than the half cells beside it.
    """
    b, ny, nx = z.shape
    half = factor // 2
    cells = z.view(b, ny // factor, factor, nx // factor, factor).permute(0, 1, 3, 2, 4)
    return paths_between(cells[:, :, :-1, :, half:], cells[:, :, 1:, :, :half])


def paths_between(
    before: Float[Tensor, "*faces f half"], after: Float[Tensor, "*faces f half"]
) -> Float[Tensor, "*faces paths"]:
    """Heights of the paths from the fine heights of one half cell to those of another, m."""
    low, high = (side.flatten(-2).sort(-1).values for side in (before, after))
    return torch.maximum(low, high)


def _faces(paths: Tensor, entries: int) -> FaceTables:
    """Tables of faces from the heights of their paths [b, ny, nx, paths]."""
    heights = paths.double()
    sill, top = heights.amin(-1), heights.amax(-1)
    span = (top - sill).clamp(min=LEAST_SPAN_M)
    share = torch.linspace(0, 1, entries, dtype=torch.float64, device=paths.device)
    level = sill[..., None] + span[..., None] * share
    depths = (level[..., None, :] - heights[..., None]).clamp(min=0)
    depth, conveyance = depths.mean(-2), (depths ** (5 / 3)).mean(-2)
    lowest = (heights == sill[..., None]).double().mean(-1)
    friction = (depth ** (5 / 3) / conveyance.clamp(min=1e-300)) ** 2
    friction = torch.where(depth > 0, friction, lowest[..., None] ** (4 / 3))
    fields = (
        sill,
        span,
        heights.mean(-1),
        *unpacked(packed(depth, friction)),
        torch.ones_like(sill),
    )
    return FaceTables(*(field.to(paths) for field in fields))


def packed(depth: Tensor, friction: Tensor) -> Int32[Tensor, "..."]:
    """Entries of a face's table as words of 32 bits.

    The upper 20 bits are depth + 2^-16 m, of 15 bits of mantissa, rounded down, so that level -
    mean rules level beds; the lower 12 are the friction, of 8, rounded. Both are shorter floats.
    """
    high = (depth.float() + DEPTH_BIAS).view(torch.int32) - DEPTH_EXPONENT
    low = friction.float().clamp(LEAST_FRICTION, MOST_FRICTION).view(torch.int32)
    low = low - FRICTION_EXPONENT + (1 << 14)
    return ((high >> 8).clamp(0, 0xFFFFF) << 12) | (low >> 15).clamp(0, 0xFFF)


def unpacked(words: Int32[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Depths and frictions of :func:`packed` words."""
    high = (((words >> 12) & 0xFFFFF) << 8) + DEPTH_EXPONENT
    low = ((words & 0xFFF) << 15) + FRICTION_EXPONENT
    return high.view(torch.float32) - DEPTH_BIAS, low.view(torch.float32)


def closed(grid: Subgrid, nowhere: Bool[Tensor, "ny nx"], level: float) -> Subgrid:
    """The tables with the faces of some cells closed up to a level in m."""
    x = nowhere[:, 1:] | nowhere[:, :-1]
    y = nowhere[1:] | nowhere[:-1]
    return grid._replace(x=_closed(grid.x, x, level), y=_closed(grid.y, y, level))


def _closed(faces: FaceTables, where: Tensor, level: float) -> FaceTables:
    sill, mean = (torch.where(where, level, field) for field in (faces.sill, faces.mean))
    return faces._replace(sill=sill, mean=mean)


class FaceChange(NamedTuple):
    """What is learned of the faces of one direction [b, ny, nx].

    Attributes:
        shift: of the sill, m; no lower than the lowest heights of both cells.
        film: logarithm of the factor of ``friction`` for thin water.
        deep: the same for deep water; films and deep water blend by d / (d + 0.1 m).
    """

    shift: Tensor
    film: Tensor
    deep: Tensor

    @property
    def mT(self) -> "FaceChange":  # noqa: N802  # as of a tensor
        """The faces with rows and columns exchanged."""
        return FaceChange(self.shift.mT, self.film.mT, self.deep.mT)


def changed(
    grid: Subgrid, lowest: Float[Tensor, "b ny nx"], x: FaceChange, y: FaceChange
) -> Subgrid:
    """The tables with learned sills and friction of the faces; all 0: the same tables.

    Args:
        grid: tables of the fine heights.
        lowest: lowest heights, m.
        x: changes of the faces between columns.
        y: of the faces between rows.
    """
    x, y = possible(grid, lowest, x, y)
    return grid._replace(x=_changed(grid.x, x), y=_changed(grid.y, y))


def possible(
    grid: Subgrid, lowest: Float[Tensor, "b ny nx"], x: FaceChange, y: FaceChange
) -> tuple[FaceChange, FaceChange]:
    """The changes with sills no lower than the lowest heights of both cells; as :func:`changed`."""
    return _possible(grid.x, lowest, x), _possible(grid.y.mT, lowest.mT, y.mT).mT


def _possible(faces: FaceTables, lowest: Tensor, change: FaceChange) -> FaceChange:
    least = torch.maximum(lowest[:, :, 1:], lowest[:, :, :-1]) - faces.sill
    return change._replace(shift=torch.maximum(change.shift, least))


def _changed(faces: FaceTables, change: FaceChange) -> FaceTables:
    weight = deep_share(faces.depth)
    film, deep = change.film[..., None], change.deep[..., None]
    factor = torch.exp(film * (1 - weight) + deep * weight)
    return faces._replace(
        sill=faces.sill + change.shift,
        mean=faces.mean + change.shift,
        friction=faces.friction * factor,
        far=faces.far * factor[..., -1],
    )


def deep_share(depth: Tensor) -> Tensor:
    """Weight of the friction of deep water at a flow depth in m, 0..1."""
    return depth / (depth + BLEND_M)
