"""Inputs that a classifier was not trained for: corrupted, attacked, of another set.

The corruptions are six of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261) by their formulas
and constants for 32 px; the noise is keyed, so every run sees the same images.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from models.core.device import generator
from models.data import images
from models.data.images import ImageData
from models.freetickets.ensemble import mixture

SEVERITIES: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500.0, 250.0, 100.0, 75.0, 50.0),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
}
Pixels = Float[Tensor, "n h w c"]


def _gaussian(x: Pixels, c: float, numbers: torch.Generator) -> Pixels:
    return x + c * torch.randn(x.shape, generator=numbers)


def _shot(x: Pixels, c: float, numbers: torch.Generator) -> Pixels:
    return torch.poisson(x * c, generator=numbers) / c


def _impulse(x: Pixels, c: float, numbers: torch.Generator) -> Pixels:
    draw = torch.rand(x.shape, generator=numbers)
    return x.masked_fill(draw < c / 2, 0.0).masked_fill(draw > 1 - c / 2, 1.0)


def _blur(x: Pixels, c: float, _: torch.Generator) -> Pixels:
    reach = int(4 * c + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / c) ** 2)
    line /= line.sum()
    channels = x.shape[3]
    y = functional.pad(x.permute(0, 3, 1, 2), (reach,) * 4, mode="replicate")
    for kernel in (line.view(1, 1, 1, -1), line.view(1, 1, -1, 1)):
        y = functional.conv2d(y, kernel.expand(channels, -1, -1, -1), groups=channels)
    return y.permute(0, 2, 3, 1)


def _brightness(x: Pixels, c: float, _: torch.Generator) -> Pixels:
    """Value of HSV plus c: all channels in proportion, so that hue and saturation stay."""
    value = x.amax(3, keepdim=True)
    return torch.where(value > 0, x / value.clamp(min=1e-6), 1.0) * (value + c).clamp(max=1)


def _contrast(x: Pixels, c: float, _: torch.Generator) -> Pixels:
    mean = x.mean((1, 2), keepdim=True)
    return (x - mean) * c + mean


KINDS: dict[str, Callable[[Pixels, float, torch.Generator], Pixels]] = {
    "gaussian_noise": _gaussian,
    "shot_noise": _shot,
    "impulse_noise": _impulse,
    "gaussian_blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
}


def corrupt(pixels: UInt8[Tensor, "n h w c"], kind: str, severity: int) -> UInt8[Tensor, "n h w c"]:
    """Corrupted images of the same size.

    Args:
        pixels: on any device; the work is done on the CPU.
        kind: a key of ``SEVERITIES``.
        severity: 1 to 5.
    """
    size = SEVERITIES[kind][severity - 1]
    parts = []
    for index, chunk in enumerate(pixels.cpu().split(images.CHUNK)):
        numbers = generator(severity, kind, index)
        x = KINDS[kind](chunk.float() / 255, size, numbers).clamp(0, 1)
        parts.append((x * 255).to(torch.uint8))
    return torch.cat(parts).to(pixels.device)


def batches(data: ImageData, pixels: UInt8[Tensor, "n h w c"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images as the net was trained on; labels are those of the test set, or zeros."""
    same = len(pixels) == len(data.test_labels)
    labels = data.test_labels if same else torch.zeros(len(pixels), dtype=torch.long)
    for x, y in zip(pixels.split(images.CHUNK), labels.split(images.CHUNK), strict=True):
        yield images.normalise(x, data.mean, data.std), y


def attacked(
    nets: Sequence[nn.Module],
    data: ImageData,
    pixels: UInt8[Tensor, "b h w c"],
    labels: Int64[Tensor, "b"],
    eps: float,
) -> Float[Tensor, "b c h w"]:
    """FGSM on the ensemble: x + eps sign(gradient of its NLL), clipped to 0..1, then normalised.

    Args:
        nets: in eval mode; the target is the NLL of their mean probability.
        data: tells how images are normalised.
        pixels: clean images.
        labels: true classes.
        eps: in pixel values on 0..1.
    """
    mean = torch.tensor(data.mean, device=pixels.device).view(1, -1, 1, 1)
    std = torch.tensor(data.std, device=pixels.device).view(1, -1, 1, 1)
    x = (pixels.permute(0, 3, 1, 2).float() / 255).requires_grad_()
    logs = torch.stack([net((x - mean) / std).float().log_softmax(1) for net in nets])
    loss = functional.nll_loss(mixture(logs), labels, reduction="sum")
    (slope,) = torch.autograd.grad(loss, x)
    return ((x.detach() + eps * slope.sign()).clamp(0, 1) - mean) / std
