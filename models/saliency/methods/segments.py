"""Segmentation of an image: each pixel belongs to one feature."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.core.errors import DataError
from models.saliency.engine.boxes import Regions, regions_of
from models.saliency.methods.case import Case
from models.saliency.spec.masks import GridSegments, Slic


def segment(part: GridSegments | Slic, case: Case) -> Int64[Tensor, "h w"]:
    """Segment labels of the pixels, 0, 1, ... without gaps.

    Raises:
        DataError: if SLIC finds a single segment, as in an image of one colour.
    """
    height, width = case.x.shape[1:]
    if isinstance(part, GridSegments):
        rows = torch.arange(height) * part.rows // height
        columns = torch.arange(width) * part.rows // width
        return (rows[:, None] * part.rows + columns).to(case.x.device)
    pixels = case.x if case.pixels is None else case.pixels
    labels = _superpixels(pixels.double().cpu().numpy(), part)
    if labels.max() == 0:
        raise DataError(
            "segments: SLIC finds one segment in the whole image",
            hint="use segments of id 'grid'",
        )
    return torch.from_numpy(labels).to(case.x.device)


def _superpixels(pixels: Float[np.ndarray, "c h w"], part: Slic) -> Int64[np.ndarray, "h w"]:
    """SLIC labels without gaps; the target is lowered until there are at most ``count``."""
    from skimage.segmentation import slic  # imports SciPy, 0.5 s that a grid does not need

    image = np.moveaxis(pixels, 0, 2)
    colour = image.shape[2] == 3
    for target in range(part.count, 0, -1):
        labels = slic(
            image,
            n_segments=target,
            compactness=part.compactness,
            convert2lab=colour,
            start_label=0,
            channel_axis=2,
        )
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        if labels.max() < part.count:
            break
    return labels.astype(np.int64)


def regions(labels: Int64[Tensor, "h w"]) -> Regions:
    """Each segment as a region to replace."""
    every = torch.arange(int(labels.max()) + 1, device=labels.device)
    return regions_of(labels == every[:, None, None])
