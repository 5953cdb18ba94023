"""What the fine heights beside a face of a subgrid say of it: the input of the net of faces.

All features are symmetric in the two cells of a face and free of the datum, of order 1 on every
terrain. `s` is the larger standard deviation of the heights of both cells, at least 2 cm.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from models.terrain.solver.subgrid import FaceTables, SubgridTerrain, paths_between

COUNT = 12  # features of a face
LEAST_SCALE_M, LEAST_DEPTH_M = 0.02, 1e-3
OVER_SPILL = (0.1, 1.0)  # levels of the conveyances, in s over the spill level
MOST_FACES = 2048  # solved for at once

NAMES = (
    "spill level over the sill", "lowest place of the common edge over the sill",
    "mean height of the paths over the sill", "difference of the cells' mean heights",
    "difference of the mean heights of both halves along the face",
    "difference of the lowest heights", "mean step between fine neighbours",
    "s", "slope between the cells", "slope between fine neighbours",
    "loss of conveyance just over the spill level", "loss of conveyance s over it",
)  # fmt: skip


class FaceFeatures(NamedTuple):
    """Of the faces of one direction.

    Attributes:
        values: as ``NAMES``, those in metres as asinh(x / s) [ny, nx, 12].
        scale: s, m [ny, nx].
        relief: standard deviation of the heights of both cells about one plane, m [ny, nx].
    """

    values: Tensor
    scale: Tensor
    relief: Tensor


def features_of(
    z: Float[Tensor, "ny nx"], terrain: SubgridTerrain, dx: float, check: Callable[[], None]
) -> tuple[FaceFeatures, FaceFeatures]:
    """Features of the faces between columns and, with rows and columns exchanged, between rows.

    Args:
        z: fine heights, m, rows and columns multiples of the factor.
        terrain: their untrained subgrid.
        dx: side of a coarse cell, m.
        check: called now and then, to stop by an exception.
    """
    x, y = terrain.tables.x, terrain.tables.y.mT
    return _features(z, x, terrain.factor, dx, check), _features(z.mT, y, terrain.factor, dx, check)


def _features(
    z: Tensor, faces: FaceTables, f: int, dx: float, check: Callable[[], None]
) -> FaceFeatures:
    """Features of the faces in bands of rows, which bound the memory."""
    cells = z.reshape(z.shape[0] // f, f, z.shape[1] // f, f).transpose(1, 2)
    if cells.shape[1] == 1:
        none = z.new_zeros(len(cells), 0)
        return FaceFeatures(z.new_zeros(len(cells), 0, COUNT), none, none)
    band, parts = max(1, MOST_FACES // cells.shape[1]), []
    for top in range(0, len(cells), band):
        check()
        rows = slice(top, top + band)
        part = cells[rows].double()
        sill, mean = (field[0, rows].double() for field in (faces.sill, faces.mean))
        parts.append(_of_band(torch.cat([part[:, :-1], part[:, 1:]], -1), sill, mean, dx))
    return FaceFeatures(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _of_band(
    pairs: Float[Tensor, "ny nx f width"], sill: Tensor, mean: Tensor, dx: float
) -> FaceFeatures:
    """Features of faces between pairs of cells of f x f fine heights in m, side by side."""
    f = pairs.shape[-2]
    left, right = pairs[..., :f].flatten(-2), pairs[..., f:].flatten(-2)
    scale = torch.maximum(left.std(-1), right.std(-1)).clamp(min=LEAST_SCALE_M)
    middle = pairs[..., f // 2 : f // 2 + f]  # from centre to centre
    spill = (spill_levels(pairs) - sill).clamp(min=0)
    crest = torch.maximum(middle[..., f // 2 - 1], middle[..., f // 2]).amin(-1) - sill
    drop = (left.mean(-1) - right.mean(-1)).abs()
    along = (middle[..., : f // 2, :] - middle[..., f // 2 :, :]).mean((-1, -2)).abs()
    lows = (left.amin(-1) - right.amin(-1)).abs()
    steps = [pairs.diff(dim=axis).abs().mean((-1, -2)) for axis in (-1, -2)]
    rough = (steps[0] + steps[1]) / 2
    ratios = torch.stack([spill, crest, mean - sill, drop, along, lows, rough], -1)
    slopes = [(x / dx * unit + 0.03).log() / 2 for x, unit in ((drop, 30), (rough, 10 * f))]
    losses = [
        conveyance_lost(sill + spill + share * scale + LEAST_SCALE_M, middle)
        for share in OVER_SPILL
    ]
    logs = torch.stack([(scale / 0.3).log() / 2, *slopes, *losses], -1)
    values = torch.cat([torch.asinh(ratios / scale[..., None]), logs], -1)
    return FaceFeatures(values.float(), scale.float(), about_a_plane(pairs).float())


def about_a_plane(pairs: Float[Tensor, "*faces f width"]) -> Float[Tensor, "*faces"]:
    """Standard deviation in m of heights about the plane that fits them best; 0 on a plane."""
    rest = pairs - pairs.mean((-1, -2), keepdim=True)
    for axis in (-2, -1):
        count = pairs.shape[axis]
        along = torch.arange(count, dtype=pairs.dtype) - (count - 1) / 2
        along = along[:, None] if axis == -2 else along
        slope = (rest * along).mean((-1, -2)) / (along**2).mean()
        rest = rest - slope[..., None, None] * along
    return (rest**2).mean((-1, -2)).sqrt()


def spill_levels(pairs: Float[Tensor, "*faces f width"]) -> Float[Tensor, "*faces"]:
    """Least level in m at which one water covers the lowest heights of both cells.

    Args:
        pairs: heights of two cells of f x f fine ones side by side, m.
    """
    f = pairs.shape[-2]
    flat = pairs.reshape(-1, f, 2 * f)
    each = torch.arange(len(flat))
    start, end = (side.flatten(1).argmin(-1) for side in (flat[..., :f], flat[..., f:]))
    level = torch.full_like(flat, torch.inf)
    level[each, start // f, start % f] = flat[each, start // f, start % f]
    while True:
        wide = pad(level, (1, 1, 1, 1), value=torch.inf)
        beside = torch.minimum(wide[:, 1:-1, :-2], wide[:, 1:-1, 2:])
        around = torch.minimum(beside, torch.minimum(wide[:, :-2, 1:-1], wide[:, 2:, 1:-1]))
        lower = torch.minimum(level, torch.maximum(flat, around))
        if torch.equal(lower, level):
            return level[each, end // f, f + end % f].reshape(pairs.shape[:-2])
        level = lower


def conveyance_lost(level: Tensor, middle: Float[Tensor, "*faces f f"]) -> Tensor:
    """log(K of the paths / K of the fine heights) at a level, -0.5 to 4.

    Args:
        level: m [*faces].
        middle: heights from the centre of one cell to that of the other, m.
    """
    f = middle.shape[-1]
    paths = paths_between(middle[..., : f // 2], middle[..., f // 2 :])
    by_paths = ((level[..., None] - paths).clamp(min=LEAST_DEPTH_M) ** (5 / 3)).mean(-1)
    return torch.log(by_paths / conveyance(level, middle)).clamp(-0.5, 4)


def conveyance(level: Tensor, middle: Float[Tensor, "*faces f f"]) -> Float[Tensor, "*faces"]:
    """Mean conveyance in m^(5/3) from left to right through fine heights; depth^(5/3) if level.

    Each link between fine neighbours conveys its flow depth^(5/3) times the fall of the head, which
    is 1 in the first column and 0 in the last; elsewhere what comes in goes out.
    """
    f = middle.shape[-1]
    flat, w = middle.reshape(-1, f, f), level.reshape(-1, 1, 1)
    x = (w - torch.maximum(flat[..., 1:], flat[..., :-1])).clamp(min=LEAST_DEPTH_M) ** (5 / 3)
    y = (w - torch.maximum(flat[:, 1:], flat[:, :-1])).clamp(min=LEAST_DEPTH_M) ** (5 / 3)
    head = torch.zeros_like(flat)
    head[..., 0] = 1
    if f > 2:
        at = torch.arange(f * f).view(f, f)
        inner, first = at[:, 1:-1].flatten(), at[:, 0]
        matrix = _links(x, y)[:, inner]
        known = -matrix[:, :, first].sum(-1)
        head.view(len(flat), -1)[:, inner] = torch.linalg.solve(matrix[:, :, inner], known)
    flux = (x[..., 0] * (head[..., 0] - head[..., 1])).sum(-1)
    return (flux * (f - 1) / f).reshape(level.shape)


def _links(x: Float[Tensor, "n f g"], y: Float[Tensor, "n g f"]) -> Float[Tensor, "n ff ff"]:
    """Matrix of the net outflow of fine cells by their heads, from the links' conveyances."""
    n, f = len(x), x.shape[1]
    at = torch.arange(f * f).view(f, f)
    matrix = x.new_zeros(n, f * f, f * f)
    for links, i, j in ((x, at[:, :-1], at[:, 1:]), (y, at[:-1], at[1:])):
        values, i, j = links.flatten(1), i.flatten(), j.flatten()
        matrix[:, i, j] -= values
        matrix[:, j, i] -= values
        for end in (i, j):
            matrix.diagonal(dim1=1, dim2=2).index_add_(1, end, values)
    return matrix
