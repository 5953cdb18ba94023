"""Makes a plain net able to take cheap steps, and takes them.

Layers are replaced in place by ones that share their parameters: the net keeps its ``state_dict``
and computes, outside cheap steps, what it computed before.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.core.device import generator
from models.core.errors import SpecError
from models.dynamic_downsampling import cost
from models.dynamic_downsampling.fields import Downsample
from models.dynamic_downsampling.norms import ModalBatchNorm2d
from models.dynamic_downsampling.pooled_conv import (
    GROW,
    HIGH,
    LOW,
    SHRINK,
    Extra,
    PooledConv2d,
    Switch,
    gain_of,
)

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


def install(net: nn.Module, down: Downsample, switch: Switch) -> list[CheapLayer]:
    """Replace the convolutions and batch norms that cheap steps change; the order is the net's.

    Args:
        net: any net; changed in place.
        down: which layers, how pooled, how padded.
        switch: turns the new layers cheap.

    Returns:
        A line for each convolution, with the reason why it is pooled or not.
    """
    convs = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    reasons = {name: _why_not(name, conv, down) for name, conv in convs.items()}
    pooled = {name: conv for name, conv in convs.items() if reasons[name] is None}
    sides = {
        name: cost.pooled_kernel(conv.kernel_size[0], down.kernel_rule)
        for name, conv in pooled.items()
    }
    extras = _extras(pooled, sides, down.pad_policy)
    for name, conv in pooled.items():
        gain = gain_of(down.kernel_gain, conv.kernel_size[0], sides[name])
        changed = PooledConv2d(conv, switch, sides[name], down.kernel_pool, gain, extras[name])
        _replace(net, name, changed)
    if down.bn_mode != "shared":
        norms = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
        for name, norm in norms:
            _replace(net, name, ModalBatchNorm2d(norm, switch, split=down.bn_mode == "split"))
    return [
        CheapLayer(name, k := conv.kernel_size[0], sides.get(name, k), reasons[name] or "pooled")
        for name, conv in convs.items()
    ]


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    module.train(net.get_submodule(name).training)
    setattr(net.get_submodule(parent), child, module)


def _why_not(name: str, conv: nn.Conv2d, down: Downsample) -> str | None:
    """Reason to leave a convolution as it is, or None."""
    reasons = {
        "kernel_pool is none": down.kernel_pool == "none",
        "padding given by name": isinstance(conv.padding, str),
        "not square": any(len(set(x)) > 1 for x in (conv.kernel_size, conv.stride, conv.padding)),
        "1x1": conv.kernel_size[0] == 1,
        "dilated": max(conv.dilation) > 1,
        "depthwise: few operations, bound by memory": conv.groups == conv.in_channels > 1,
        "not named in kernel_layers": not cost.is_named(name, down.kernel_layers),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _extras(convs: dict[str, nn.Conv2d], sides: dict[str, int], policy: str) -> dict[str, Extra]:
    """Where each pooled convolution puts its odd padded pixel.

    A stride-1 convolution moves the features by half a pixel; alternating sides, or a pair of
    which the first grows the map and the second shrinks it, brings them back.
    """
    extras: dict[str, Extra] = dict.fromkeys(convs, HIGH)
    odd = [name for name, conv in convs.items() if _moves(conv, sides[name])]
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


def _moves(conv: nn.Conv2d, side: int) -> bool:
    """Whether a pooled convolution has stride 1 and an odd padding."""
    return conv.stride[0] == 1 and (conv.kernel_size[0] - side) % 2 == 1


def _pairs(names: list[str]) -> dict[str, Extra]:
    """Neighbours ``conv1``, ``conv2`` of one block: nothing else reads the map between them."""
    extras: dict[str, Extra] = {}
    for first, second in pairwise(names):
        block = first.rpartition(".")[0]
        if first == f"{block}.conv1" and second == f"{block}.conv2":
            extras |= {first: GROW, second: SHRINK}
    return extras


def dry_run(net: nn.Module, channels: int, size: tuple[int, int], switch: Switch) -> None:
    """Run one cheap pass in eval mode, to refuse nets that accept one size only.

    Args:
        net: after :func:`install`.
        channels: of its images.
        size: height and width of cheap images in pixels.
        switch: of the net.

    Raises:
        SpecError: naming the layer that failed.
    """
    layer_name = ""

    def enter(name: str) -> None:
        nonlocal layer_name
        layer_name = name

    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: enter(name))
        for name, module in net.named_modules()
        if name
    ]
    image = torch.zeros(1, channels, *size, device=next(net.parameters()).device)
    training = net.training
    try:
        with torch.no_grad(), switch.cheap():
            net.eval()(image)
    except (RuntimeError, ValueError) as error:
        raise SpecError(
            f"layer {layer_name} does not accept images of {size[0]} x {size[1]} in a cheap step: "
            f"{error}",
            hint="use input_scale 1 or a net whose head takes any size",
        ) from error
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()


class LayerTimes(NamedTuple):
    """Seconds of one layer at the cheap size, forward and backward: full and pooled filter."""

    full_s: float
    pooled_s: float

    @property
    def is_slower_pooled(self) -> bool:
        """Whether pooling brings no time."""
        return self.pooled_s >= self.full_s


def time_layers(net: nn.Module, images: Tensor, switch: Switch) -> dict[str, LayerTimes]:
    """Time each pooled convolution in both forms, by name; of a few times the shortest counts.

    Args:
        net: after :func:`install`.
        images: [b, c, h, w] of a cheap step.
        switch: of the net.
    """
    convs = {name: m for name, m in net.named_modules() if isinstance(m, PooledConv2d)}
    inputs: dict[str, Tensor] = {}
    hooks = [
        conv.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        for name, conv in convs.items()
    ]
    with torch.no_grad(), switch.cheap(), _in_eval(net):
        net(images)
    for hook in hooks:
        hook.remove()
    times = {}
    for name, conv in convs.items():
        full = min(_seconds(conv, inputs[name]) for _ in range(TIMINGS))
        with switch.cheap():
            pooled = min(_seconds(conv, inputs[name]) for _ in range(TIMINGS))
        times[name] = LayerTimes(full, pooled)
    return times


@contextmanager
def _in_eval(net: nn.Module) -> Generator[None]:
    training = net.training
    net.eval()
    yield
    net.train(training)


def _seconds(conv: PooledConv2d, x: Tensor) -> float:
    """Forward and backward of one layer, input gradient included."""
    x = x.detach().requires_grad_()
    _wait(x)
    started = time.perf_counter()
    torch.autograd.grad(conv(x).sum(), [x, conv.weight])
    _wait(x)
    return time.perf_counter() - started


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()
