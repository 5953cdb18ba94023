"""Batch-norm statistics and gradient norms beside cheap steps (README, section 3, property 12)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.nets.program_modules import Norm

DECAY = 0.9  # of the running gradient norms
LEAST, MOST = 0.1, 1.0  # of the factor on cheap gradients


@torch.no_grad()
def reestimate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by their means over full batches.

    Args:
        net: left in the mode it was in.
        batches: normalised images [b, c, h, w] at full size; at least one.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta, training = [norm.momentum for norm in norms], net.training
    exported = [m for m in net.modules() if isinstance(m, Norm)]
    net.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    for norm in exported:
        norm.seen = 0
    for images in batches:
        net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for norm in exported:
        norm.seen = None
    net.train(training)


class NormMatcher:
    """Scales cheap gradients to the norm of full ones, parameter by parameter (``match_norm``).

    The factor is EMA(norm of full) / EMA(norm of cheap), clipped to [0.1, 1], and 1 until both
    kinds of steps have been seen. The hooks are recorded with the step by a CUDA graph.

    Args:
        net: whose parameters get hooks.
    """

    def __init__(self, net: nn.Module) -> None:
        self._parameters = [p for p in net.parameters() if p.requires_grad]
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
