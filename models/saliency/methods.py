"""Map makers as parts of a spec: parameters, bounds, rows they cost. Torch-free."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.core.spec import Int, Part
from models.saliency.parts import Extent, pair


def positions(length: int, window: int, stride: int) -> int:
    """Number of window positions along an axis; the last may be cut at the edge."""
    return math.ceil((length - window) / stride) + 1


class _Windows(Part):
    """A window slid over the image."""

    window: Extent = Field(default=32, description="In pixels, one number or [height, width]")
    stride: Extent = Field(
        default=16, description="Step between windows in pixels, one number or [down, right]"
    )

    @model_validator(mode="after")
    def _covers(self) -> "_Windows":
        if any(s > w for s, w in zip(pair(self.stride), pair(self.window), strict=True)):
            raise ValueError(
                f"stride {self.stride} is larger than window {self.window}, so that some pixels "
                "would never be covered; use stride <= window"
            )
        return self

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        (wh, ww), (sh, sw) = pair(self.window), pair(self.stride)
        return max(positions(height, wh, sh), 0) * max(positions(width, ww, sw), 0)


class Occlusion(_Windows):
    """Fall of the score under a sliding window, averaged over the windows on each pixel."""

    id: Literal["occlusion"]


class OcclusionRaw(_Windows):
    """Fall of the score under a sliding window, one value a window position."""

    id: Literal["occlusion_raw"]


class Rise(Part):
    """Randomised input sampling: scores under random smooth masks, put back on the mask."""

    id: Literal["rise"]
    masks: Int = Field(default=4000, ge=2, le=10**6, description="Random masks, rows of the net")
    grid: Int = Field(default=7, ge=2, le=256, description="Cells along each side of a mask")
    p: float = Field(default=0.5, gt=0, lt=1, description="Probability that a cell is kept")
    estimator: Literal["raw", "coverage", "centred", "slope"] = Field(
        default="raw",
        description="raw: mean of score x mask over p, as published; coverage: divided by the "
        "pixel's own coverage; centred: covariance over p; slope: covariance over variance",
    )
    sampling: Literal["iid", "antithetic", "balanced"] = Field(
        default="iid",
        description="iid: independent masks, as published; antithetic: each mask followed by its "
        "mirror image in probability (the complement at p = 0.5); balanced: antithetic with a "
        "fixed number of kept cells and evenly cycled shifts",
    )

    @model_validator(mode="after")
    def _pairs(self) -> "Rise":
        if self.sampling == "iid":
            return self
        if self.masks % 2:
            raise ValueError(
                f"masks must be even with sampling {self.sampling!r}, which draws pairs; "
                f"use {self.masks + 1} instead of {self.masks}"
            )
        if self.sampling == "balanced" and not 1 <= round(self.p * self.grid**2) < self.grid**2:
            raise ValueError(
                f"p = {self.p} of {self.grid**2} cells keeps none or all of them; with sampling "
                "'balanced' use a p nearer to 0.5 or a finer grid"
            )
        return self

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        return self.masks


class Grid(Part):
    """Equal rectangles."""

    id: Literal["grid"]
    rows: Int = Field(default=14, ge=1, le=256, description="Rectangles along each side")

    @property
    def most(self) -> int:
        """Number of segments."""
        return self.rows**2


class Slic(Part):
    """Superpixels by SLIC (Achanta et al. 2012) in the colours of the image."""

    id: Literal["slic"]
    count: Int = Field(default=50, ge=2, le=2000, description="Segments aimed at; never more")
    compactness: float = Field(default=10.0, gt=0, le=1000, description="Weight of place over hue")

    @property
    def most(self) -> int:
        """Number of segments, or more."""
        return self.count


Segments = Annotated[Grid | Slic, Field(discriminator="id")]


class FeatureAblation(Part):
    """Fall of the score when one segment of the image is replaced, at every pixel of it."""

    id: Literal["feature_ablation"]
    segments: Segments = Field(
        default_factory=lambda: Grid(id="grid"), description="How the image is cut into features"
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        return self.segments.most


class _Surrogate(Part):
    """A linear model of the score over which segments are kept."""

    segments: Segments = Field(
        default_factory=lambda: Slic(id="slic"), description="How the image is cut into features"
    )
    samples: Int = Field(
        default=1000, ge=4, le=10**6, description="Random coalitions, rows of the net"
    )

    @model_validator(mode="after")
    def _determined(self) -> "_Surrogate":
        least = self.segments.most + 2
        if self.samples < least:
            raise ValueError(
                f"samples {self.samples} leave a model of {self.segments.most} segments "
                f"under-determined; use at least {least}, or fewer segments"
            )
        return self

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        return self.samples


class Lime(_Surrogate):
    """Weighted ridge regression of the score on random coalitions (Ribeiro et al. 2016)."""

    id: Literal["lime"]
    width: float = Field(
        default=0.25,
        gt=0,
        le=100,
        description="Of the kernel exp(-D^2 / width^2), D the cosine "
        "distance of a coalition from the whole image",
    )
    ridge: float = Field(default=0.0, ge=0, le=1e6, description="Penalty of squared coefficients")


class KernelShap(_Surrogate):
    """Shapley values by a regression under the Shapley kernel (Lundberg and Lee 2017)."""

    id: Literal["kernel_shap"]
    paired: bool = Field(default=True, description="Each coalition followed by its complement")

    @model_validator(mode="after")
    def _even(self) -> "KernelShap":
        if self.paired and self.samples % 2:
            raise ValueError(f"samples must be even where paired; use {self.samples + 1}")
        return self

    def rows(self, height: int, width: int) -> int:
        """Rows through the net: coalitions, the whole image and the baseline."""
        return self.samples + 2


class ShapleyExact(Part):
    """Shapley values from all coalitions of at most 12 segments; the reference of the others."""

    id: Literal["shapley_exact"]
    segments: Segments = Field(
        default_factory=lambda: Grid(id="grid", rows=3), description="At most 12 of them"
    )

    @model_validator(mode="after")
    def _few(self) -> "ShapleyExact":
        if self.segments.most > 12:
            raise ValueError(
                f"{self.segments.most} segments have 2^{self.segments.most} coalitions; use at "
                "most 12 segments, or kernel_shap"
            )
        return self

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        return 2**self.segments.most


class Meaningful(Part):
    """A smooth mask that keeps little and loses the class (Fong and Vedaldi 2017)."""

    id: Literal["meaningful"]
    iterations: Int = Field(default=300, ge=1, le=10_000, description="Adam steps")
    side: Int = Field(default=28, ge=2, le=224, description="Of the mask before its enlargement")
    l1: float = Field(default=1e-2, ge=0, le=100, description="Weight of mean(1 - mask)")
    tv: float = Field(default=2e-1, ge=0, le=100, description="Weight of mean |gradient|^beta")
    beta: float = Field(default=3.0, ge=1, le=4)
    lr: float = Field(default=0.1, gt=0, le=10, description="Learning rate of Adam")
    jitter: Int = Field(default=4, ge=0, le=32, description="Pixels the input is shifted at most")

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.iterations


class Extremal(Part):
    """The mask of a fixed area that keeps the class best (Fong, Patrick, Vedaldi 2019)."""

    id: Literal["extremal"]
    areas: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.1], min_length=1, max_length=16, description="Shares of the image kept"
    )
    variant: Literal["preserve", "delete", "dual"] = "preserve"
    iterations: Int = Field(default=800, ge=1, le=10_000, description="Steps for each area")
    step: Int = Field(default=7, ge=2, le=64, description="Pixels between mask parameters")
    sigma: float = Field(default=21.0, ge=1, le=100, description="Smoothness of the mask, pixels")
    perturbation: Literal["blur", "fade"] = Field(
        default="blur", description="Towards a blur of sigma 20, or towards the baseline"
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.iterations * len(self.areas) * (2 if self.variant == "dual" else 1)


class Gradient(Part):
    """Derivative of the score: its largest size over the channels, or times (x - baseline)."""

    id: Literal["gradient", "input_x_gradient"]

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return 1


class IntegratedGradients(Part):
    """Derivative averaged from the baseline to the image, times their difference."""

    id: Literal["integrated_gradients"]
    steps: Int = Field(default=64, ge=1, le=4096, description="Points of the midpoint rule")

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.steps


class SmoothGrad(Part):
    """Mean size of the derivative under noise (Smilkov et al. 2017)."""

    id: Literal["smoothgrad"]
    samples: Int = Field(default=50, ge=1, le=4096)
    sigma: float = Field(default=0.15, gt=0, le=2, description="Of the noise, in ranges of x")

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.samples


class GradCam(Part):
    """Maps of one layer weighted by their mean derivative (Selvaraju et al. 2017)."""

    id: Literal["gradcam"]
    layer: str | None = Field(
        default=None, max_length=200, description="Name of a module; null: the last with maps"
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return 1


class Control(Part):
    """A map that knows nothing of the net; a grader that cannot beat it grades nothing."""

    id: Literal["random", "centre_gaussian", "edge", "constant"] = Field(
        description="random: independent uniform numbers; centre_gaussian: of a quarter of the "
        "sides; edge: Sobel of the luminance; constant: one everywhere"
    )

    def rows(self, height: int, width: int) -> int:
        """None."""
        return 0


Method = Annotated[
    Occlusion | OcclusionRaw | FeatureAblation | Rise | Lime | KernelShap | ShapleyExact
    | Meaningful | Extremal | Gradient | IntegratedGradients | SmoothGrad | GradCam | Control,
    Field(discriminator="id"),
]  # fmt: skip
LEARNED = (Meaningful, Extremal, Gradient, IntegratedGradients, SmoothGrad, GradCam)


def uses_baseline(method: Method) -> bool:
    """Whether the map changes with the baseline."""
    if isinstance(method, Extremal):
        return method.perturbation == "fade"
    return not isinstance(method, SmoothGrad | GradCam | Control) and method.id != "gradient"


def rows_of(method: Method, height: int, width: int, classes: int) -> int:
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
    if not isinstance(method, _Windows):
        return
    wh, ww = pair(method.window)
    if wh > height or ww > width:
        raise ValueError(
            f"{field}.window is {wh} x {ww} pixels; the net's input is {height} x {width}, "
            "use a window no larger than that"
        )
