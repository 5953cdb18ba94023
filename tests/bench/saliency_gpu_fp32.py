"""Section ``fp32`` of ``saliency_gpu``: which kernels give full float32 on a GPU, and how fast.

    python -m tests.bench.saliency_gpu --sections fp32 --out FILE.json

The same boxes of the same net run with other convolutions in their place, each as one CUDA graph:
cuDNN's fused ones with algorithms chosen by rule or by the clock, the same without fusing, those of
the plan (products of matrices for 1x1 kernels), and tensor cores with numbers split into two
TF32 parts, whose three largest products are summed (Markidis et al. 2018; Ootomo and Yokota 2022).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.saliency.engine.conv import Conv
from models.saliency.engine.graphed import GraphedChanges
from models.saliency.engine.incremental import BaseActivations, Changes, in_order
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.methods.occlusion import regions, windows
from tests.bench.saliency_gpu_parts import Bench, arithmetic

TF32_BITS = -8192  # mask of the upper 19 bits of a float32: sign, exponent, 10 bits of fraction


def upper(x: Tensor) -> Tensor:
    """The TF32 part of float32 numbers; what is left is exact."""
    return (x.view(torch.int32) & TF32_BITS).view(torch.float32)


def halves(x: Tensor) -> Tensor:
    """Channels of upper parts, of rests and of upper parts again, channels-last."""
    n, c, h, w = x.shape
    out = x.new_empty((n, h, w, 3 * c)).permute(0, 3, 1, 2)
    high = upper(x)
    out[:, :c] = high
    torch.sub(x, high, out=out[:, c : 2 * c])
    out[:, 2 * c :] = high
    return out


class Split:
    """A convolution by three TF32 products in one: the channels of both sides are stacked."""

    def __init__(self, conv: Conv) -> None:
        high = upper(conv.weight.contiguous())
        stacked = torch.cat([high, high, conv.weight - high], 1)
        weight = stacked.contiguous(memory_format=torch.channels_last)
        backend = "plain" if conv.backend == "mkldnn" else "cudnn"
        self.conv = replace(conv, weight=weight, packed=None, backend=backend)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self.conv(self.parts(x), other)

    def valid(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self.conv.valid(self.parts(x), other)

    def parts(self, x: Tensor) -> Tensor:
        return halves(x.contiguous(memory_format=torch.channels_last))


class Triton(Split):
    """The same with one kernel that makes the parts."""

    def parts(self, x: Tensor) -> Tensor:
        from tests.bench.saliency_gpu_split import triton_halves

        return triton_halves(x.contiguous(memory_format=torch.channels_last))


class Three(Split):
    """Three convolutions one after the other; no stacked channels are written."""

    def __init__(self, conv: Conv) -> None:
        self.act, self.clamp = replace(conv, clamp=None, backend="plain"), conv.clamp
        self.high = upper(conv.weight.contiguous()).contiguous(memory_format=torch.channels_last)
        self.low = conv.weight - self.high

    def _sum(self, call: Callable[..., Tensor], x: Tensor, other: Tensor | None) -> Tensor:
        high = upper(x.contiguous(memory_format=torch.channels_last))
        y = call(replace(self.act, weight=self.low), high)
        y += call(replace(self.act, weight=self.high, bias=None), x - high)
        y += call(replace(self.act, weight=self.high, bias=None), high)
        if other is not None:
            y += other
        return y if self.clamp is None else y.clamp_(*self.clamp)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self._sum(lambda conv, part: conv(part), x, other)

    def valid(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self._sum(lambda conv, part: conv.valid(part), x, other)


def nothing(conv: Conv) -> Conv:
    return conv


def fused(conv: Conv) -> Conv:
    """Without products of matrices."""
    return replace(conv, backend="cudnn") if conv.backend == "product" else conv


def unfused(conv: Conv) -> Conv:
    return replace(conv, backend="plain", packed=None)


# name -> arithmetic, convolution; TF32 is allowed in the products of split numbers alone
TRITON = ("split_triton", "split_clock")
VARIANTS: dict[str, tuple[str, Callable[[Conv], Any]]] = {
    "rule": ("fp32", fused),
    "products": ("fp32", nothing),
    "split_triton": ("torch_default", lambda conv: Triton(conv) if conv.groups == 1 else conv),
    "clock": ("fp32_timed", fused),
    "split_three": ("torch_default", lambda conv: Three(conv) if conv.groups == 1 else conv),
    "split": ("torch_default", lambda conv: Split(conv) if conv.groups == 1 else conv),
    "tf32": ("tf32", nothing),
    "products_clock": ("fp32_timed", nothing),
    "split_clock": ("tf32", lambda conv: Triton(conv) if conv.groups == 1 else conv),
    "tf32_rule": ("tf32_untimed", nothing),
    "unfused": ("fp32", unfused),
}


def other_plan(plan: ExecutionPlan, replace_conv: Callable[[Conv], Any]) -> ExecutionPlan:
    """The same steps with other convolutions."""
    steps = []
    for step in plan.steps:
        if isinstance(step.call, Conv):
            call = replace_conv(step.call)
            local = None if step.local is None else call.valid
            steps.append(replace(step, call=call, local=local))
        else:
            steps.append(step)
    return ExecutionPlan(plan.image, steps, plan.output, plan.shapes)


def with_convolutions(known: Changes, replace_conv: Callable[[Conv], Any]) -> Changes:
    """The same routes with other convolutions."""
    plan = other_plan(known.plan, replace_conv)
    steps = {step.name: step for step in plan.steps}
    changes = Changes(plan, known.regions, 96)
    for index, route in known._routes.items():
        work = [part._replace(step=steps[part.step.name]) for part in route.work]
        changes._routes[index] = route._replace(work=work)
    return changes


def fp32(bench: Bench) -> dict[str, Any]:
    """Milliseconds of all windows by variant, and the difference from the net in float64."""
    over = regions(windows(bench.window, bench.side, bench.side, torch.device(bench.on)))
    arithmetic("fp32")
    exact = torch.cat([bench.net.double()(part.double()) for part in bench.images().split(64)])
    bench.net.float()
    figures, known = bench.figures["fp32"], Changes(bench.plan("fp32"), over, 96)
    in_order(
        list(known.outputs(BaseActivations(known.plan, bench.x), bench.b))
    )  # builds the routes
    for name, (numbers, replace_conv) in VARIANTS.items():
        if time.monotonic() > bench.end or (bench.quick and name in TRITON):
            continue
        try:
            figures[name] = variant(bench, with_convolutions(known, replace_conv), numbers, exact)
        except Exception as error:  # the other variants may work
            figures[name] = {"failed": f"{type(error).__name__}: {error}"[:400]}
        bench.report(name, figures[name])
    return figures


def variant(bench: Bench, changes: Changes, numbers: str, exact: Tensor) -> dict[str, Any]:
    """One variant: its time, and the error of the outputs against float64, of their range."""
    arithmetic(numbers)
    if has_split(changes.plan):  # the last layer stays in float32
        torch.backends.cuda.matmul.allow_tf32 = False
    start = time.perf_counter()
    work = run(bench, changes)
    outputs = work()
    bench.wait()
    first = time.perf_counter() - start
    off = (outputs.double() - exact).abs().max() / (exact.max() - exact.min())
    clock = bench.milliseconds({"way": work}, warm=1)["way"]
    return {"first_s": round(first, 2), "off_of_range": off.item(), **clock}


def has_split(plan: ExecutionPlan) -> bool:
    return any(isinstance(step.call, Split) for step in plan.steps)


def run(bench: Bench, changes: Changes) -> Callable[[], Tensor]:
    x, b = bench.x, bench.b
    if bench.on == "cuda":
        graph = GraphedChanges(changes, x, b)
        return lambda: graph(x, b)
    return lambda: in_order(list(changes.outputs(BaseActivations(changes.plan, x), b)))
