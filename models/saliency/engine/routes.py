"""The way of a group of changed regions through a net: which boxes, gathered from where.

Depends on the plan and the regions alone, so that it serves every image.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from models.saliency.engine.boxes import Boxes, Regions
from models.saliency.engine.conv import POINT
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.engine.step import PlanStep


class Gather(NamedTuple):
    """How regions of a map are put together from the image's own values and from boxes.

    Attributes:
        rows: for each pixel of the regions, its row in the image's values.
        into: pixels of the regions that a box overwrites.
        taken: the boxes' pixels that go there, None for all in order.
        shape: count, height and width of the regions.
    """

    rows: Int64[Tensor, "pixels"]
    into: Int64[Tensor, "changed"]
    taken: Int64[Tensor, "changed"] | None
    shape: tuple[int, int, int]


class RoutedStep(NamedTuple):
    """One step on a batch of positions: by boxes where ``local``, else on whole maps."""

    step: PlanStep
    gathers: tuple[Gather | None, ...]
    local: bool
    drops: list[str]


class Route(NamedTuple):
    """All work for a group of positions; depends on the plan and the masks alone."""

    first: Int64[Tensor, "pixels"]
    shape: tuple[int, int, int]
    work: list[RoutedStep]


def find_route(
    plan: ExecutionPlan,
    regions: Regions,
    index: Int64[np.ndarray, "n"],
    cut: float,
    device: torch.device,
) -> Route:
    """The way of the regions with these indices through the net."""
    boxes = {plan.image: regions.boxes.at(index)}
    chosen = regions.masks(torch.from_numpy(index).to(device))
    first, shape = _first(chosen, boxes[plan.image])
    whole: set[str] = set()
    work = []
    for step in plan.steps:
        result = _result_boxes(step, boxes, whole, plan)
        local = result is not None and result.share <= cut
        gathers = tuple(
            _gather(name, position, boxes, whole, result if local else None, step, device)
            for position, name in enumerate(step.inputs)
        )
        if local and result is not None:
            boxes[step.name] = result
        else:
            whole.add(step.name)
        work.append(RoutedStep(step, gathers, local, plan.last_use[step.name]))
    return Route(first, shape, work)


def _result_boxes(
    step: PlanStep, boxes: dict[str, Boxes], whole: set[str], plan: ExecutionPlan
) -> Boxes | None:
    """The boxes of a step's result, None where it needs whole maps."""
    if step.local is None or any(name in whole for name in step.inputs):
        return None
    _, height, width = plan.shapes[step.name]
    result = boxes[step.inputs[0]].propagate(step.window, height, width)
    for name in step.inputs[1:]:
        result = result.join(boxes[name])
    return result


def _first(masks: Bool[Tensor, "n h w"], boxes: Boxes) -> tuple[Tensor, tuple[int, int, int]]:
    """Rows of the image's boxes in the table of its pixels followed by the baseline's."""
    n, h, w = masks.shape
    grid = _pixels(boxes.rows.start, boxes.columns.start, boxes.rows.size, boxes.columns.size, w)
    pixels = torch.from_numpy(grid.reshape(n, -1)).to(masks.device)
    changed = masks.flatten(1).gather(1, pixels)
    shape = (n, boxes.rows.size, boxes.columns.size)
    return (pixels + changed * (h * w)).flatten(), shape


def _pixels(
    top: np.ndarray, left: np.ndarray, height: int, width: int, stride: int
) -> Int64[np.ndarray, "n height width"]:
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return rows[:, :, None] * stride + columns[:, None, :]


def _gather(
    name: str,
    position: int,
    boxes: dict[str, Boxes],
    whole: set[str],
    result: Boxes | None,
    step: PlanStep,
    device: torch.device,
) -> Gather | None:
    """What an input needs beside its boxes; None if it can be used as it is."""
    if name in whole or name not in boxes:
        return None
    held = boxes[name]
    if result is None:  # the whole map
        zeros = np.zeros_like(held.rows.low)
        return gather(held, zeros, zeros, held.rows.length, held.columns.length, 0, device)
    over = step.window if position == 0 and step.window else POINT
    (kh, kw), (sh, sw), (pt, pl), fill = over
    top, left = result.rows.start * sh - pt, result.columns.start * sw - pl
    height, width = (result.rows.size - 1) * sh + kh, (result.columns.size - 1) * sw + kw
    same = (held.rows.size, held.columns.size) == (height, width)
    if same and (top == held.rows.start).all() and (left == held.columns.start).all():
        return None
    return gather(held, top, left, height, width, int(fill != 0), device)


def gather(
    held: Boxes,
    top: np.ndarray,
    left: np.ndarray,
    height: int,
    width: int,
    fill: int,
    device: torch.device,
) -> Gather:
    """Regions from ``top`` and ``left``: the image's values, overwritten by the boxes held."""
    n, (h, w) = len(top), (held.rows.length, held.columns.length)
    rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    source = np.where(inside, rows[:, :, None] * w + columns[:, None, :], h * w + fill)
    bh, bw = held.rows.size, held.columns.size
    down = held.rows.start[:, None] + np.arange(bh) - top[:, None]  # in the region
    right = held.columns.start[:, None] + np.arange(bw) - left[:, None]
    fits = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None]
    into = (np.arange(n)[:, None] * height + down)[:, :, None] * width + right[:, None, :]
    taken = None if fits.all() else torch.from_numpy(np.flatnonzero(fits)).to(device)
    return Gather(
        torch.from_numpy(source.ravel()).to(device),
        torch.from_numpy(into[fits]).to(device),
        taken,
        (n, height, width),
    )
