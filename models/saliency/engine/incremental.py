"""Outputs for many local changes of one image, recomputing only the values each change affects.

The idea is Krypton's (Nakandala, Kumar, Papakonstantinou, SIGMOD 2019), here for any plan. The
activations of the unperturbed image are computed once. Each change is then propagated as a box of
every map, for all positions of a batch at once, and values around a box are gathered from those
base activations. Where a box would cover more than ``cut`` of its map, or an operation needs whole
maps, boxes are pasted into copies of the base activations and the net continues on whole maps.
Exact in real arithmetic.
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

CUT = 0.75  # box size, as a fraction of a map, above which computing the whole map is as fast
KEPT = 1024  # up to this many regions, routes are kept for the next image


Filled = Callable[[Tensor], Tensor]  # from masks [n, h, w] to images [n, c, h, w], filled there


class BaseActivations:
    """Activations of the unperturbed image.

    Args:
        plan: of the net.
        x: the image.
    """

    def __init__(self, plan: ExecutionPlan, x: Float[Tensor, "c h w"]) -> None:
        self.plan = plan
        self.values = plan.values(x[None])
        self._rows: dict[str, Tensor] = {}

    def rows(self, name: str) -> Float[Tensor, "pixels c"]:
        """A map as one row per pixel, followed by a row of 0 and a row of -inf for padding."""
        if name not in self._rows:
            rows = _as_rows(self.values[name])
            outside = [rows.new_full((1, rows.shape[1]), fill) for fill in (0.0, -torch.inf)]
            self._rows[name] = torch.cat([rows, *outside])
        return self._rows[name]


class Changes:
    """Regions of an image to replace, with the route of each batch of them through the net.

    Args:
        plan: of the net.
        regions: the pixels to replace.
        size: regions per batch.
        cut: fraction of a map above which whole maps are computed.
    """

    def __init__(self, plan: ExecutionPlan, regions: Regions, size: int, cut: float = CUT) -> None:
        self.plan, self.regions, self.cut = plan, regions, cut
        self.groups = groups(regions.boxes, size)
        self._routes: dict[int, Route] = {}

    def outputs(
        self, base: BaseActivations, b: Tensor | Filled
    ) -> Iterator[tuple[Int64[np.ndarray, "n"], Float[Tensor, "n classes"]]]:
        """Indices of regions, and the net's outputs with their pixels from ``b``, by batch.

        Args:
            base: activations of the unperturbed image.
            b: the baseline image [c, h, w], or a function that fills regions.
        """
        first = self._first_pixels(base.rows(self.plan.image)[:-2], b)
        device = base.rows(self.plan.image).device
        for name in self.plan.shapes.keys() & base.values.keys():
            base.rows(name)  # cached here, because the threads below share the cache

        def work(index: int) -> Tensor:
            route = self._route(index, device)
            return run_route(route, self.plan, base, first(index, route))

        outputs_by_group = each(work, range(len(self.groups)), device.type)
        yield from zip(self.groups, outputs_by_group, strict=True)

    def _first_pixels(
        self, own: Float[Tensor, "pixels c"], b: Tensor | Filled
    ) -> Callable[[int, Route], Tensor]:
        """A function that gives the pixels of a batch's boxes, from ``own``, the image's pixels."""
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
        """The route of a batch, cached where there are few regions."""
        if index in self._routes:
            return self._routes[index]
        route = find_route(self.plan, self.regions, self.groups[index], self.cut, device)
        if self.regions.number <= KEPT:
            self._routes[index] = route
        return route


def in_order(
    parts: list[tuple[Int64[np.ndarray, "_"], Float[Tensor, "_ classes"]]],
) -> Float[Tensor, "n classes"]:
    """The outputs of all batches in the order of their regions."""
    order = np.argsort(np.concatenate([index for index, _ in parts]))
    out = torch.cat([outputs for _, outputs in parts])
    return out[torch.from_numpy(order).to(out.device)]


def run_route(
    route: Route, plan: ExecutionPlan, base: BaseActivations, first: Float[Tensor, "pixels c"]
) -> Float[Tensor, "n classes"]:
    """Propagate one batch of changes through the net.

    Args:
        route: of the batch.
        plan: of the net.
        base: activations of the unperturbed image.
        first: pixels of the boxes in the image.
    """
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
    """The pixels of the boxes, each from the image of its position."""
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
