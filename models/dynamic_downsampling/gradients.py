"""Agreement of the gradients of cheap and full steps (README, section 3 and property 12)."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from models.core import device
from models.dynamic_downsampling.setup import Setup, first_batch
from models.supervised.steps import Batch, cross_entropy

LEAST = 1e-150  # norm that is divided by


def agreement(setup: Setup) -> tuple[float, float]:
    """Compare both gradients of one fixed batch over all filters; if none is trained, all weights.

    The net is left as it was, running statistics included.

    Returns:
        Their cosine, and the norm of the cheap gradient over that of the full one.
    """
    net, batch = setup.net, first_batch(setup)
    kept = [*net.buffers(), *setup.extras().values()]
    copies = [tensor.clone() for tensor in kept]
    if setup.matcher is not None:
        setup.matcher.prepare(cheap=False)
    full = _gradient(setup, batch)
    with setup.mode.cheap():
        cheap = _gradient(setup, batch._replace(images=setup.small(batch.images)))
    for tensor, copy in zip(kept, copies, strict=True):
        tensor.copy_(copy)
    norm, other = full.norm(), cheap.norm()
    if norm == 0:  # as where all labels are fitted
        return 0.0, 0.0
    return (full @ cheap / (norm * other.clamp(min=LEAST))).item(), (other / norm).item()


def _gradient(setup: Setup, batch: Batch) -> Float64[Tensor, "weights"]:
    weights = _compared(setup.net)
    with device.autocast(setup.spec.precision, setup.device):
        loss = cross_entropy(setup.net, batch)
    grads = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([g.double().flatten() for g in grads])


def _compared(net: nn.Module) -> list[nn.Parameter]:
    trained = [p for p in net.parameters() if p.requires_grad]
    return [p for p in trained if p.ndim == 4] or trained
