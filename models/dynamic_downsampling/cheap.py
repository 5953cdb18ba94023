"""What a cheap step is for a net: smaller images, and which of its filters are pooled and how."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.core.device import generator
from models.core.errors import SpecError
from models.dynamic_downsampling import cost
from models.dynamic_downsampling.cheap_mode import CheapMode, pooled
from models.dynamic_downsampling.fields import Downsample
from models.dynamic_downsampling.pooled_conv import GROW, HIGH, LOW, SHRINK, Extra, Pooling, gain_of
from models.nets.layers import ConvCall, Layer, layers_of

TIMINGS = 5  # of a layer in each form; the shortest counts


class CheapLayer(NamedTuple):
    """What cheap steps do with one convolution."""

    name: str
    kernel: int
    cheap_kernel: int
    reason: str


def shrink(
    images: Float[Tensor, "b c h w"], size: tuple[int, int], how: str, seed: int, step: int
) -> Float[Tensor, "b c h2 w2"]:
    """R(x): images at the size of a cheap step (README, section 2).

    Args:
        images: full, augmented.
        size: height and width of the result in pixels.
        how: ``area`` (the 2 x 2 mean at half size), ``bilinear_aa``, ``nearest`` or ``crop``.
        seed: of the job.
        step: from 0; with the seed it places the window of ``crop``.
    """
    h, w = images.shape[2:]
    if size == (h, w):
        return images
    if how == "crop":
        u = torch.rand(2, generator=generator(seed, "crop", step)).tolist()
        top, left = int(u[0] * (h - size[0] + 1)), int(u[1] * (w - size[1] + 1))
        return images[:, :, top : top + size[0], left : left + size[1]]
    if how == "bilinear_aa":
        return functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    return functional.interpolate(images, size=size, mode=how)


def plan_layers(
    net: nn.Module, down: Downsample, channels: int, size: tuple[int, int]
) -> tuple[dict[str, Pooling], list[CheapLayer]]:
    """Which filters cheap steps pool, by name of the parameter, and a line for each convolution.

    Args:
        net: any net.
        down: which layers, how pooled, how padded.
        channels: of its images.
        size: height and width of full images in pixels.

    Raises:
        SpecError: if the net does not take such images, or a pattern names no convolution.
    """
    convs = [x for x in layers_of(net, channels, size) if x.kind == "conv"]
    _check_patterns(convs, down)
    reasons = {conv.parameter: _why_not(conv, down) for conv in convs}
    chosen = [conv for conv in convs if reasons[conv.parameter] is None]
    sides = {x.parameter: cost.pooled_kernel(x.shape[-1], down.kernel_rule) for x in chosen}
    extras = _extras(chosen, sides, down.pad_policy)
    poolings = {
        x.parameter: Pooling(
            side := sides[x.parameter],
            down.kernel_pool,
            gain_of(down.kernel_gain, x.shape[-1], side),
            extras[x.parameter],
        )
        for x in chosen
    }
    rows = [
        CheapLayer(x.name, k := x.shape[-1], sides.get(x.parameter, k), reason or "pooled")
        for x, reason in zip(convs, reasons.values(), strict=True)
    ]
    return poolings, rows


def _check_patterns(convs: list[Layer], down: Downsample) -> None:
    large = [conv.name for conv in convs if conv.shape[-1] > 1]
    for pattern in [] if isinstance(down.kernel_layers, str) else down.kernel_layers:
        if not any(fnmatchcase(name, pattern) for name in large):
            raise SpecError(
                f"kernel_layers: {pattern!r} names no convolution of the net; its larger ones are"
                f" {', '.join(large) or 'none'}"[:1000],
                pointer="/downsample/kernel_layers",
            )


def _why_not(conv: Layer, down: Downsample) -> str | None:
    """Reason to leave a convolution as it is, or None."""
    kernel, stride, padding = conv.shape[2:], conv.stride, conv.padding
    reasons = {
        "kernel_pool is none": down.kernel_pool == "none",
        "padding given by name": padding is None,
        "not square": any(len(set(x)) > 1 for x in (kernel, stride, padding or ())),
        "1x1": kernel[0] == 1,
        "not larger than its stride": kernel[0] <= stride[0],
        "dilated": max(conv.dilation) > 1,
        "depthwise: few operations, bound by memory": conv.groups > 1 == conv.shape[1],
        "not named in kernel_layers": not cost.is_named(conv.name, down.kernel_layers),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _extras(convs: list[Layer], sides: dict[str, int], policy: str) -> dict[str, Extra]:
    """Where each pooled convolution puts its odd padded pixel, by name of the parameter.

    A stride-1 convolution moves the features by half a pixel; alternating sides, or a pair of
    which the first grows the map and the second shrinks it, brings them back.
    """
    extras: dict[str, Extra] = {conv.parameter: HIGH for conv in convs}
    odd = [conv.parameter for conv in convs if _moves(conv, sides[conv.parameter])]
    paired = _pairs(odd) if policy == "pair" else {}
    flips = 0
    for name in odd:
        if name in paired:
            extras[name] = paired[name]
        elif policy in ("low", "high"):
            extras[name] = LOW if policy == "low" else HIGH
        else:
            extras[name] = (LOW, HIGH)[flips % 2]
            flips += 1
    return extras


def _moves(conv: Layer, side: int) -> bool:
    """Whether a pooled convolution has stride 1 and an odd padding."""
    return conv.stride[0] == 1 and (conv.shape[-1] - side) % 2 == 1


def _pairs(names: list[str]) -> dict[str, Extra]:
    """Neighbours ``conv1``, ``conv2`` of one block: nothing else reads the map between them."""
    extras: dict[str, Extra] = {}
    for first, second in pairwise(names):
        block = first.removesuffix(".conv1.weight")
        if block != first and second == f"{block}.conv2.weight":
            extras |= {first: GROW, second: SHRINK}
    return extras


class LayerTimes(NamedTuple):
    """Seconds of one layer at the cheap size, forward and backward: full and pooled filter."""

    full_s: float
    pooled_s: float

    @property
    def is_slower_pooled(self) -> bool:
        """Whether pooling brings no time."""
        return self.pooled_s >= self.full_s


def time_layers(net: nn.Module, images: Tensor, mode: CheapMode) -> dict[str, LayerTimes]:
    """Time each pooled convolution in both forms, by name; of a few times the shortest counts.

    Args:
        net: whose passes ``mode`` makes cheap.
        images: [b, c, h, w] of a cheap step.
        mode: of the net.
    """
    calls = mode.seen = {}
    with torch.no_grad(), mode.cheap(), _in_eval(net):
        net(images)
    mode.seen = None
    times = {}
    for name, call in calls.items():
        pooling = mode.poolings[name]
        full = min(_seconds(_full, call) for _ in range(TIMINGS))
        small = min(_seconds(partial(pooled, pooling=pooling), call) for _ in range(TIMINGS))
        times[name.removesuffix(".weight")] = LayerTimes(full, small)
    return times


def _full(call: ConvCall) -> Tensor:
    return torch.conv2d(*call)


@contextmanager
def _in_eval(net: nn.Module) -> Generator[None]:
    training = net.training
    net.eval()
    yield
    net.train(training)


def _seconds(form: Callable[[ConvCall], Tensor], call: ConvCall) -> float:
    """Forward and backward of one layer, input gradient included."""
    x = call.input.detach().requires_grad_()
    weight = call.weight.detach().requires_grad_()
    _wait(x)
    started = time.perf_counter()
    torch.autograd.grad(form(call._replace(input=x, weight=weight)).sum(), [x, weight])
    _wait(x)
    return time.perf_counter() - started


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()
