"""The layers of any net: what one pass calls, by the parameters that it uses.

Nothing is asked of the classes of the modules, so that nets of other libraries are read as well.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.core.errors import SpecError

_aten = torch.ops.aten
CONV = (torch.conv2d, functional.conv2d, _aten.conv2d.default, _aten.conv2d.padding)
LINEAR = (functional.linear, _aten.linear.default)


class ConvCall(NamedTuple):
    """A call of ``conv2d``, under the names of its arguments."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: str | int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1


class Layer(NamedTuple):
    """A weight that a convolution or a linear layer uses as it is.

    Attributes:
        parameter: its name in the net.
        kind: ``conv`` or ``linear``.
        shape: of the weight, [out, in / groups, kh, kw] or [out, in].
        stride: of the convolution, (down, right); (1, 1) of a linear layer.
        padding: likewise; None where it is given by name.
        dilation: likewise.
        groups: of input channels.
        macs: multiply-accumulates of a forward pass over one image, over all calls.
    """

    parameter: str
    kind: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | None
    dilation: tuple[int, ...]
    groups: int
    macs: int

    @property
    def name(self) -> str:
        """Of the module; of the parameter where that is no ``weight``."""
        return self.parameter.removesuffix(".weight")


class _CallReader(TorchFunctionMode):
    """Notes each call on a parameter of the net; a module for attention hides its linear layers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in net.named_parameters()}
        self.layers: dict[str, Layer] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in CONV:
            call = ConvCall(*args, **kwargs)
            self._add(call.weight, prod(out.shape[2:]), call)
        elif func in LINEAR:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self._add(weight, out.numel() // (len(out) * out.shape[-1]))
        elif func is functional.multi_head_attention_forward:
            tokens, images = args[0].shape[:2]  # tokens come first here
            for weight in (args[5], args[11]):
                self._add(weight, tokens * images)
        return out

    def _add(self, weight: Tensor | None, positions: int, call: ConvCall | None = None) -> None:
        if weight is None or (name := self.names.get(id(weight))) is None:
            return
        macs = positions * weight.numel()
        if name in self.layers:
            self.layers[name] = self.layers[name]._replace(macs=self.layers[name].macs + macs)
            return
        if call is None:
            form = "linear", tuple(weight.shape), (1, 1), (0, 0), (1, 1), 1
        else:
            named = isinstance(call.padding, str)
            padding = None if named else pair(call.padding)
            shape = tuple(weight.shape)
            form = "conv", shape, pair(call.stride), padding, pair(call.dilation), call.groups
        self.layers[name] = Layer(name, *form, macs)


def pair(value: int | Sequence[int]) -> tuple[int, ...]:
    """A number for each of the two axes."""
    if isinstance(value, int):
        return value, value
    return tuple(value) if len(value) > 1 else (*value, *value)


def layers_of(net: nn.Module, channels: int, size: tuple[int, int]) -> list[Layer]:
    """The layers that one image passes, in the order of the net's parameters.

    Args:
        net: its mode is kept.
        channels: of the image.
        size: height and width of the image in pixels.

    Raises:
        SpecError: if the net does not take such an image.
    """
    reader = _CallReader(net)
    with reader:
        evaluate(net, channels, size)
    named = (name for name, _ in net.named_parameters())
    return [reader.layers[name] for name in named if name in reader.layers]


def macs_of(net: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Multiply-accumulates of a forward pass over one image, those of attention included.

    Arguments and errors are those of :func:`layers_of`.
    """
    counter = _Counter()
    with counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
        evaluate(net, channels, size)
    return counter.flops // 2


class _Counter(TorchDispatchMode):
    """Adds up the operations of matrix products and convolutions, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def evaluate(
    net: nn.Module,
    channels: int,
    size: tuple[int, int],
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """What the net gives for an image of zeros, in eval mode; its mode is kept.

    Args:
        net: on any device.
        channels: of the image.
        size: height and width of the image in pixels.
        layout: of the image in memory.

    Returns:
        Logits [1, classes].

    Raises:
        SpecError: naming the layer that failed.
    """
    at = ""

    def enter(name: str) -> None:
        nonlocal at
        at = name

    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: enter(name))
        for name, module in net.named_modules()
        if name
    ]
    image = torch.zeros(1, channels, *size, device=next(net.parameters()).device)
    training = net.training
    try:
        with torch.no_grad():
            return net.eval()(image.contiguous(memory_format=layout))
    except Exception as error:  # whatever a net of another library raises
        where = f"layer {at}" if at else "the net"
        raise SpecError(
            f"{where} does not accept images of {size[0]} x {size[1]}: {error}",
            hint="give another images.image_size, or a net that takes any size",
        ) from error
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
