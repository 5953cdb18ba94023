"""Control maps that do not depend on the net; methods and graders must do better than these."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.saliency import philox
from models.saliency.methods.case import Case
from models.saliency.spec.methods import Control

LUMINANCE = (0.299, 0.587, 0.114)
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def control(part: Control, case: Case, _b: Float[Tensor, "c h w"]) -> Float[Tensor, "k h w"]:
    """A control map, the same for every class, float64."""
    height, width = case.x.shape[1:]
    values = {
        "random": _random,
        "centre_gaussian": _centre,
        "edge": _edge,
        "constant": lambda _: torch.ones(height, width, dtype=torch.float64),
    }[part.id](case)
    return values.to(case.x.device).expand(len(case.targets), height, width)


def _random(case: Case) -> Float[Tensor, "h w"]:
    height, width = case.x.shape[1:]
    index = torch.zeros(1, dtype=torch.int64, device=case.x.device)
    return philox.uniform((case.seed, 1), philox.NOISE, index, height * width).view(height, width)


def _centre(case: Case) -> Float[Tensor, "h w"]:
    rows, columns = (
        torch.exp(-0.5 * ((torch.arange(n).double() - (n - 1) / 2) / (n / 4)) ** 2)
        for n in case.x.shape[1:]
    )
    return torch.outer(rows, columns)


def _edge(case: Case) -> Float[Tensor, "h w"]:
    """Length of the Sobel gradient of the luminance, border pixels repeated."""
    pixels = (case.x if case.pixels is None else case.pixels).double()
    weights = LUMINANCE if len(pixels) == 3 else (1 / len(pixels),) * len(pixels)
    grey = (pixels * pixels.new_tensor(weights)[:, None, None]).sum(0)
    kernel = pixels.new_tensor(SOBEL)
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")
    both = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])[0]
    return both.square().sum(0).clamp(min=math.ulp(0.0)).sqrt()
