"""What the fine heights beside a face of a subgrid say of it: inputs of learned sills and friction.

All of them are symmetric in the two cells of a face and do not change with the datum.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.terrain.solver.subgrid import FaceTables, SubgridTerrain

LEAST_SCALE_M = 0.02


class FaceFeatures(NamedTuple):
    """Of the faces of one direction.

    Attributes:
        values: of order 1 [ny, nx, n].
        scale: standard deviation of the heights of both cells, m [ny, nx].
        spill: level over the sill at which water passes between the cells' lowest heights, m.
        losses: 2 log(K of the table / K of the fine heights) just over the spill and high above.
    """

    values: Tensor
    scale: Tensor
    spill: Tensor
    losses: Tensor


def features_of(z: Tensor, terrain: SubgridTerrain, dx: float) -> tuple[FaceFeatures, FaceFeatures]:
    """Features of the faces between columns and between rows (these transposed).

    Args:
        z: fine heights, m [ny, nx].
        terrain: their untrained subgrid.
        dx: side of a coarse cell, m.
    """
    tables, factor = terrain.tables, terrain.factor
    x = _features(z, tables.x, factor, dx)
    return x, _features(z.mT, tables.y.mT, factor, dx)


def _features(z: Tensor, faces: FaceTables, factor: int, dx: float) -> FaceFeatures:
    f = factor
    cells = z.reshape(z.shape[0] // f, f, z.shape[1] // f, f).permute(0, 2, 1, 3).double()
    pairs = torch.cat([cells[:, :-1], cells[:, 1:]], -1)  # [ny, nx - 1, f, 2 f]
    left, right = cells[:, :-1].flatten(2), cells[:, 1:].flatten(2)
    scale = torch.maximum(left.std(-1), right.std(-1)).clamp(min=LEAST_SCALE_M)
    sill, mean = faces.sill[0].double(), faces.mean[0].double()
    spill = (spill_levels(pairs) - sill).clamp(min=0)
    middle = pairs[..., f // 2 : f // 2 + f]
    paths = _paths(middle)
    losses = []
    for share in (0.1, 1.0):
        level = sill + spill + share * scale + 0.02
        losses.append(2 * torch.log(_table(level, paths) / conveyance(level, middle)))
    lost = torch.stack(losses, -1).clamp(-1, 8)
    crest = torch.maximum(middle[..., f // 2 - 1], middle[..., f // 2]).amin(-1) - sill
    drop = (left.mean(-1) - right.mean(-1)).abs()
    across = (
        middle[..., : f // 2, :].mean((-1, -2)) - middle[..., f // 2 :, :].mean((-1, -2))
    ).abs()
    lows = (left.amin(-1) - right.amin(-1)).abs()
    rough = 0.5 * ((pairs[..., 1:] - pairs[..., :-1]).abs().mean((-1, -2))
                   + (pairs[..., 1:, :] - pairs[..., :-1, :]).abs().mean((-1, -2)))  # fmt: skip
    ratios = [spill, crest, mean - sill, drop, across, lows, rough]
    values = [torch.asinh(ratio / scale) for ratio in ratios]
    values += [
        (scale / 0.3).log() / 2,
        (drop / dx * 30 + 0.03).log() / 2,
        (rough * f / dx * 10 + 0.03).log() / 2,
    ]
    values += [lost[..., 0] / 2, lost[..., 1] / 2]
    return FaceFeatures(torch.stack(values, -1).float(), scale.float(), spill.float(), lost.float())


def spill_levels(pairs: Tensor) -> Tensor:
    """Least level in m at which the lowest heights of both halves are under one water.

    Args:
        pairs: heights of two cells side by side, m [..., f, 2 f].
    """
    shape, f = pairs.shape, pairs.shape[-2]
    flat = pairs.reshape(-1, f, 2 * f)
    count = len(flat)
    low = flat[..., :f].reshape(count, -1)
    start = low.argmin(-1)
    level = torch.full_like(flat, torch.inf)
    level[torch.arange(count), start // f, start % f] = low.amin(-1)
    while True:
        wide = torch.nn.functional.pad(level, (1, 1, 1, 1), value=torch.inf)
        around = torch.minimum(
            torch.minimum(wide[:, 1:-1, :-2], wide[:, 1:-1, 2:]),
            torch.minimum(wide[:, :-2, 1:-1], wide[:, 2:, 1:-1]),
        )
        lower = torch.minimum(level, torch.maximum(flat, around))
        if torch.equal(lower, level):
            break
        level = lower
    end = flat[..., f:].reshape(count, -1).argmin(-1)
    return level[torch.arange(count), end // f, f + end % f].reshape(shape[:-2])


def conveyance(level: Tensor, middle: Tensor) -> Tensor:
    """Mean conveyance in m^(5/3) through square blocks of fine heights from left to right.

    Links between fine cells convey flow depth^(5/3); the ends are at two levels, the rest follows
    by continuity. On a level bed it is depth^(5/3).
    """
    f = middle.shape[-1]
    flat, w = middle.reshape(-1, f, f), level.reshape(-1, 1, 1)
    depth_x = w - torch.maximum(flat[..., 1:], flat[..., :-1])
    depth_y = w - torch.maximum(flat[:, 1:], flat[:, :-1])
    least = 1e-3
    cx, cy = (d.clamp(min=least) ** (5 / 3) for d in (depth_x, depth_y))
    count, n = len(flat), f * f
    index = torch.arange(n).view(f, f)
    out = torch.empty(count, dtype=torch.float64)
    for part in range(0, count, 512):
        some = slice(part, part + 512)
        a = torch.zeros(len(flat[some]), n, n, dtype=torch.float64)
        for c, i, j in ((cx[some], index[:, :-1], index[:, 1:]), (cy[some], index[:-1], index[1:])):
            v, i, j = c.flatten(1), i.flatten(), j.flatten()
            a[:, i, j] -= v
            a[:, j, i] -= v
            a.diagonal(dim1=1, dim2=2).index_add_(1, i, v)
            a.diagonal(dim1=1, dim2=2).index_add_(1, j, v)
        inner = index[:, 1:-1].flatten()
        high = index[:, 0]
        b = -a[:, inner][:, :, high].sum(-1)
        potential = torch.linalg.solve(a[:, inner][:, :, inner], b) if len(inner) else b
        whole = torch.zeros(len(a), n, dtype=torch.float64)
        whole[:, inner], whole[:, high] = potential, 1.0
        field = whole.view(-1, f, f)
        flux = (cx[some][..., 0] * (field[..., 0] - field[..., 1])).sum(-1)
        out[some] = flux * (f - 1) / f
    return out.reshape(level.shape)


def _paths(middle: Tensor) -> Tensor:
    f = middle.shape[-1]
    before, after = (
        side.flatten(-2).sort(-1).values for side in (middle[..., : f // 2], middle[..., f // 2 :])
    )
    return torch.maximum(before, after)


def _table(level: Tensor, paths: Tensor) -> Tensor:
    return ((level[..., None] - paths).clamp(min=1e-3) ** (5 / 3)).mean(-1)
