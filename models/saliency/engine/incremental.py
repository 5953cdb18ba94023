"""Outputs for many local changes of one image, by recomputing only what each change reaches.

The idea is Krypton's (Nakandala, Kumar, Papakonstantinou, SIGMOD 2019), here for any plan: all
values of the image are computed once; a change is carried through the net as a box of each map,
all positions of a batch at once. Where a box needs its surroundings they are gathered from the
image's own values. Where a box would cover more than ``cut`` of its map, or at an operation that
needs whole maps, boxes are pasted into copies of the map and the net goes on as usual. Exact in
real arithmetic.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.saliency.engine.boxes import Reaches, Regions, groups
from models.saliency.engine.conv import POINT
from models.saliency.engine.plan import Plan
from models.saliency.engine.step import Step
from models.saliency.engine.threads import each

CUT = 0.75  # share of a map from which on the whole map is as fast
KEPT = 1024  # regions whose ways are kept for the next image


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


class Work(NamedTuple):
    """One step on a batch of positions: by boxes where ``local``, else on whole maps."""

    step: Step
    gathers: tuple[Gather | None, ...]
    local: bool
    drops: list[str]


class Route(NamedTuple):
    """All work for a group of positions; depends on the plan and the masks alone."""

    first: Int64[Tensor, "pixels"]
    shape: tuple[int, int, int]
    work: list[Work]


class Base:
    """The image's own values; maps as rows of channels, then a row of 0 and one of -inf."""

    def __init__(self, plan: Plan, x: Float[Tensor, "c h w"]) -> None:
        self.plan = plan
        self.values = plan.values(x[None])
        self._rows: dict[str, Tensor] = {}

    def rows(self, name: str) -> Float[Tensor, "pixels c"]:
        """A map as rows."""
        if name not in self._rows:
            rows = _as_rows(self.values[name])
            outside = [rows.new_full((1, rows.shape[1]), fill) for fill in (0.0, -torch.inf)]
            self._rows[name] = torch.cat([rows, *outside])
        return self._rows[name]


class Changes:
    """Regions of an image, with the way of each group of them through the net.

    Args:
        plan: of the net.
        regions: where pixels change.
        size: regions at once.
        cut: share of a map from which on whole maps are computed.
    """

    def __init__(self, plan: Plan, regions: Regions, size: int, cut: float = CUT) -> None:
        self.plan, self.regions, self.cut = plan, regions, cut
        self.groups = groups(regions.boxes, size)
        self._routes: dict[int, Route] = {}

    def outputs(
        self, base: Base, b: Float[Tensor, "c h w"]
    ) -> Iterator[tuple[Int64[np.ndarray, "n"], Float[Tensor, "n classes"]]]:
        """The net's outputs with each region's pixels taken from ``b``, group by group."""
        rows = torch.cat([base.rows(self.plan.image)[:-2], _as_rows(b[None])])
        for name in self.plan.shapes.keys() & base.values.keys():
            base.rows(name)  # before the threads ask for them

        def work(place: int) -> Tensor:
            return follow(self._route(place, b.device), self.plan, base, rows)

        found = each(work, range(len(self.groups)), b.device.type)
        yield from zip(self.groups, found, strict=True)

    def _route(self, place: int, device: torch.device) -> Route:
        """The way of a group, kept where there are few enough for it to fit."""
        if place in self._routes:
            return self._routes[place]
        found = route(self.plan, self.regions, self.groups[place], self.cut, device)
        if self.regions.number <= KEPT:
            self._routes[place] = found
        return found


def in_order(
    found: list[tuple[Int64[np.ndarray, "_"], Float[Tensor, "_ classes"]]],
) -> Float[Tensor, "n classes"]:
    """Outputs in the order of their regions."""
    order = np.argsort(np.concatenate([index for index, _ in found]))
    out = torch.cat([outputs for _, outputs in found])
    return out[torch.from_numpy(order).to(out.device)]


def follow(way: Route, plan: Plan, base: Base, rows: Tensor) -> Float[Tensor, "n classes"]:
    """Carry one group of changes through the net."""
    values: dict[str, Any] = {plan.image: _as_maps(rows.index_select(0, way.first), way.shape)}
    for step, gathers, local, drops in way.work:
        inputs = [
            _collect(gather, base, name, values)
            for name, gather in zip(step.inputs, gathers, strict=True)
        ]
        call: Callable[..., Any] = step.local if local and step.local else step.call
        values[step.name] = call(*inputs)
        for name in drops:
            values.pop(name, None)
    return values[plan.output]


def _collect(gather: Gather | None, base: Base, name: str, values: dict[str, Any]) -> Any:
    if gather is None:
        return values[name]
    regions = base.rows(name).index_select(0, gather.rows)
    boxes = _as_rows(values[name])
    if gather.taken is not None:
        boxes = boxes.index_select(0, gather.taken)
    return _as_maps(regions.index_copy_(0, gather.into, boxes), gather.shape)


def _as_rows(maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "pixels c"]:
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _as_maps(rows: Float[Tensor, "pixels c"], shape: tuple[int, int, int]) -> Tensor:
    return rows.view(*shape, -1).permute(0, 3, 1, 2)


# -- the way of a group ----------------------------------------------------------------------


def route(
    plan: Plan,
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
        reach = _reach(step, boxes, whole, plan)
        local = reach is not None and reach.share <= cut
        gathers = tuple(
            _gather(name, place, boxes, whole, reach if local else None, step, device)
            for place, name in enumerate(step.inputs)
        )
        if local and reach is not None:
            boxes[step.name] = reach
        else:
            whole.add(step.name)
        work.append(Work(step, gathers, local, plan.last_use[step.name]))
    return Route(first, shape, work)


def _reach(step: Step, boxes: dict[str, Reaches], whole: set[str], plan: Plan) -> Reaches | None:
    """The boxes of a step's result, None where it needs whole maps."""
    if step.local is None or any(name in whole for name in step.inputs):
        return None
    _, height, width = plan.shapes[step.name]
    found = boxes[step.inputs[0]].through(step.window, height, width)
    for name in step.inputs[1:]:
        found = found.join(boxes[name])
    return found


def _first(masks: Bool[Tensor, "n h w"], boxes: Reaches) -> tuple[Tensor, tuple[int, int, int]]:
    """Rows of the image's boxes in the table of its pixels followed by the baseline's."""
    n, h, w = masks.shape
    grid = _pixels(boxes.rows.start, boxes.columns.start, boxes.rows.size, boxes.columns.size, w)
    place = torch.from_numpy(grid.reshape(n, -1)).to(masks.device)
    changed = masks.flatten(1).gather(1, place)
    shape = (n, boxes.rows.size, boxes.columns.size)
    return (place + changed * (h * w)).flatten(), shape


def _pixels(
    top: np.ndarray, left: np.ndarray, height: int, width: int, stride: int
) -> Int64[np.ndarray, "n height width"]:
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    return rows[:, :, None] * stride + columns[:, None, :]


def _gather(
    name: str,
    place: int,
    boxes: dict[str, Reaches],
    whole: set[str],
    reach: Reaches | None,
    step: Step,
    device: torch.device,
) -> Gather | None:
    """What an input needs beside its boxes; None if it can be used as it is."""
    if name in whole or name not in boxes:
        return None
    held = boxes[name]
    if reach is None:  # the whole map
        zeros = np.zeros_like(held.rows.low)
        return gather(held, zeros, zeros, held.rows.length, held.columns.length, 0, device)
    over = step.window if place == 0 and step.window else POINT
    (kh, kw), (sh, sw), (pt, pl), fill = over
    top, left = reach.rows.start * sh - pt, reach.columns.start * sw - pl
    height, width = (reach.rows.size - 1) * sh + kh, (reach.columns.size - 1) * sw + kw
    same = (held.rows.size, held.columns.size) == (height, width)
    if same and (top == held.rows.start).all() and (left == held.columns.start).all():
        return None
    return gather(held, top, left, height, width, int(fill != 0), device)


def gather(
    held: Reaches,
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
