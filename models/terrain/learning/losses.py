"""Losses of a terrain training, and the clipping of its derivatives."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.core import ranks

CLIP_NORM = 1.0
LOSSES = {"mse": F.mse_loss, "huber": F.smooth_l1_loss, "l1": F.l1_loss}


def relative(
    prediction: Float[Tensor, "times b ny nx"],
    truth: Float[Tensor, "times b ny nx"],
    units: Float[Tensor, "b"],
) -> Float[Tensor, ""]:
    """Mean over samples of MAE / unit, so that shallow and deep floods have equal weight."""
    return ((prediction - truth).abs().mean((0, 2, 3)) / units).mean()


def units(errors: Float[Tensor, "waters terrains"]) -> Float[Tensor, "waters terrains"]:
    """Errors of mean pooling in m, at least half the median of their water and at least 0.1 mm."""
    floor = errors.median(1, keepdim=True).values / 2
    return torch.maximum(errors, floor).clamp(min=1e-4)


def clip_per_sample(
    grad: Float[Tensor, "b ny nx"], max_local_batch: int = 0
) -> Float[Tensor, "b ny nx"]:
    """Clip the derivative of each sample to twice the median of the nonzero norms.

    A flood whose front stops at a sill can have a derivative a million times as large as the
    others, of which clipping the total gradient would leave nothing. A sample whose derivative is
    not finite gets 0.

    Args:
        grad: derivatives with respect to the beds of a batch.
        max_local_batch: largest batch of all processes, over which the median is taken.
    """
    norms = grad.flatten(1).norm(dim=1)
    norms = torch.where(norms.isfinite(), norms, torch.inf)
    all_norms = _gather(F.pad(norms, (0, max(0, max_local_batch - len(norms)))))
    positive = all_norms[all_norms > 0]
    if len(positive) == 0:
        return grad
    share = (2 * positive.median() / norms).clamp(max=1)
    return torch.nan_to_num(grad * share.view(-1, *[1] * (grad.dim() - 1)), 0.0, 0.0, 0.0)


def _gather(values: Tensor) -> Tensor:
    """The values [n] of all processes, concatenated in rank order."""
    if ranks.world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(ranks.world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)


def regulariser(
    bed: Float[Tensor, "b nyc nxc"], z: Float[Tensor, "b ny nx"], factor: int
) -> Float[Tensor, ""]:
    """Smooth L1 between the mean of 2 x 2 coarse cells (edges repeated) and the mean pool."""
    wide = F.pad(bed[:, None], (1, 0, 1, 0), mode="replicate")
    return F.smooth_l1_loss(F.avg_pool2d(wide, 2, 1), F.avg_pool2d(z[:, None], factor))
