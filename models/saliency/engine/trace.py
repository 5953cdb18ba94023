"""From a net to its execution plan, through the ATen graph of ``torch.export``."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.saliency.engine.conv import Conv, KernelWindow, fastest
from models.saliency.engine.nodes import (
    POINTWISE,
    SAME,
    affine,
    arguments,
    constants_of,
    functional_of,
    limits_of,
    map_size,
    needed_by,
    packet_of,
    paddings,
    two,
    zero_padding,
)
from models.saliency.engine.plan import ExecutionPlan
from models.saliency.engine.step import PlanStep
from models.saliency.engine.threads import keep_freed_memory

aten = torch.ops.aten
INF = math.inf
EXAMPLES = 2  # images of the example batch; export treats a size of 1 as constant


class NotTraceableError(Exception):
    """The net cannot be turned into a plan and has to be run as a module."""


def trace(net: nn.Module, shape: tuple[int, int, int]) -> ExecutionPlan:
    """The plan of a net in evaluation mode for images of shape [c, h, w].

    Raises:
        NotTraceableError: if ``torch.export`` fails, with its reason.
    """
    weight = next(v for v in (*net.parameters(), *net.buffers()) if v.is_floating_point())
    if weight.device.type == "cpu":
        keep_freed_memory()
    example = torch.zeros(EXAMPLES, *shape, dtype=weight.dtype, device=weight.device)
    batch = torch.export.Dim.DYNAMIC
    try:
        program = torch.export.export(net, (example,), dynamic_shapes=({0: batch},), strict=False)
        return _Builder(program).plan()
    except Exception as error:  # export raises classes of its own, of torch and of sympy
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise NotTraceableError(reason) from error


class _Builder:
    """Visits each node of the graph once; it becomes a step or is fused into an earlier one."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.graph = program.graph
        self.constants = constants_of(program)
        self.same: dict[fx.Node, fx.Node] = {}
        self.steps: dict[fx.Node, PlanStep] = {}
        self.convs: dict[fx.Node, Conv] = {}
        self.pads: dict[fx.Node, tuple[int, int, int, int]] = {}

    def plan(self) -> ExecutionPlan:
        """Build the plan."""
        (image,) = [
            node
            for node in self.graph.nodes
            if node.op == "placeholder" and node.name not in self.constants
        ]
        (output,) = [node for node in self.graph.nodes if node.op == "output"]
        (result,) = arguments(output)[0]
        needed = needed_by(result)
        for node in self.graph.nodes:
            if node.op == "call_function" and node in needed:
                self._add(node)
        self._finish()
        shapes = {node.name: size for node in (image, *self.steps) if (size := map_size(node))}
        return ExecutionPlan(image.name, list(self.steps.values()), self._of(result).name, shapes)

    # -- one node ----------------------------------------------------------------------------

    def _add(self, node: fx.Node) -> None:
        if node.target in SAME and not (node.target == aten.dropout.default and arguments(node)[2]):
            self.same[node] = self._of(arguments(node)[0])
        elif node.target in (aten.conv2d.default, aten.conv2d.padding):
            self._conv(node)
        elif (
            (node.target == aten.batch_norm.default and self._norm(node))
            or ((clamp := limits_of(node)) is not None and self._clamp_into(node, clamp))
            or (packet_of(node) == aten.add and self._add_into(node))
        ):
            return
        elif node.target in (aten.max_pool2d.default, aten.avg_pool2d.default):
            self._pool(node)
        else:
            self._generic(node)

    def _conv(self, node: fx.Node) -> None:
        x, weight, bias, stride, padding, dilation, groups = arguments(
            node, (None, None, None, [1, 1], [0, 0], [1, 1], 1)
        )
        source, weight = self._of(x), self._constant(weight)
        bias = self._constant(bias) if bias is not None else None
        if weight is None:
            self._generic(node)
            return
        dilation, stride = two(dilation), two(stride)
        pads = paddings(padding, weight, dilation)
        conv = Conv(weight, bias, stride, pads, dilation, int(groups))
        pad = zero_padding(x)
        if pad is not None and len(x.users) == 1:
            self.steps.pop(x)
            conv = replace(conv, pads=tuple(a + b for a, b in zip(pads, pad, strict=True)))
            source = self._of(arguments(x)[0])
        self._add_conv(node, conv, [source])

    def _norm(self, node: fx.Node) -> bool:
        """Fold batch norm into the preceding convolution, or scale and shift each channel."""
        x, weight, bias, mean, var, training, _, eps = arguments(node)[:8]
        mean, var = self._constant(mean), self._constant(var)
        if training or mean is None or var is None:
            return False
        scale = (var.double() + eps).rsqrt()
        if (factor := self._constant(weight)) is not None:
            scale = scale * factor.double()
        shift = -mean.double() * scale
        if (offset := self._constant(bias)) is not None:
            shift = shift + offset.double()
        source = self._of(x)
        conv = self.convs.get(source)
        if (
            conv is not None
            and conv.clamp is None
            and self._has_single_reader(x)
            and self._inputs(source) == 1
        ):
            weight = (conv.weight.double() * scale[:, None, None, None]).to(conv.weight)
            old = conv.bias.double() if conv.bias is not None else 0.0
            folded = replace(conv, weight=weight, bias=(old * scale + shift).to(conv.weight))
            self._replace(source, node, folded)
            return True
        scale, shift = (v.to(mean.dtype)[:, None, None] for v in (scale, shift))
        if map_size(node) is None:
            return False
        self._step(node, [source], partial(affine, scale=scale, shift=shift), local=True)
        return True

    def _clamp_into(self, node: fx.Node, clamp: tuple[float, float]) -> bool:
        source = self._of(arguments(node)[0])
        conv = self.convs.get(source)
        if (
            conv is None
            or conv.clamp is not None
            or not self._has_single_reader(arguments(node)[0])
        ):
            return False
        self._replace(source, node, replace(conv, clamp=clamp))
        return True

    def _add_into(self, node: fx.Node) -> bool:
        """Fuse an addition of two maps into the later one of their convolutions."""
        if node.kwargs or len(node.args) != 2:
            return False
        sides = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if len(sides) != 2 or any(map_size(side) != map_size(node) for side in sides):
            return False
        order = list(self.steps)
        open_ = [
            (order.index(source), source, other)
            for side, other in (sides, sides[::-1])
            if (source := self._of(side)) in self.convs
            and self.convs[source].clamp is None
            and self._has_single_reader(side)
            and self._inputs(source) == 1
            and self._of(other) in (*self.steps, *self._images())
            and self._of(other) is not source
        ]
        if not open_:
            return False
        _, source, other = max(open_, key=lambda entry: entry[0])
        self._replace(source, node, self.convs[source], self._of(other))
        return True

    def _pool(self, node: fx.Node) -> None:
        largest = node.target == aten.max_pool2d.default
        defaults = (None, None, [], [0, 0], [1, 1] if largest else False, not largest, None)
        x, kernel, stride, padding, fourth, fifth, divisor = arguments(node, defaults)
        kernel = two(kernel)
        stride, padding = two(stride or kernel), two(padding)
        if largest:
            dilation, exact = two(fourth), True
            call = partial(F.max_pool2d, kernel_size=kernel, stride=stride, dilation=dilation)
            kernel = ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)
        else:
            exact = not fourth and divisor is None and (fifth or padding == (0, 0))
            call = partial(F.avg_pool2d, kernel_size=kernel, stride=stride)
        if not exact or map_size(node) is None:
            self._generic(node)
            return
        window = KernelWindow(kernel, stride, padding, -INF if largest else 0.0)
        source = self._of(x)
        full = self._bound(node)
        self.steps[node] = PlanStep(node.name, (source.name,), full, call, window)

    def _generic(self, node: fx.Node) -> None:
        """Any other operation; local if it is element-wise on maps of one size."""
        inputs = self._dynamic(node)
        maps = [map_size(source) for source in inputs]
        size = map_size(node)
        local = size is not None and bool(inputs)
        local = local and all(m is not None and m[1:] == size[1:] for m in maps)
        if local and node.target == aten.cat.default:
            local = len(node.args) > 1 and node.args[1] in (1, -3)
        elif local:
            local = packet_of(node) in POINTWISE and self._small_constants(node)
        self._step(node, inputs, self._bound(node), local=local)

    # -- helpers -----------------------------------------------------------------------------

    def _of(self, node: fx.Node) -> fx.Node:
        return self.same.get(node, node)

    def _images(self) -> list[fx.Node]:
        return [
            n for n in self.graph.nodes if n.op == "placeholder" and n.name not in self.constants
        ]

    def _constant(self, node: Any) -> Tensor | None:
        return self.constants.get(node.name) if isinstance(node, fx.Node) else None

    def _has_single_reader(self, node: fx.Node) -> bool:
        """Whether the value of this node has a single reader."""
        return len(node.users) == 1 and len(self._of(node).users) == 1

    def _inputs(self, node: fx.Node) -> int:
        return len(self.steps[node].inputs)

    def _dynamic(self, node: fx.Node) -> list[fx.Node]:
        return [self._of(x) for x in node.all_input_nodes if x.name not in self.constants]

    def _small_constants(self, node: fx.Node) -> bool:
        """Whether all constant operands are scalars or have height and width 1."""
        constants = [
            self.constants[x.name] for x in node.all_input_nodes if x.name in self.constants
        ]
        return all((x.ndim < 2 and x.numel() == 1) or x.shape[-2:] == (1, 1) for x in constants)

    def _bound(self, node: fx.Node) -> Callable[..., Any]:
        """The node's operation as a function of its dynamic inputs."""
        inputs = self._dynamic(node)
        target = functional_of(node.target)

        def call(*values: Any) -> Any:
            known = dict(zip(inputs, values, strict=True))

            def value(x: fx.Node) -> Any:
                constant = self.constants.get(x.name)
                return known[self._of(x)] if constant is None else constant

            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), value)
            return target(*args, **kwargs)

        return call

    def _step(
        self, node: fx.Node, inputs: list[fx.Node], call: Callable[..., Any], *, local: bool
    ) -> None:
        names = tuple(source.name for source in inputs)
        self.steps[node] = PlanStep(node.name, names, call, call if local else None)

    def _add_conv(self, node: fx.Node, conv: Conv, inputs: list[fx.Node]) -> None:
        self.convs[node] = conv
        self._step(node, inputs, conv, local=False)

    def _replace(self, old: fx.Node, new: fx.Node, conv: Conv, *more: fx.Node) -> None:
        """Replace the step of ``old`` by one for ``new`` that also computes ``old``."""
        step = self.steps.pop(old)
        del self.convs[old]
        names = step.inputs + tuple(source.name for source in more)
        self.steps[new] = replace(step, name=new.name, inputs=names, call=conv)
        self.convs[new] = conv

    def _finish(self) -> None:
        """Choose the kernel of each convolution."""
        sizes = {node.name: map_size(node) for node in self.graph.nodes}
        for node, conv in self.convs.items():
            step = self.steps[node]
            size = sizes[step.inputs[0]]
            if size is not None:
                fast = fastest(conv, size[1:])
                self.steps[node] = replace(step, call=fast, local=fast.valid, window=fast.window)
