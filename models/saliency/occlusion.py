"""Occlusion: a window slid over the image (Zeiler and Fergus 2014).

Windows are products of an interval of rows and one of columns, so that both painting them and
spreading their values back over the pixels are separable.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.saliency.parts import Occlusion, OcclusionRaw, pair, positions
from models.saliency.scores import Score


class Windows(NamedTuple):
    """Which rows and columns of the image each position covers."""

    rows: Bool[Tensor, "n_h h"]
    columns: Bool[Tensor, "n_w w"]


def windows(
    part: Occlusion | OcclusionRaw, height: int, width: int, device: torch.device
) -> Windows:
    """Positions from the upper left; along each axis the last window may be cut at the edge."""
    (wh, ww), (sh, sw) = pair(part.window), pair(part.stride)
    return Windows(_intervals(height, wh, sh, device), _intervals(width, ww, sw, device))


def _intervals(length: int, window: int, stride: int, device: torch.device) -> Tensor:
    start = stride * torch.arange(positions(length, window, stride), device=device)[:, None]
    pixel = torch.arange(length, device=device)
    return (pixel >= start) & (pixel < start + window)


def drops(
    x: Float[Tensor, "c h w"],
    b: Float[Tensor, "c h w"],
    score: Score,
    full: Float[Tensor, "k"],
    over: Windows,
    chunk: int,
) -> Float[Tensor, "k n_h n_w"]:
    """Fall of each score under each window, ``f(x) - f(x with the window = b)``.

    Args:
        x: the image as the net sees it.
        b: the baseline, likewise.
        score: scores of k classes for a batch of images.
        full: ``f(x)``.
        over: the windows.
        chunk: images a forward pass; no more are held at a time.
    """
    n_h, n_w = len(over.rows), len(over.columns)
    found = []
    for index in torch.arange(n_h * n_w, device=x.device).split(chunk):
        covered = over.rows[index // n_w][:, :, None] & over.columns[index % n_w][:, None, :]
        found.append(full - score(torch.where(covered[:, None], b, x)))
    return torch.cat(found).T.unflatten(1, (n_h, n_w))


def spread(values: Float[Tensor, "k n_h n_w"], over: Windows) -> Float[Tensor, "k h w"]:
    """Mean over the windows that cover each pixel."""
    rows, columns = over.rows.to(values.dtype), over.columns.to(values.dtype)
    total = rows.T @ values @ columns  # [h, n_h] [k, n_h, n_w] [n_w, w]
    return total / torch.outer(rows.sum(0), columns.sum(0))
