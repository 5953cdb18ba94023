"""Inputs that a classifier was not trained for: of another set, or attacked."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from models.data import images
from models.data.images import ImageData
from models.data.sizing import CHUNK
from models.freetickets.ensemble import mixture


def batches(data: ImageData, pixels: UInt8[Tensor, "n h w c"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images as the net was trained on; labels are those of the test set, or zeros.

    Images are float32 [b, c, h, w], labels int64 [b].
    """
    same = len(pixels) == len(data.test_labels)
    labels = data.test_labels if same else torch.zeros(len(pixels), dtype=torch.long)
    for x, y in zip(pixels.split(CHUNK), labels.split(CHUNK), strict=True):
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
