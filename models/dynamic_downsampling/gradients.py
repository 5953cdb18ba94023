"""Agreement of the gradients of cheap and full steps (README, section 3 and property 12)."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from models.core import device
from models.dynamic_downsampling.setup import Setup, first_batch
from models.supervised.steps import Batch, cross_entropy

LEAST = 1e-150  # norm that is divided by


def agreement(setup: Setup) -> tuple[float, float]:
    """Compare both gradients of one fixed batch over the weights of all convolutions.

    The net is left as it was, running statistics included.

    Returns:
        Their cosine, and the norm of the cheap gradient over that of the full one.
    """
    net, batch = setup.net, first_batch(setup)
    kept = [*net.buffers(), *setup.extras().values()]
    copies = [tensor.clone() for tensor in kept]
    if setup.matcher is not None:
        setup.matcher.prepare(cheap=False)
    full = _conv_gradient(setup, batch)
    with setup.mode.cheap():
        cheap = _conv_gradient(setup, batch._replace(images=setup.small(batch.images)))
    for tensor, copy in zip(kept, copies, strict=True):
        tensor.copy_(copy)
    norm, other = full.norm(), cheap.norm()
    if norm == 0:  # as where all labels are fitted
        return 0.0, 0.0
    return (full @ cheap / (norm * other.clamp(min=LEAST))).item(), (other / norm).item()


def _conv_gradient(setup: Setup, batch: Batch) -> Float64[Tensor, "weights"]:
    weights = [m.weight for m in setup.net.modules() if isinstance(m, nn.Conv2d)]
    with device.autocast(setup.spec.precision, setup.device):
        loss = cross_entropy(setup.net, batch)
    return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, weights)])
