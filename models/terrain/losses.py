"""What a training of coarse terrain minimises, and how its derivative is kept sane."""

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_NORM = 1.0
LOSSES = {"mse": F.mse_loss, "huber": F.smooth_l1_loss, "l1": F.l1_loss}


def tamed(grad: Tensor) -> Tensor:
    """Derivatives by the beds of a batch [b, ...], none above twice the median norm.

    One flood whose front hangs on a sill can have a derivative a million times that of the others;
    the clipping of the whole gradient would leave nothing of these.
    """
    norms = grad.flatten(1).norm(dim=1)
    norms = torch.where(norms.isfinite(), norms, torch.inf)
    share = (2 * norms.median() / norms).clamp(max=1)
    return torch.nan_to_num(grad * share.view(-1, *[1] * (grad.dim() - 1)), 0.0, 0.0, 0.0)


def regulariser(bed: Tensor, z: Tensor, factor: int) -> Tensor:
    """Smooth L1 between the mean of 2 x 2 coarse cells (edges repeated) and the mean pool."""
    wide = F.pad(bed[:, None], (1, 0, 1, 0), mode="replicate")
    return F.smooth_l1_loss(F.avg_pool2d(wide, 2, 1), F.avg_pool2d(z[:, None], factor))
