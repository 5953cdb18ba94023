"""One optimizer step: what a batch, a mode and an update are; the learning rate of each step."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.core import device, optimizers
from models.core.spec import Optimizer
from models.supervised.spec import SupervisedSpec


class Batch(NamedTuple):
    """Images float32 [b, c, h, w], normalised, and labels int64 [b]."""

    images: Tensor
    labels: Tensor


class Mode(NamedTuple):
    """A kind of step; steps of one mode do the same work on the same shapes.

    Attributes:
        name: in figures and reports.
        lr_scale: factor on the learning rate.
        weight_decay: whether the weights decay.
        batches: that one step takes at once; steps of several may not pass the end of an epoch.
    """

    name: str = "full"
    lr_scale: float = 1.0
    weight_decay: bool = True
    batches: int = 1


FULL = Mode()
Forward = Callable[[nn.Module, Batch, Mode], Tensor]


def cross_entropy(net: nn.Module, batch: Batch, _: Mode = FULL) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats: what an ordinary step minimises."""
    return functional.cross_entropy(net(batch.images), batch.labels)


def learning_rate(spec: Optimizer, step: int | float, total: int) -> float:
    """Rate of a step (from 0): linear rise over the warm-up, then decay towards zero.

    Runs count in batches of one size, so the share of steps is the share of samples seen.
    """
    warm = math.ceil(spec.warmup * total)
    if step < warm:
        return spec.lr * min(step + 1, warm) / warm  # a position between steps rises no further
    return spec.lr * decay(spec.schedule, (step - warm) / max(1, total - warm))


def decay(schedule: Literal["cosine", "linear", "constant"], x: float) -> float:
    """Factor on a learning rate at x of its fall, 0 to 1: (1 + cos(pi x)) / 2, 1 - x or 1."""
    return {"cosine": (1 + math.cos(math.pi * x)) / 2, "linear": 1 - x, "constant": 1.0}[schedule]


def make_optimizer(
    net: nn.Module, spec: Optimizer, decays: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.SGD:
    """SGD whose rate is a tensor on the device and whose momentum is there from the start.

    Args:
        net: its parameters are trained.
        spec: rate, momentum, weight decay.
        decays: weight decay of parameters, by name, that do not take the one of ``spec``.
    """
    parameters = list(net.parameters())
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        groups.setdefault(decays.get(name, spec.weight_decay), []).append(parameter)
    optimizer = optimizers.Sgd(
        [{"params": group, "weight_decay": decay} for decay, group in groups.items()],
        lr=torch.zeros((), device=parameters[0].device),
        momentum=spec.momentum,
        nesterov=spec.nesterov and spec.momentum > 0,
        fused=True,
    )
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def momentum(net: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The optimizer's state by parameter name; the tensors themselves, not copies.

    Of the shapes [...] of the parameters.
    """
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in net.named_parameters()
    }


def make_step(
    net: nn.Module, optimizer: torch.optim.SGD, forward: Forward, spec: SupervisedSpec, on: str
) -> Callable[[Mode, Batch], Tensor]:
    """The function that does one step and gives its loss; it never waits for a GPU.

    Args:
        net: in training mode; of ``ranks.parallel`` where there are several processes.
        optimizer: of :func:`make_optimizer`; its rate is set by the caller.
        forward: the loss of a batch.
        spec: names precision and weight decay.
        on: torch device, ``cpu`` or ``cuda``.
    """
    decays = [group["weight_decay"] for group in optimizer.param_groups]

    def step(mode: Mode, batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=False)  # a CUDA graph holds the addresses
        with device.autocast(spec.precision, on):
            loss = forward(net, batch, mode)
        loss.backward()
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay if mode.weight_decay else 0.0
        optimizer.step()
        return loss.detach()

    return step
