"""All map makers of a spec: their union, the rows they cost, what they need. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.core.spec import ArtifactRef, Part
from models.saliency.spec.fields import pair
from models.saliency.spec.gradients import (
    Extremal,
    GradCam,
    Gradient,
    IntegratedGradients,
    Meaningful,
    SmoothGrad,
)
from models.saliency.spec.masks import (
    FeatureAblation,
    KernelShap,
    Lime,
    Occlusion,
    OcclusionRaw,
    Rise,
    ShapleyExact,
    SlidingWindow,
)


class Control(Part):
    """A map that knows nothing of the net; a grader that cannot beat it grades nothing."""

    id: Literal["random", "centre_gaussian", "edge", "constant"] = Field(
        description="random: independent uniform numbers; centre_gaussian: of a quarter of the "
        "sides; edge: Sobel of the luminance; constant: one everywhere"
    )

    def rows(self, height: int, width: int) -> int:
        """None."""
        return 0


class Given(Part):
    """Maps of another job, to be graded beside those made here."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$", description="Of the maker, in tables and pictures"
    )
    maps: list[ArtifactRef] = Field(
        min_length=1,
        max_length=1000,
        description="An artifact of a job for each image, in their order: .npy, [height, width] of "
        "the net's input",
    )

    @property
    def id(self) -> str:
        """As the id of a method."""
        return f"given_{self.name}"

    def rows(self, height: int, width: int) -> int:
        """None."""
        return 0


Method = Annotated[
    Occlusion | OcclusionRaw | FeatureAblation | Rise | Lime | KernelShap | ShapleyExact
    | Meaningful | Extremal | Gradient | IntegratedGradients | SmoothGrad | GradCam | Control,
    Field(discriminator="id"),
]  # fmt: skip
REGIONAL = (Occlusion, OcclusionRaw, FeatureAblation, Lime, KernelShap, ShapleyExact)
LEARNED = (Meaningful, Extremal, Gradient, IntegratedGradients, SmoothGrad, GradCam)


NO_BASELINE = "none"  # stands for the baseline of a map that needs none


def uses_baseline(method: Method | Given) -> bool:
    """Whether the map changes with the baseline."""
    if isinstance(method, Extremal):
        return method.perturbation == "fade"
    baseline_free = SmoothGrad | GradCam | Control | Given
    return not isinstance(method, baseline_free) and method.id != "gradient"


def rows_of(method: Method | Given, height: int, width: int, classes: int) -> int:
    """Rows through the net for one image and one baseline image.

    Methods that differentiate the score need passes of their own for each class.
    """
    return method.rows(height, width) * (classes if isinstance(method, LEARNED) else 1)


def check_window(method: Method, field: str, height: int, width: int) -> None:
    """Refuse a window or a grid that does not fit the image.

    Raises:
        ValueError: naming ``field`` and the largest value allowed.
    """
    segments = getattr(method, "segments", None)
    cells = method.grid if isinstance(method, Rise) else getattr(segments, "rows", 0)
    if cells > min(height, width):
        name = "grid" if isinstance(method, Rise) else "segments.rows"
        raise ValueError(
            f"{field}.{name} is {cells}; the net's input is {height} x {width} pixels, "
            f"use 2 to {min(height, width)}"
        )
    if not isinstance(method, SlidingWindow):
        return
    wh, ww = pair(method.window)
    if wh > height or ww > width:
        raise ValueError(
            f"{field}.window is {wh} x {ww} pixels; the net's input is {height} x {width}, "
            "use a window no larger than that"
        )
