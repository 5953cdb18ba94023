"""Outputs for many local changes of one image, by recomputing only what each change reaches.

The idea is Krypton's (Nakandala, Kumar, Papakonstantinou, SIGMOD 2019), here for any plan: all
values of the image are computed once; a change is carried through the net as a box of each map,
all positions of a batch at once. Where a box needs its surroundings they are gathered from the
image's own values. Where a box would cover more than ``cut`` of its map, or at an operation that
needs whole maps, boxes are pasted into copies of the map and the net goes on as usual. Exact in
real arithmetic.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.saliency.engine.boxes import Regions, groups
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.engine.routes import Gather, Route, find_route
from models.saliency.engine.threads import each

CUT = 0.75  # share of a map from which on the whole map is as fast
KEPT = 1024  # regions whose ways are kept for the next image


Filled = Callable[[Tensor], Tensor]  # from regions [n, h, w] to images with them filled


class BaseActivations:
    """The image's own values; maps as rows of channels, then a row of 0 and one of -inf."""

    def __init__(self, plan: ExecutionPlan, x: Float[Tensor, "c h w"]) -> None:
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

    def __init__(self, plan: ExecutionPlan, regions: Regions, size: int, cut: float = CUT) -> None:
        self.plan, self.regions, self.cut = plan, regions, cut
        self.groups = groups(regions.boxes, size)
        self._routes: dict[int, Route] = {}

    def outputs(
        self, base: BaseActivations, b: Tensor | Filled
    ) -> Iterator[tuple[Int64[np.ndarray, "n"], Float[Tensor, "n classes"]]]:
        """The net's outputs with each region's pixels taken from ``b``, group by group."""
        first = self._first_pixels(base.rows(self.plan.image)[:-2], b)
        device = base.rows(self.plan.image).device
        for name in self.plan.shapes.keys() & base.values.keys():
            base.rows(name)  # before the threads ask for them

        def work(index: int) -> Tensor:
            route = self._route(index, device)
            return run_route(route, self.plan, base, first(index, route))

        outputs_by_group = each(work, range(len(self.groups)), device.type)
        yield from zip(self.groups, outputs_by_group, strict=True)

    def _first_pixels(
        self, own: Float[Tensor, "pixels c"], b: Tensor | Filled
    ) -> Callable[[int, Route], Tensor]:
        """What the boxes of a group hold of the image, given the image's own pixels."""
        if not isinstance(b, Tensor):
            return lambda index, route: _filled(
                b(self._removed(index, own.device)), route, len(own)
            )
        rows = torch.cat([own, _as_rows(b[None])])

        def taken(_: int, route: Route) -> Tensor:
            return rows.index_select(0, route.first)

        return taken

    def _removed(self, index: int, device: torch.device) -> Bool[Tensor, "n h w"]:
        return self.regions.masks(torch.from_numpy(self.groups[index]).to(device))

    def _route(self, index: int, device: torch.device) -> Route:
        """The way of a group, kept where there are few enough for it to fit."""
        if index in self._routes:
            return self._routes[index]
        found = find_route(self.plan, self.regions, self.groups[index], self.cut, device)
        if self.regions.number <= KEPT:
            self._routes[index] = found
        return found


def in_order(
    parts: list[tuple[Int64[np.ndarray, "_"], Float[Tensor, "_ classes"]]],
) -> Float[Tensor, "n classes"]:
    """Outputs in the order of their regions."""
    order = np.argsort(np.concatenate([index for index, _ in parts]))
    out = torch.cat([outputs for _, outputs in parts])
    return out[torch.from_numpy(order).to(out.device)]


def run_route(
    route: Route, plan: ExecutionPlan, base: BaseActivations, first: Float[Tensor, "pixels c"]
) -> Float[Tensor, "n classes"]:
    """Carry one group of changes through the net, from the pixels of its boxes."""
    values: dict[str, Any] = {plan.image: _as_maps(first, route.shape)}
    for step, gathers, local, drops in route.work:
        inputs = [
            _collect(gather, base, name, values)
            for name, gather in zip(step.inputs, gathers, strict=True)
        ]
        call: Callable[..., Any] = step.local if local and step.local else step.call
        values[step.name] = call(*inputs)
        for name in drops:
            values.pop(name, None)
    return values[plan.output]


def _filled(images: Float[Tensor, "n c h w"], route: Route, pixels: int) -> Tensor:
    """The pixels of the boxes, each from the image of its own position."""
    n = len(images)
    rows = (route.first % pixels).view(n, -1) + pixels * torch.arange(n, device=images.device)[
        :, None
    ]
    return _as_rows(images).index_select(0, rows.flatten())


def _collect(
    gather: Gather | None, base: BaseActivations, name: str, values: dict[str, Any]
) -> Any:
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
