"""Cheap passes of any net: its convolutions and batch norms are intercepted where torch calls them.

The net itself stays as it is. Full passes run without the mode and hence compute what they always
did; no class of module has to be known, so that nets of other libraries take cheap steps as well.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.dynamic_downsampling.pooled_conv import Pooling, pooled_conv2d
from models.nets.layers import CONV, ConvCall, pair

NORMS = (functional.batch_norm, torch.batch_norm)
COUNT = "num_batches_tracked"
Norms = Literal["shared", "skip", "split"]


class NormCall(NamedTuple):
    """A call of ``functional.batch_norm``, under the names of its arguments."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


class CheapMode(TorchFunctionMode):
    """What is different while a net takes a cheap step.

    Cheap training passes normalise with the statistics of their batch. The running ones come from
    full steps, unless they are ``shared``; ``split`` keeps a second set, which cheap passes in eval
    mode use and which is no part of the ``state_dict``.

    Args:
        net: whose passes they are.
        poolings: of its filters, by name of the parameter.
        norms: what becomes of the running statistics.

    Attributes:
        is_cheap: whether a cheap pass is under way.
        poolings: by name of the parameter; what is taken out stays full from then on.
        seen: if not None, takes the call of each convolution that could be pooled, by name.
    """

    def __init__(
        self, net: nn.Module, poolings: Mapping[str, Pooling], norms: Norms = "skip"
    ) -> None:
        super().__init__()
        self.is_cheap = False
        self.poolings = dict(poolings)
        self.seen: dict[str, ConvCall] | None = None
        self._names = {id(weight): name for name, weight in net.named_parameters()}
        self._norms = norms
        self._counts = {id(x) for name, x in net.named_buffers() if name.endswith(COUNT)}
        self._second = _second_set(net) if norms == "split" else {}

    @contextmanager
    def cheap(self) -> Generator[None]:
        """Cheap inside, full again afterwards, whatever happens inside."""
        self.is_cheap = True
        try:
            with self:
                yield
        finally:
            self.is_cheap = False

    def statistics(self) -> dict[str, Tensor]:
        """The second set [c] by the names of the first; empty without ``split``."""
        pairs = self._second.values()
        return {name: x for names in pairs for name, x in names.items()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONV:
            return self._conv(func, ConvCall(*args, **kwargs))
        if self._norms != "shared":
            if func in NORMS:
                return self._norm(_norm_call(func, args, kwargs))
            if func is Tensor.add_ and id(args[0]) in self._counts:
                return args[0]  # batches that the running statistics have seen
        return func(*args, **kwargs)

    def _conv(self, func: Callable[..., Tensor], call: ConvCall) -> Tensor:
        name = self._names.get(id(call.weight), "")
        pooling = self.poolings.get(name)
        if pooling is None:
            return func(*call)
        if self.seen is not None:
            self.seen[name] = call
        return pooled(call, pooling)

    def _norm(self, call: NormCall) -> Tensor:
        second = self._second.get(id(call.running_mean))
        if second is not None:
            call = NormCall(call.input, *second.values(), *call[3:])
        elif call.training:
            call = call._replace(running_mean=None, running_var=None)
        return functional.batch_norm(*call)


def pooled(call: ConvCall, pooling: Pooling) -> Tensor:
    """The convolution [b, out, h, w] of the call, with pooled filters."""
    (stride, _), (padding, _) = pair(call.stride), pair(call.padding)  # ty: ignore[invalid-argument-type]
    x, w, bias = call.input, call.weight, call.bias
    return pooled_conv2d(x, w, bias, stride, padding, call.groups, pooling)


def _norm_call(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> NormCall:
    """The arguments of either form, of which the lower one has another order."""
    if func is functional.batch_norm:
        return NormCall(*args, **kwargs)
    x, weight, bias, mean, variance, training, momentum, eps, _ = args
    return NormCall(x, mean, variance, weight, bias, training, momentum, eps)


def _second_set(net: nn.Module) -> dict[int, dict[str, Tensor]]:
    """Fresh statistics for each norm, mean and variance by name, under the id of its mean."""
    sets = {}
    for name, module in net.named_modules():
        if (mean := getattr(module, "running_mean", None)) is not None:
            sets[id(mean)] = {
                f"{name}.running_mean": torch.zeros_like(mean),
                f"{name}.running_var": torch.ones_like(mean),
            }
    return sets
