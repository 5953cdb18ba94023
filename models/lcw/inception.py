"""Features of an Inception net that the operator uploads; the service carries no such weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.core.errors import DataError
from models.core.run import Run
from models.lcw.fields import FEATURE_DIMS
from models.nets.exported import load_program

SIDE = 299  # of the images the net sees, in pixels
BATCH = 64


def features(path: Path, run: Run) -> Callable[[UInt8[Tensor, "n h w c"]], Float[Tensor, "n f"]]:
    """The net of a torch.export archive as a function of images.

    It sees float32 [batch, 3, 299, 299] in [-1, 1), as the published FIDs do: bytes less 128 over
    128, grey repeated, resized as TensorFlow 1 did.

    Raises:
        DataError: if the archive is refused, or the net does not give 2,048 features an image.
    """
    net = load_program(path, run.device)

    def of(images: Tensor) -> Tensor:
        parts = []
        for part in images.split(BATCH):
            run.check_stop()
            x = (part.permute(0, 3, 1, 2).float() - 128) / 128
            with torch.no_grad():
                parts.append(_checked(net(resize(x, SIDE).expand(-1, 3, -1, -1)), len(part)))
        return torch.cat(parts)

    return of


def _checked(out: Tensor, count: int) -> Tensor:
    wanted = (count, FEATURE_DIMS["fid_inception"])
    if tuple(out.shape) != wanted:
        raise DataError(
            f"evaluation.inception gives {list(out.shape)} for {count} images; {list(wanted)} is"
            " expected",
            hint="export the net up to its pooled features, with an open batch",
        )
    return out


def resize(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Bilinear without antialiasing, pixel k at k times the ratio of the sides (TensorFlow 1)."""
    down, across = (_weights(length, side).to(x) for length in x.shape[2:])
    return down @ x @ across.T


def _weights(length: int, side: int) -> Float[Tensor, "side length"]:
    """Shares of the pixels of one axis in those of the resized one."""
    at = torch.arange(side, dtype=torch.float64) * (length / side)
    low = at.long()
    rows, share = torch.arange(side), at - low
    weights = torch.zeros(side, length, dtype=torch.float64)
    weights[rows, low] = 1 - share
    weights[rows, (low + 1).clamp_max(length - 1)] += share
    return weights
