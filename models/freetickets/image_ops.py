"""Filters, warps and random fields over batches of images, of which corruptions are made."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Pixels = Float[Tensor, "n h w c"]


def _planes(x: Pixels) -> Tensor:
    return x.permute(0, 3, 1, 2)  # [n, c, h, w]


def filtered(x: Pixels, kernel: Float[Tensor, "k1 k2"]) -> Pixels:
    """Correlation of every channel with a kernel of odd sides; borders are continued."""
    (k1, k2), channels = kernel.shape, x.shape[3]
    y = functional.pad(_planes(x), (k2 // 2, k2 // 2, k1 // 2, k1 // 2), mode="replicate")
    weight = kernel.expand(channels, 1, k1, k2)
    return functional.conv2d(y, weight, groups=channels).permute(0, 2, 3, 1)


def blurred(x: Pixels, sigma: float) -> Pixels:
    """Gaussian blur, cut at four deviations; deviations in pixels."""
    reach = int(4 * sigma + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line /= line.sum()
    return filtered(filtered(x, line[None]), line[:, None])


def moved(
    x: Pixels, radius: int, sigma: float, degrees: tuple[float, float], numbers: torch.Generator
) -> Pixels:
    """Motion blur: a half Gaussian along a direction of each image's own.

    Args:
        x: images.
        radius: 2 radius + 1 positions are summed.
        sigma: deviation along the line, pixels.
        degrees: range of the directions.
        numbers: directions come from here.
    """
    n, h, w, _ = x.shape
    low, high = degrees
    angle = (low + (high - low) * torch.rand(n, generator=numbers)) * math.pi / 180
    weights = torch.exp(-0.5 * (torch.arange(2 * radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    every, total = torch.arange(n)[:, None, None], torch.zeros_like(x)
    for offset, weight in enumerate(weights):
        down = (offset * angle.sin()).round().long()[:, None]
        across = (offset * angle.cos()).round().long()[:, None]
        rows = (torch.arange(h) + down).clamp(0, h - 1)
        columns = (torch.arange(w) + across).clamp(0, w - 1)
        total += weight * x[every, rows[:, :, None], columns[:, None]]
    return total


def magnified(x: Pixels, factor: float) -> Pixels:
    """The middle of the images, bilinear, at their old size."""
    h, w = x.shape[1:3]
    inside = [math.ceil(side / factor) for side in (h, w)]
    top, left = ((side - part) // 2 for side, part in zip((h, w), inside, strict=True))
    part = _planes(x)[:, :, top : top + inside[0], left : left + inside[1]]
    size = [max(side, round(p * factor)) for side, p in zip((h, w), inside, strict=True)]
    y = functional.interpolate(part, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return y[:, :, top : top + h, left : left + w].permute(0, 2, 3, 1)


def plasma(
    n: int, side: int, decay: float, numbers: torch.Generator
) -> Float[Tensor, "n side side"]:
    """Clouds on 0..1 by the diamond-square algorithm on a torus.

    Args:
        n: fields.
        side: a power of two.
        decay: of the random part from a scale to the one half as large.
        numbers: the random part comes from here.
    """
    field, step, wibble = torch.zeros(n, side, side), side, 100.0

    def mean(total: Tensor) -> Tensor:
        draw = 2 * torch.rand(total.shape, generator=numbers) - 1
        return total / 4 + wibble * wibble * draw

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = mean(pairs + pairs.roll(-1, 2))
        middles = field[:, half::step, half::step]
        above = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        field[:, ::step, half::step] = mean(above)
        beside = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        field[:, half::step, ::step] = mean(beside)
        step, wibble = half, wibble / decay
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True).clamp(min=1e-12)


def sheared(x: Pixels, corner: float, numbers: torch.Generator) -> Pixels:
    """An affine map that moves three points around the middle by up to ``corner`` pixels each."""
    n, h, w, _ = x.shape
    size = min(h, w) // 3
    middle = torch.tensor([w // 2, h // 2]).float()
    points = middle + size * torch.tensor([[1.0, 1], [1, -1], [-1, -1]])
    away = corner * (2 * torch.rand(n, 3, 2, generator=numbers) - 1)
    ones = torch.ones(n, 3, 1)
    # where the image's point lands, solved for where each position comes from
    back = torch.linalg.solve(torch.cat([points + away, ones], 2), points.expand(n, -1, -1))
    y, x_ = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    positions = torch.stack([x_, y, torch.ones_like(y)], 2)  # [h, w, 3]
    return _sampled(x, torch.einsum("hwk,nkd->nhwd", positions, back))


def displaced(x: Pixels, amount: float, smooth: float, numbers: torch.Generator) -> Pixels:
    """Displacements drawn from -1..1 pixels, smoothed over ``smooth``, times ``amount``.

    Args:
        x: images.
        amount: factor on the smoothed displacements; 0 changes nothing.
        smooth: deviation of the Gaussian that smooths them, pixels.
        numbers: displacements come from here.
    """
    if amount == 0:
        return x
    n, h, w, _ = x.shape
    shift = blurred(2 * torch.rand(n, h, w, 2, generator=numbers) - 1, smooth) * amount
    y, x_ = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    return _sampled(x, torch.stack([x_, y], 2) + shift)


def _sampled(x: Pixels, positions: Float[Tensor, "n h w 2"]) -> Pixels:
    """Bilinear values at (column, row) positions; the images are mirrored at their borders."""
    h, w = x.shape[1:3]
    grid = 2 * positions / torch.tensor([max(1, w - 1), max(1, h - 1)]) - 1
    mode = {"mode": "bilinear", "padding_mode": "reflection", "align_corners": True}
    return functional.grid_sample(_planes(x), grid, **mode).permute(0, 2, 3, 1)
