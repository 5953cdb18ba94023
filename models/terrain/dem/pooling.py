"""Baselines: ways to coarsen a terrain without training."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from models.terrain.spec.terrains import HeightMethod

BILATERAL_COLOUR_M, BILATERAL_SPACE = 2.0, 50.0  # of the authors' "edge preserving" baseline
CHANNEL_CELLS = 24  # upstream area, in coarse cells, from which a flow path counts as a channel
RIDGE_M = 0.2  # a line this much above both sides counts as a crest
NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]

Fine = Float[Tensor, "ny nx"]
Coarse = Float[Tensor, "nyc nxc"]


def pad_to_multiple(z: Fine, factor: int) -> Coarse:
    """Pad rows and columns to multiples of ``factor`` by repeating the last ones."""
    ny, nx = z.shape
    return pad(z[None], (0, -nx % factor, 0, -ny % factor), mode="replicate")[0]


def mean(z: Fine, factor: int) -> Coarse:
    """Mean of the fine cells; conserves the volume of ground."""
    return avg_pool2d(z[None], factor)[0]


def highest(z: Fine, factor: int) -> Coarse:
    """Highest fine cell: levees stay, channels vanish."""
    return max_pool2d(z[None], factor)[0]


def lowest(z: Fine, factor: int) -> Coarse:
    """Lowest fine cell: channels stay, levees vanish."""
    return -highest(-z, factor)


def bilinear(z: Fine, factor: int) -> Coarse:
    """Interpolated at the centre of a coarse cell: the mean of its four middle cells."""
    return interpolate(z[None, None], scale_factor=1 / factor, mode="bilinear")[0, 0]


def bilateral(z: Fine, factor: int) -> Coarse:
    """Edge-preserving 3 x 3 bilateral filter, then mean pooling."""
    wide = pad(z[None], (1, 1, 1, 1), mode="replicate")[0]
    total, weights = torch.zeros_like(z), torch.zeros_like(z)
    for i in range(3):
        for j in range(3):
            other = wide[i : i + z.shape[0], j : j + z.shape[1]]
            away = (i - 1) ** 2 + (j - 1) ** 2
            near = -away / (2 * BILATERAL_SPACE**2)
            weight = torch.exp(near - ((other - z) / BILATERAL_COLOUR_M) ** 2 / 2)
            total, weights = total + weight * other, weights + weight
    return mean(total / weights, factor)


def channel(z: Fine, factor: int) -> Coarse:
    """Mean pooling with flow paths burnt in at their minimum and crests kept at their maximum."""
    flow = d8_accumulation(z.double().numpy())
    paths = torch.from_numpy(flow >= CHANNEL_CELLS * factor * factor)
    has_path = max_pool2d(paths[None].float(), factor)[0] > 0
    bed = -max_pool2d(torch.where(paths, -z, -torch.inf)[None], factor)[0]
    line = crests(z)
    enough = avg_pool2d(line[None].float(), factor)[0] >= 0.5 / factor
    top = max_pool2d(torch.where(line, z, -torch.inf)[None], factor)[0]
    return torch.where(has_path, bed, torch.where(enough, top, mean(z, factor)))


def crests(z: Fine) -> Bool[Tensor, "ny nx"]:
    """Crest cells [ny, nx]: higher than both cells two cells away, along rows or columns."""
    wide = pad(z[None], (2, 2, 2, 2), mode="replicate")[0]
    ny, nx = z.shape
    north, south = wide[:ny, 2 : nx + 2], wide[4:, 2 : nx + 2]
    west, east = wide[2 : ny + 2, :nx], wide[2 : ny + 2, 4:]
    return (z - torch.minimum(torch.maximum(north, south), torch.maximum(west, east))) > RIDGE_M


def d8_accumulation(z: Float[np.ndarray, "ny nx"]) -> Float[np.ndarray, "ny nx"]:
    """D8 flow accumulation: cells upstream of each cell along steepest descent, itself included."""
    ny, nx = z.shape
    high = np.full((ny + 2, nx + 2), np.inf)
    high[1:-1, 1:-1] = z
    falls = [
        (z - high[1 + i : ny + 1 + i, 1 + j : nx + 1 + j]) / np.hypot(i, j) for i, j in NEIGHBOURS
    ]
    steepest = np.argmax(falls, 0)
    downhill = np.max(falls, 0) > 0
    steps = np.array([i * nx + j for i, j in NEIGHBOURS])
    target = np.where(downhill, np.arange(ny * nx).reshape(ny, nx) + steps[steepest], -1).ravel()
    area = np.ones(ny * nx)
    for cell in np.argsort(-z, axis=None, kind="stable"):
        if target[cell] >= 0:
            area[target[cell]] += area[cell]
    return area.reshape(ny, nx)


BASELINES: dict[HeightMethod, Callable[[Tensor, int], Tensor]] = {
    "mean": mean,
    "max": highest,
    "min": lowest,
    "bilinear": bilinear,
    "bilateral": bilateral,
    "channel": channel,
}
