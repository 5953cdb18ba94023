"""Baselines that depend on the removed region: they fill it from the pixels around it."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from models.saliency import philox
from models.saliency.methods.imputation import impute
from models.saliency.spec.fields import Inpainted, LocalMean, NoisyLinear


class LocalBaseline:
    """Fills removed regions of an image.

    Args:
        part: the baseline of the spec.
        x: the image as the net sees it.
        seed: of the job.

    Attributes:
        image: the image with every pixel removed, which is its mean colour.
    """

    def __init__(
        self, part: LocalMean | NoisyLinear | Inpainted, x: Float[Tensor, "c h w"], seed: int
    ) -> None:
        self.part = part
        self.image = x.double().mean((1, 2), keepdim=True).to(x).expand_as(x)
        if isinstance(part, NoisyLinear):
            index = torch.zeros(1, dtype=torch.int64, device=x.device)
            drawn = philox.normal((seed, part.seed), philox.NOISE, index, x.numel()).view_as(x)
            self._noise = part.noise * (x.max() - x.min()).item() * drawn

    def __call__(
        self, removed: Bool[Tensor, "n h w"], x: Float[Tensor, "c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """The image with each of the removed regions filled."""
        gone = removed[:, None]
        if isinstance(self.part, LocalMean):
            return torch.where(gone, self._around(removed, x, self.part.ring).to(x), x)
        if isinstance(self.part, Inpainted):
            filled = torch.stack([self._inpainted(mask, x) for mask in removed])
        else:
            filled = impute(x, removed) + self._noise * gone
        nothing = removed.all(2).all(1)[:, None, None, None]
        return torch.where(nothing, self.image, filled.to(x))

    def _inpainted(
        self, mask: Bool[Tensor, "h w"], x: Float[Tensor, "c h w"]
    ) -> Float[Tensor, "c h w"]:
        """The image with a region filled so that its bilaplacian is 0, within the image's range."""
        from skimage.restoration import inpaint_biharmonic  # imports SciPy, half a second

        if mask.all():
            return self.image
        values = inpaint_biharmonic(
            np.ascontiguousarray(x.double().cpu().numpy()), mask.cpu().numpy(), channel_axis=0
        )
        return torch.from_numpy(values).to(x.device)

    def _around(self, removed: Tensor, x: Tensor, width: int) -> Float[Tensor, "n c 1 1"]:
        """Mean colour of the pixels not removed that lie within ``width`` of the region."""
        wide = F.max_pool2d(removed[:, None].float(), 2 * width + 1, 1, width) > 0
        ring = (wide[:, 0] & ~removed).flatten(1).double()
        count = ring.sum(1)[:, None]
        mean = ring @ x.double().flatten(1).T / count.clamp(min=1)
        alone = self.image[:, 0, 0].double()
        return torch.where(count > 0, mean, alone)[:, :, None, None]
