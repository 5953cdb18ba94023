"""Graders that compare a map with a box or with the regions that are known of an image."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.saliency.graders.agreement import top_share
from models.saliency.graders.grade import GradedMap
from models.saliency.spec.graders import Localisation


def localise(part: Localisation, graded: GradedMap) -> float | None:
    """The grade by the box of the spec, or by the regions of the image.

    None where the regions lie outside of what the net sees.
    """
    if part.regions is not None:
        region = graded.regions[part.regions.dataset, part.category].to(graded.values.device)
    else:
        top, left, bottom, right = part.box or (0, 0, 0, 0)
        region = torch.zeros_like(graded.values, dtype=torch.bool)
        region[top:bottom, left:right] = True
    return localisation(part, graded.values, region) if region.any() else None


def localisation(
    part: Localisation, values: Float[Tensor, "h w"], region: Bool[Tensor, "h w"]
) -> float | None:
    """How well a map finds a region.

    pointing_game: 1 if the maximum is within ``tolerance`` pixels of the region, else 0.
    mass_in_box: the share of the map's positive mass inside. region_iou: intersection over union of
    the region and as many of the highest pixels; None where over 1 % of the pixels tie there.

    Args:
        part: the grader.
        values: the map.
        region: some of its pixels.
    """
    if part.id == "mass_in_box":
        positive = values.double().clamp(min=0)
        return (positive[region].sum() / positive.sum().clamp(min=1e-300)).item()
    if part.id == "region_iou":
        count = int(region.sum())
        chosen = top_share(values.flatten().cpu().numpy(), count)
        if chosen is None:
            return None
        shared = float(chosen[region.flatten().cpu().numpy()].sum())
        return shared / (2 * count - shared)
    row, column = divmod(int(values.argmax()), values.shape[1])
    rows, columns = region.nonzero(as_tuple=True)
    squared = (rows - row) ** 2 + (columns - column) ** 2
    return float(squared.min() <= part.tolerance**2)
