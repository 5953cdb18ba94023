"""What a training of coarse terrain minimises, and how its derivative is kept sane."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.core import ranks

CLIP_NORM = 1.0
LOSSES = {"mse": F.mse_loss, "huber": F.smooth_l1_loss, "l1": F.l1_loss}


def relative(
    said: Float[Tensor, "times b ny nx"],
    truth: Float[Tensor, "times b ny nx"],
    units: Float[Tensor, "b"],
) -> Float[Tensor, ""]:
    """Mean absolute error of each sample over its unit: shallow and deep floods weigh alike."""
    return ((said - truth).abs().mean((0, 2, 3)) / units).mean()


def units(errors: Float[Tensor, "waters terrains"]) -> Float[Tensor, "waters terrains"]:
    """Mean pooling's errors in m as units, none below half the median of its water or 0.1 mm."""
    floor = errors.median(1, keepdim=True).values / 2
    return torch.maximum(errors, floor).clamp(min=1e-4)


def tamed(grad: Float[Tensor, "b ny nx"], room: int = 0) -> Float[Tensor, "b ny nx"]:
    """Derivatives by the beds of a batch, none above twice the median norm that is not zero.

    One flood whose front hangs on a sill can have a derivative a million times that of the others;
    the clipping of the whole gradient would leave nothing of these. ``room``: the most samples that
    one of several processes has; the median is that of them all.
    """
    norms = grad.flatten(1).norm(dim=1)
    norms = torch.where(norms.isfinite(), norms, torch.inf)
    everyone = _from_all(F.pad(norms, (0, max(0, room - len(norms)))))
    some = everyone[everyone > 0]
    if len(some) == 0:
        return grad
    share = (2 * some.median() / norms).clamp(max=1)
    return torch.nan_to_num(grad * share.view(-1, *[1] * (grad.dim() - 1)), 0.0, 0.0, 0.0)


def _from_all(values: Tensor) -> Tensor:
    """The values of all processes, one after the other."""
    if ranks.world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(ranks.world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)


def regulariser(bed: Tensor, z: Tensor, factor: int) -> Tensor:
    """Smooth L1 between the mean of 2 x 2 coarse cells (edges repeated) and the mean pool."""
    wide = F.pad(bed[:, None], (1, 0, 1, 0), mode="replicate")
    return F.smooth_l1_loss(F.avg_pool2d(wide, 2, 1), F.avg_pool2d(z[:, None], factor))
