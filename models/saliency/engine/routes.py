"""The route of a batch of regions through a net: which boxes to compute from which values.

A route depends on the plan and the regions only, so it serves every image.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from models.saliency.engine.boxes import Boxes, Regions
from models.saliency.engine.conv import POINT_WINDOW
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.engine.step import PlanStep


class Gather(NamedTuple):
    """Index arrays that assemble patches of a map from base activations and from boxes.

    Attributes:
        rows: for each pixel of the patches, its row in the base activations.
        into: pixels of the patches that boxes overwrite.
        taken: pixels of the boxes that are written there, None for all in order.
        shape: number, height and width of the patches.
    """

    rows: Int64[Tensor, "pixels"]
    into: Int64[Tensor, "changed"]
    taken: Int64[Tensor, "changed"] | None
    shape: tuple[int, int, int]


class RoutedStep(NamedTuple):
    """One step for a batch of regions.

    Attributes:
        step: of the plan.
        gathers: for each input how it is assembled, None to use it as it is.
        local: whether the step computes boxes; otherwise it computes whole maps.
        drops: values that no later step needs.
    """

    step: PlanStep
    gathers: tuple[Gather | None, ...]
    local: bool
    drops: list[str]


class Route(NamedTuple):
    """All steps for a batch of regions.

    Attributes:
        first: for each pixel of the boxes in the image, its row among the pixels of the image
            followed by those of the baseline.
        shape: number, height and width of these boxes.
        work: the steps in order.
    """

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
    """The route of some regions through the net.

    Args:
        plan: of the net.
        regions: all regions.
        index: which of them form the batch.
        cut: fraction of a map above which whole maps are computed.
        device: of the index arrays.
    """
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
    """The affected boxes of a step's result; None if the step needs whole maps."""
    if step.local is None or any(name in whole for name in step.inputs):
        return None
    _, height, width = plan.shapes[step.name]
    result = boxes[step.inputs[0]].propagate(step.window, height, width)
    for name in step.inputs[1:]:
        result = result.join(boxes[name])
    return result


def _first(masks: Bool[Tensor, "n h w"], boxes: Boxes) -> tuple[Tensor, tuple[int, int, int]]:
    """``first`` and ``shape`` of a route, from the masks of its regions."""
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
    """How an input of a step is assembled; None if its boxes can be used as they are."""
    if name in whole or name not in boxes:
        return None
    held = boxes[name]
    if result is None:  # the whole map
        zeros = np.zeros_like(held.rows.low)
        return gather(held, zeros, zeros, held.rows.length, held.columns.length, 0, device)
    geometry = step.window if position == 0 and step.window else POINT_WINDOW
    (kh, kw), (sh, sw), (pt, pl), fill = geometry
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
    """Patches of a map: base activations, overwritten by boxes where both overlap.

    Args:
        held: boxes of the map that have been computed.
        top: first row of each patch; may lie outside the map.
        left: first column of each patch; likewise.
        height: of the patches.
        width: of the patches.
        fill: row after the pixels that serves outside the map: 0 for zeros, 1 for -inf.
        device: of the index arrays.
    """
    n, (h, w) = len(top), (held.rows.length, held.columns.length)
    rows, columns = top[:, None] + np.arange(height), left[:, None] + np.arange(width)
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    source = np.where(inside, rows[:, :, None] * w + columns[:, None, :], h * w + fill)
    bh, bw = held.rows.size, held.columns.size
    down = held.rows.start[:, None] + np.arange(bh) - top[:, None]  # row within the patch
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
