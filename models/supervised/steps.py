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
    """Images float32 [b, c, h, w], normalised, and labels: int64 [b] or shares [b, classes]."""

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
ADAM = ("exp_avg", "exp_avg_sq")
MOMENTS = {"sgd": ("momentum_buffer",), "adamw": ADAM, "lamb": ADAM}
# groups of tensors in a checkpoint
STORED = {
    "momentum_buffer": "momentum",
    "exp_avg": "momentum",
    "exp_avg_sq": "second_moment",
    "step": "updates",
}
Forward = Callable[[nn.Module, Batch, Mode], Tensor]


def cross_entropy(net: nn.Module, batch: Batch, _: Mode = FULL) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats: what an ordinary step minimises."""
    return functional.cross_entropy(net(batch.images), batch.labels)


def learning_rate(spec: Optimizer, step: int | float, total: int) -> float:
    """Rate of a step (from 0): linear rise over the warm-up, then decay towards zero.

    Runs count in batches of one size, so the share of steps is the share of samples seen.
    """
    warm = spec.warm(total)
    if step < warm:
        return spec.lr * min(step + 1, warm) / warm  # a position between steps rises no further
    return spec.lr * decay(spec.schedule, (step - warm) / max(1, total - warm))


def decay(schedule: Literal["cosine", "linear", "constant"], x: float) -> float:
    """Factor on a learning rate at x of its fall, 0 to 1: (1 + cos(pi x)) / 2, 1 - x or 1."""
    return {"cosine": (1 + math.cos(math.pi * x)) / 2, "linear": 1 - x, "constant": 1.0}[schedule]


def make_optimizer(
    net: nn.Module, spec: Optimizer, decays: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """An optimizer whose rate is a tensor on the device and whose state is there from the start.

    Args:
        net: its parameters are trained.
        spec: which one, rate, moments, weight decay.
        decays: weight decay of parameters, by name, that do not take the one of ``spec``.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        own = spec.weight_decay if spec.decays(parameter.ndim) else 0.0
        groups.setdefault(decays.get(name, own), []).append(parameter)
    rows = [{"params": group, "weight_decay": decay} for decay, group in groups.items()]
    on = next(net.parameters()).device
    rate = torch.zeros((), device=on)
    betas = (spec.momentum, spec.beta2)
    if spec.name == "lamb":
        optimizer = optimizers.Lamb(rows, rate, betas)
    elif spec.name == "adamw":
        optimizer = optimizers.AdamW(rows, rate, betas, fused=True, capturable=on.type == "cuda")
    else:
        nesterov = spec.nesterov and spec.momentum > 0
        optimizer = optimizers.Sgd(
            rows, lr=rate, momentum=spec.momentum, nesterov=nesterov, fused=True
        )
    for parameter in net.parameters():
        for key in MOMENTS[spec.name]:
            optimizer.state[parameter][key] = torch.zeros_like(parameter)
        if spec.name != "sgd":
            optimizer.state[parameter]["step"] = torch.zeros((), device=on)
    return optimizer


def moments(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """The optimizer's state by parameter name; the tensors themselves, not copies.

    Of the shapes [...] of the parameters: the momentum of sgd, both moments of adamw and lamb.
    """
    keys = [key for names in MOMENTS.values() for key in names]
    return {
        name: [state[key] for key in keys if key in state]
        for name, parameter in net.named_parameters()
        if (state := optimizer.state[parameter])
    }


def optimizer_tensors(
    net: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint keeps of the optimizer: groups of tensors [...] by parameter name."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, parameter in net.named_parameters():
        for key, tensor in optimizer.state[parameter].items():
            groups.setdefault(STORED[key], {})[name] = tensor
    return groups


def make_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    forward: Forward,
    spec: SupervisedSpec,
    on: str,
) -> Callable[[Mode, Batch], Tensor]:
    """The function that does one step and gives its loss; it never waits for a GPU.

    Args:
        net: in training mode; of ``ranks.parallel`` where there are several processes.
        optimizer: of :func:`make_optimizer`; its rate is set by the caller.
        forward: the loss of a batch.
        spec: names precision, parts of a batch, weight decay and the greatest norm of gradients.
        on: torch device, ``cpu`` or ``cuda``.
    """
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    limit = spec.optimizer.clip_norm

    def step(mode: Mode, batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=False)  # a CUDA graph holds the addresses
        losses = []
        for part in _parts(batch, spec.accumulate):
            with device.autocast(spec.precision, on):
                loss = forward(net, part, mode)
            (loss if spec.accumulate == 1 else loss / spec.accumulate).backward()
            losses.append(loss.detach())
        if limit is not None:
            nn.utils.clip_grad_norm_(trained, limit)
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay if mode.weight_decay else 0.0
        optimizer.step()
        return losses[0] if spec.accumulate == 1 else torch.stack(losses).mean()

    return step


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Equal parts of a batch, in order; their mean losses have the mean of the whole."""
    if count == 1:
        return [batch]
    pairs = zip(batch.images.chunk(count), batch.labels.chunk(count), strict=True)
    return [Batch(*pair) for pair in pairs]
