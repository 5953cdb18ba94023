"""All methods of a spec: their union, the rows they need, their restrictions. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.core.spec import ArtifactRef, SpecGroup
from models.saliency.spec.channels import AblationCam, ScoreCam
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
from models.saliency.spec.partition import PartitionShap
from models.saliency.spec.sobol import Sobol


class Control(SpecGroup):
    """A map that does not depend on the net; a useful grader ranks it last."""

    id: Literal["random", "centre_gaussian", "edge", "constant"] = Field(
        description="random: independent uniform numbers; centre_gaussian: of a quarter of the "
        "sides; edge: Sobel of the luminance; constant: one everywhere"
    )

    def rows(self, height: int, width: int) -> int:
        """No rows."""
        return 0


class Given(SpecGroup):
    """Maps of another job, to be graded beside those of this one."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$",
        description="Name of the method, in tables and pictures",
    )
    maps: list[ArtifactRef] = Field(
        min_length=1,
        max_length=1000,
        description="An artifact of a job for each image, in their order: .npy, [height, width] of "
        "the net's input",
    )

    @property
    def id(self) -> str:
        """Takes the position of a method's id."""
        return f"given_{self.name}"

    def rows(self, height: int, width: int) -> int:
        """No rows."""
        return 0


Method = Annotated[
    Occlusion | OcclusionRaw | FeatureAblation | Rise | Lime | KernelShap | ShapleyExact
    | PartitionShap | Sobol | ScoreCam | AblationCam | Meaningful | Extremal | Gradient
    | IntegratedGradients | SmoothGrad | GradCam | Control,
    Field(discriminator="id"),
]  # fmt: skip
REGIONAL = (Occlusion, OcclusionRaw, FeatureAblation, Lime, KernelShap, ShapleyExact, PartitionShap)
LEARNED = (Meaningful, Extremal, Gradient, IntegratedGradients, SmoothGrad, GradCam)


NO_BASELINE = "none"  # label for maps that need no baseline


def uses_baseline(method: Method | Given) -> bool:
    """Whether the map depends on the baseline."""
    if isinstance(method, Extremal):
        return method.perturbation == "fade"
    baseline_free = SmoothGrad | GradCam | AblationCam | Control | Given
    return not isinstance(method, baseline_free) and method.id != "gradient"


def rows_of(method: Method | Given, height: int, width: int, classes: int) -> int:
    """Rows through the net for one image and one baseline image.

    Gradient methods need separate passes for each class.

    Args:
        method: of the spec.
        height: of the net's input.
        width: of the net's input.
        classes: number of classes to explain.
    """
    return method.rows(height, width) * (classes if isinstance(method, LEARNED) else 1)


def check_window(method: Method, field: str, height: int, width: int) -> None:
    """Refuse a window or a grid that does not fit the image.

    Args:
        method: of the spec.
        field: names the method in errors.
        height: of the net's input.
        width: of the net's input.

    Raises:
        ValueError: naming ``field`` and the largest value allowed.
    """
    segments = getattr(method, "segments", None)
    cells = getattr(method, "grid", 0) or getattr(segments, "rows", 0)
    if cells > min(height, width):
        name = "segments.rows" if segments else "grid"
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
