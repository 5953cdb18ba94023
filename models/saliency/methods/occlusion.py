"""Occlusion: a window slid over the image (Zeiler and Fergus 2014).

A window is the product of an interval of rows and one of columns, so applying the windows and
averaging their values over pixels are both separable.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.core.errors import SpecError
from models.saliency.engine.boxes import Boxes, Intervals, Regions, intervals_of
from models.saliency.methods.baselines import Replacement
from models.saliency.methods.case import Case
from models.saliency.net.scores import Fill
from models.saliency.spec.fields import pair
from models.saliency.spec.masks import Occlusion, OcclusionRaw, positions


class WindowMasks(NamedTuple):
    """Rows and columns of the image that each window position covers."""

    rows: Bool[Tensor, "n_h h"]
    columns: Bool[Tensor, "n_w w"]


def windows(
    part: Occlusion | OcclusionRaw, height: int, width: int, device: torch.device
) -> WindowMasks:
    """Window positions from the upper left; the last one along an axis may be cut at the edge.

    Args:
        part: window size and stride.
        height: of the image.
        width: of the image.
        device: of the masks.
    """
    (wh, ww), (sh, sw) = pair(part.window), pair(part.stride)
    return WindowMasks(_intervals(height, wh, sh, device), _intervals(width, ww, sw, device))


def _intervals(length: int, window: int, stride: int, device: torch.device) -> Tensor:
    start = stride * torch.arange(positions(length, window, stride), device=device)[:, None]
    pixel = torch.arange(length, device=device)
    return (pixel >= start) & (pixel < start + window)


def regions(over: WindowMasks) -> Regions:
    """The windows as regions in row-major order."""
    n_w = len(over.columns)

    def masks(index: Int64[Tensor, "m"]) -> Bool[Tensor, "m h w"]:
        return over.rows[index // n_w][:, :, None] & over.columns[index % n_w][:, None, :]

    down, right = intervals_of(over.rows), intervals_of(over.columns)
    rows = Intervals(down.low.repeat(n_w), down.high.repeat(n_w), down.length)
    count = len(over.rows)
    columns = Intervals(np.tile(right.low, count), np.tile(right.high, count), right.length)
    return Regions(Boxes(rows, columns), masks)


def score_drops(
    part: Occlusion | OcclusionRaw, case: Case, b: Replacement
) -> Float[Tensor, "k n_h n_w"]:
    """Score drop for each window, ``f(x) - f(x with the window = b)``, float64."""
    return _score_drops(part, windows(part, *case.x.shape[1:], case.x.device), case, b)


def _score_drops(
    part: Occlusion | OcclusionRaw, over: WindowMasks, case: Case, b: Replacement
) -> Float[Tensor, "k n_h n_w"]:
    key = ("windows", *pair(part.window), *pair(part.stride))
    replaced = b if part.channel is None else _in_channel(part.channel, case, b)
    differences = case.full - case.scores_with_replaced(key, lambda: regions(over), replaced)
    return differences.T.unflatten(1, (len(over.rows), len(over.columns)))


def _in_channel(channel: int, case: Case, b: Replacement) -> Tensor | Fill:
    """A baseline that replaces one channel and leaves the others as they are.

    Raises:
        SpecError: if the image has no such channel.
    """
    if channel >= len(case.x):
        raise SpecError(
            f"methods: channel {channel}; the net's input has channels 0 to {len(case.x) - 1}"
        )
    chosen = torch.arange(len(case.x), device=case.x.device)[:, None, None] == channel
    if isinstance(b, Tensor):
        return torch.where(chosen, b, case.x)
    return lambda removed, x: torch.where(chosen, b(removed, x), x)


def occlusion(part: Occlusion, case: Case, b: Replacement) -> Float[Tensor, "k h w"]:
    """Score drop at each pixel, averaged over the windows that cover it, float64."""
    over = windows(part, *case.x.shape[1:], case.x.device)
    return average_over_windows(_score_drops(part, over, case, b), over)


def average_over_windows(
    values: Float[Tensor, "k n_h n_w"], over: WindowMasks
) -> Float[Tensor, "k h w"]:
    """Mean of the values of the windows that cover each pixel."""
    rows, columns = over.rows.to(values.dtype), over.columns.to(values.dtype)
    total = rows.T @ values @ columns  # [h, n_h] [k, n_h, n_w] [n_w, w]
    return total / torch.outer(rows.sum(0), columns.sum(0))
