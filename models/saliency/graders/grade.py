"""What a grader receives, and what it returns."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from models.saliency.methods.baselines import baseline_images
from models.saliency.methods.case import Case
from models.saliency.net.space import Space
from models.saliency.spec.fields import Baseline

Recompute = Callable[[Case], Tensor]  # from a case to its maps [k, h, w], by the graded method


class GradedMap(NamedTuple):
    """The map of one class with all that a grader may need.

    Attributes:
        values: the map.
        case: the image, with all its classes.
        k: position of the map's class among the targets of the case.
        space: how pixels were normalised.
        recompute: computes the maps of another case in the same way.
        regions: what is known of the image, by the dataset of regions and the category.
    """

    values: Float[Tensor, "h w"]
    case: Case
    k: int
    space: Space
    recompute: Recompute
    regions: Mapping[tuple[str, str | None], Bool[Tensor, "h w"]] = {}

    def baseline_image(self, baseline: Baseline) -> Float[Tensor, "c h w"]:
        """The first draw of a grader's baseline for the image of the map."""
        return baseline_images(baseline, self.case.x, self.space, self.case.seed)[0]


class Grade(NamedTuple):
    """The result of a grader.

    Attributes:
        value: the grade; None where it is undefined.
        curves: the curves it was computed from, pairs of share and score, by a suffix of the
            grader's label.
    """

    value: float | None
    curves: Mapping[str, list[tuple[float, float]]] = {}
