"""What the phases and the baselines minimise."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from models.lcw import distance
from models.lcw.fields import Gamma, Phase1
from models.lcw.gather import alone

WAE_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SWAE_PROJECTIONS = 50


def squared_error(
    images: Float[Tensor, "n c h w"], decoded: Float[Tensor, "n c h w"]
) -> Float[Tensor, ""]:
    """Mean over images of the sum of squared differences of their pixels."""
    return (images - decoded).square().sum((1, 2, 3)).mean()


def bandwidth(spec: Gamma, std: float, target: Float[Tensor, "m d"], count: int) -> float:
    """Smoothing variance of a two-sample distance.

    Args:
        spec: names the rule.
        std: scalar standard deviation of the whole target.
        target: of this step.
        count: rows of a batch.
    """
    if spec.gamma is not None:
        return spec.gamma
    if spec.gamma_mode == "dynamic":
        std = target.detach().std().item()
    return max(distance.silverman(std, count), 1e-12)


def autoencoder(
    spec: Phase1,
    images: Float[Tensor, "n c h w"],
    latents: Float[Tensor, "n d"],
    decoded: Float[Tensor, "n c h w"],
    std: float,
    whole: Callable[[Tensor], Tensor] = alone,
) -> Float[Tensor, ""]:
    """The loss of phase 1 (README, section 3): ae, cwae or cw2.

    Args:
        spec: names the objective, its weight and bandwidth.
        images: in [0, 1].
        latents: of the images.
        decoded: of the latents.
        std: standard deviation over all elements of the training images.
        whole: (rows [n, d] of this process) to those of all: distances are of whole samples.
    """
    if spec.objective == "cw2":
        x, y = whole(images.flatten(1)), whole(decoded.flatten(1))
        gamma = bandwidth(spec, std, x, len(x))
        loss = torch.log(distance.two_sample(y, x, gamma, spec.phi_data) + spec.eps)
    else:
        loss = squared_error(images, decoded).double()
    if spec.objective == "ae" or spec.penalty == 0:
        return loss
    normal = distance.normality(whole(latents), mode=spec.phi_latent)
    return loss + spec.penalty * torch.log(normal + spec.eps)


def wae_mmd(latents: Float[Tensor, "n d"], normal: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """MMD with a sum of C / (C + r^2), C = 2 d c; own terms without the diagonal."""
    n, d = latents.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        r2 = (a[:, None] - b[None]).square().sum(2)
        return sum((2 * d * c / (2 * d * c + r2) for c in WAE_SCALES), torch.zeros_like(r2))

    diagonal = n * len(WAE_SCALES)
    own = kernel(latents, latents).sum() + kernel(normal, normal).sum() - 2 * diagonal
    return own / (n * (n - 1)) - 2 * kernel(latents, normal).mean()


def swae(
    latents: Float[Tensor, "n d"],
    normal: Float[Tensor, "n d"],
    directions: Float[Tensor, "p d"],
) -> Float[Tensor, ""]:
    """Mean squared difference of sorted projections on unit vectors (SWAE, eq. 15)."""
    a, b = (points @ directions.T for points in (latents, normal))
    return (a.sort(0)[0] - b.sort(0)[0]).square().mean()


def mardia(latents: Float[Tensor, "n d"]) -> dict[str, float]:
    """Mardia's skewness mean_ij (z_i z_j)^3 (normal: near 0) and kurtosis less d (d + 2)."""
    z = latents.double()
    skewness = sum(((part @ z.T) ** 3).sum().item() for part in z.split(1024))
    kurtosis = z.square().sum(1).square().mean().item()
    d = z.shape[1]
    return {
        "mardia_skewness": skewness / len(z) ** 2,
        "mardia_kurtosis_excess": kurtosis - d * (d + 2),
    }
