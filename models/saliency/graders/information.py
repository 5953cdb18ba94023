"""Performance information curves (Kapishnikov et al. 2019): score over the information shown."""

import io
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from models.core.errors import SpecError
from models.saliency.graders.grade import Grade, GradedMap
from models.saliency.ranks import ranks
from models.saliency.spec.simplicity import InformationCurve


def grade_information(part: InformationCurve, graded: GradedMap) -> Grade:
    """Area under the curve of score or accuracy over information, both from 0 to 1.

    The best pixels of the map come first onto the baseline. Information is made to rise, as it may
    fall where a few pixels complete a pattern. None where the whole image scores no more than the
    baseline alone.

    Raises:
        SpecError: for ``aic`` of a net whose outputs are no classes.
    """
    case, k = graded.case, graded.k
    if part.id == "aic" and case.scorer.meaning.kind != "classes":
        raise SpecError(
            f"graders: aic asks which class is the highest; the net's outputs are "
            f"{case.scorer.meaning.kind}",
            hint="use sic",
        )
    b = graded.baseline_image(part.replaced_by)
    steps = torch.arange(part.points + 1, device=case.x.device)
    counts = (steps * graded.values.numel() / part.points).round().long().unique()
    rank = ranks(graded.values, lowest_first=False)

    def states(index: Int64[Tensor, "m"]) -> Float[Tensor, "m c h w"]:
        return torch.where(rank < counts[index, None, None, None], case.x, b)

    # Each state is made once more for its size; that costs less than keeping them all.
    each = torch.arange(len(counts), device=case.x.device).split(1)
    size = [_bytes(states(index)[0], graded) for index in each]
    x = _scaled(np.maximum.accumulate(np.array(size, dtype=np.float64)))
    if part.id == "sic":
        y = _scaled(case.scores(states, len(counts))[:, k].cpu().numpy())
    else:
        y = _highest(graded, states, len(counts))
    if x is None or y is None:
        return Grade(None)
    return Grade(float(np.trapezoid(y, x)), {"": list(zip(x.tolist(), y.tolist(), strict=True))})


def _highest(
    graded: GradedMap, states: Callable[[Tensor], Tensor], count: int
) -> Float[np.ndarray, "states"]:
    """1 where the class is the highest output, else 0."""
    case = graded.case
    hits = [
        case.scorer.outputs(states(index)).argmax(1) == case.targets[graded.k]
        for index in torch.arange(count, device=case.x.device).split(case.chunk)
    ]
    return torch.cat(hits).double().cpu().numpy()


def _scaled(values: Float[np.ndarray, "states"]) -> Float[np.ndarray, "states"] | None:
    """From 0 at the first to 1 at the last, cut to that; None where the last is not higher."""
    if values[-1] <= values[0]:
        return None
    return np.clip((values - values[0]) / (values[-1] - values[0]), 0, 1)


def _bytes(image: Float[Tensor, "c h w"], graded: GradedMap) -> int:
    """Size of an image of 8 bits as lossless WebP; channels other than three each by itself."""
    pixels = (graded.space.pixels(image).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    planes = [np.moveaxis(pixels, 0, 2)] if len(pixels) == 3 else [*pixels]
    total = 0
    for plane in planes:
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "WEBP", lossless=True)
        total += len(stream.getvalue())
    return total
