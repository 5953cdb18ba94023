"""Spec fields of graders of a map by itself, and of curves over information. Torch-free."""

from typing import Literal

from pydantic import Field

from models.core.spec import Int, SpecGroup
from models.saliency.spec.fields import Baseline, Blur


class Simplicity(SpecGroup):
    """How few pixels a map is about, by the map alone; a map may be simple and wrong.

    complexity: entropy of the shares of |map| in nats (Bhatt et al. 2020); sparseness: Gini index
    of |map| (Chalasani et al. 2020).
    """

    id: Literal["complexity", "sparseness"]

    def rows(self) -> int:
        """No rows."""
        return 0


class InformationCurve(SpecGroup):
    """Score over the information in an image whose best pixels are shown (Kapishnikov et al. 2019).

    Information is the size of the image as lossless WebP, 0 for the baseline alone and 1 for the
    whole image. sic: score, scaled likewise; aic: whether the class is the highest output.
    """

    id: Literal["sic", "aic"]
    baseline: Baseline | None = Field(default=None, description="null: blur 10")
    points: Int = Field(default=28, ge=1, le=10_000, description="States after the first")

    @property
    def replaced_by(self) -> Baseline:
        """The baseline of the grader, with its default."""
        return Blur(id="blur") if self.baseline is None else self.baseline

    def rows(self) -> int:
        """Rows through the net for one map."""
        return self.points + 1
