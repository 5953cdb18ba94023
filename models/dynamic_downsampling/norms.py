"""Batch-norm statistics and gradient norms in cheap steps (README, section 3, property 12)."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.dynamic_downsampling.pooled_conv import Switch

DECAY = 0.9  # of the running gradient norms
LEAST, MOST = 0.1, 1.0  # of the factor on cheap gradients


class ModalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose running statistics come from full steps only.

    Cheap training steps normalise with the statistics of their batch. With ``split`` they also
    update a second set, which cheap passes in eval mode use; it is no part of the ``state_dict``.

    Args:
        norm: the layer it replaces; parameters and buffers stay the same objects.
        switch: says when a pass is cheap.
        split: keep the second set.
    """

    def __init__(self, norm: nn.BatchNorm2d, switch: Switch, *, split: bool) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.switch = switch
        self._twin = [_twin(norm)] if split else []  # in a list, so not registered as a child

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not self.switch.is_cheap:
            return super().forward(input)
        for twin in self._twin:
            return twin.train(self.training)(input)
        if not self.training:
            return super().forward(input)
        return functional.batch_norm(
            input, None, None, self.weight, self.bias, training=True, eps=self.eps
        )

    def cheap_buffers(self) -> dict[str, Tensor]:
        """The second set of statistics by name; empty without ``split``.

        Means and variances [c], and the count of batches [].
        """
        return {name: buffer for twin in self._twin for name, buffer in twin.named_buffers()}


def _twin(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A layer with the same affine parameters and fresh statistics."""
    twin = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, device=norm.weight.device)
    twin.weight, twin.bias = norm.weight, norm.bias
    return twin


@torch.no_grad()
def reestimate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by their means over full batches.

    Args:
        net: left in the mode it was in.
        batches: normalised images [b, c, h, w] at full size; at least one.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, training = [norm.momentum for norm in norms], net.training
    net.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    for images in batches:
        net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.train(training)


class NormMatcher:
    """Scales cheap gradients to the norm of full ones, parameter by parameter (``match_norm``).

    The factor is EMA(norm of full) / EMA(norm of cheap), clipped to [0.1, 1], and 1 until both
    kinds of steps have been seen. The hooks are recorded with the step by a CUDA graph.

    Args:
        net: whose parameters get hooks.
    """

    def __init__(self, net: nn.Module) -> None:
        self._parameters = list(net.parameters())
        count, device = len(self._parameters), self._parameters[0].device
        self.full = torch.zeros(count, device=device)
        self.cheap = torch.zeros(count, device=device)
        self.factor = torch.ones(count, device=device)
        for index, parameter in enumerate(self._parameters):
            parameter.register_hook(lambda gradient, i=index: gradient * self.factor[i])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: running norms of full and cheap gradients [parameters]."""
        return {"match.full": self.full, "match.cheap": self.cheap}

    def prepare(self, *, cheap: bool) -> None:
        """Set the factors of the coming backward pass."""
        if not cheap:
            self.factor.fill_(1.0)
            return
        known = (self.full > 0) & (self.cheap > 0)
        ratio = torch.where(known, self.full / self.cheap.clamp_min(1e-30), 1.0)
        self.factor.copy_(ratio.clamp(LEAST, MOST))

    def update(self, *, cheap: bool) -> None:
        """Note the norms of the gradients of the last step, before their factors."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)).float() / self.factor
        mean = self.cheap if cheap else self.full
        mean.copy_(torch.where(mean > 0, DECAY * mean + (1 - DECAY) * norms, norms))
