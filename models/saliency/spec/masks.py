"""Spec fields of the methods that replace windows, random cells or segments. Torch-free."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.core.spec import Int, SpecGroup
from models.saliency.spec.fields import Extent, pair


def positions(length: int, window: int, stride: int) -> int:
    """Number of window positions along an axis; the last may be cut at the edge."""
    return math.ceil((length - window) / stride) + 1


class SlidingWindow(SpecGroup):
    """A window slid over the image."""

    window: Extent = Field(default=32, description="In pixels, one number or [height, width]")
    stride: Extent = Field(
        default=16, description="Step between windows in pixels, one number or [down, right]"
    )
    channel: Int | None = Field(
        default=None,
        ge=0,
        le=4095,
        description="Replace this channel of the window alone, from 0; null: all channels",
    )

    @model_validator(mode="after")
    def _covers(self) -> "SlidingWindow":
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


class Occlusion(SlidingWindow):
    """Score drop under a sliding window, averaged over the windows that cover each pixel."""

    id: Literal["occlusion"]


class OcclusionRaw(SlidingWindow):
    """Score drop under a sliding window, one value per window position."""

    id: Literal["occlusion_raw"]


class EarlyStop(SpecGroup):
    """Convergence criterion for the number of masks."""

    spearman: float = Field(
        gt=0, lt=1, description="Stop once the maps of both halves of the masks correlate by this"
    )
    min_masks: Int = Field(default=256, ge=32, le=10**6, description="Draw at least this many")


class Rise(SpecGroup):
    """Randomised input sampling: mean of random smooth masks, weighted by their scores."""

    id: Literal["rise"]
    masks: Int = Field(
        default=4000, ge=2, le=10**6, description="Random masks, each a row through the net"
    )
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

    early_stop: EarlyStop | None = Field(
        default=None, description="Draw fewer than ``masks`` if the map converges earlier"
    )

    @model_validator(mode="after")
    def _stops_within(self) -> "Rise":
        if self.early_stop is not None and self.early_stop.min_masks > self.masks:
            raise ValueError(
                f"early_stop.min_masks {self.early_stop.min_masks} are more than masks {self.masks}"
            )
        return self

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


class GridSegments(SpecGroup):
    """Equal rectangles."""

    id: Literal["grid"]
    rows: Int = Field(default=14, ge=1, le=256, description="Rectangles along each side")

    @property
    def most(self) -> int:
        """Number of segments."""
        return self.rows**2


class Slic(SpecGroup):
    """Superpixels by SLIC (Achanta et al. 2012) in the colours of the image."""

    id: Literal["slic"]
    count: Int = Field(
        default=50, ge=2, le=2000, description="Target number of segments, and upper bound"
    )
    compactness: float = Field(
        default=10.0, gt=0, le=1000, description="Weight of position against colour"
    )

    @property
    def most(self) -> int:
        """Upper bound of the number of segments."""
        return self.count


Segments = Annotated[GridSegments | Slic, Field(discriminator="id")]


class FeatureAblation(SpecGroup):
    """Score drop when one segment of the image is replaced, at every pixel of it."""

    id: Literal["feature_ablation"]
    segments: Segments = Field(
        default_factory=lambda: GridSegments(id="grid"),
        description="Segmentation of the image into features",
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net for one image and one baseline."""
        return self.segments.most


class _Surrogate(SpecGroup):
    """A linear model of the score in the indicators of kept segments."""

    segments: Segments = Field(
        default_factory=lambda: Slic(id="slic"),
        description="Segmentation of the image into features",
    )
    samples: Int = Field(
        default=1000, ge=4, le=10**6, description="Random coalitions, each a row through the net"
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


class ShapleyExact(SpecGroup):
    """Shapley values from all coalitions of at most 12 segments; reference for the others."""

    id: Literal["shapley_exact"]
    segments: Segments = Field(
        default_factory=lambda: GridSegments(id="grid", rows=3), description="At most 12 of them"
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
