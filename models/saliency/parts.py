"""Methods and baselines as parts of a spec: parameters, bounds, rows they cost. Torch-free."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.core.spec import Int, Part


def form(value: Any) -> str | None:
    """Tag of a field that takes a number, a list of numbers or a word."""
    forms = {int: "number", float: "number", list: "list", tuple: "list", str: "word"}
    return forms.get(type(value))


Pixels = Annotated[Int, Field(ge=1, le=4096)]
Extent = Annotated[
    Annotated[Pixels, Tag("number")]
    | Annotated[list[Pixels], Field(min_length=2, max_length=2), Tag("list")],
    Discriminator(
        form,
        custom_error_type="extent_form",
        custom_error_message="give a number of pixels from 1 to 4096, or [height, width]",
    ),
]


def pair(extent: int | list[int]) -> tuple[int, int]:
    """Height and width of an extent, in pixels."""
    return (extent, extent) if isinstance(extent, int) else (extent[0], extent[1])


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


Method = Annotated[Occlusion | OcclusionRaw | Rise, Field(discriminator="id")]


class Plain(Part):
    """A baseline without parameters."""

    id: Literal["zero", "black", "white", "gray", "channel_mean", "dataset_mean"] = Field(
        description="zero: 0 after normalisation; black, white, gray: 0, 1, 0.5 before it; "
        "channel_mean: of this image; dataset_mean: the mean that the net's weights record"
    )


class Constant(Part):
    """One colour."""

    id: Literal["constant"]
    value: list[float] = Field(
        min_length=1, max_length=16, description="One number a channel, or one for all channels"
    )
    space: Literal["pixel", "normalised"] = Field(
        default="pixel", description="pixel: 0 is black and 1 white; normalised: as the net sees it"
    )

    @model_validator(mode="after")
    def _bounds(self) -> "Constant":
        low, high = (0.0, 1.0) if self.space == "pixel" else (-1000.0, 1000.0)
        if any(not low <= number <= high for number in self.value):
            raise ValueError(
                f"value {self.value} must lie in [{low:g}, {high:g}] in {self.space} space; "
                "divide 8-bit colours by 255"
            )
        return self


class Blur(Part):
    """The image itself, blurred."""

    id: Literal["blur"]
    sigma: float = Field(
        default=10.0, ge=0.1, le=100, description="Standard deviation of the Gaussian, in pixels"
    )


class Noise(Part):
    """A random baseline; scores are means over the draws."""

    id: Literal["uniform_noise", "shuffle"] = Field(
        description="uniform_noise: each value uniform from black to white; shuffle: the pixels of "
        "this image in random order"
    )
    draws: Int = Field(default=1, ge=1, le=64, description="Independent draws to average over")
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Added to the job's seed")


class GaussianNoise(Part):
    """Independent normal values around the mean of the net's data; scores are means over draws."""

    id: Literal["gaussian_noise"]
    sigma: float = Field(
        default=1.0, gt=0, le=100, description="Standard deviation, in units of the data's own"
    )
    draws: Int = Field(default=1, ge=1, le=64, description="Independent draws to average over")
    seed: Int = Field(default=0, ge=0, lt=2**32, description="Added to the job's seed")


Baseline = Annotated[Plain | Constant | Blur | Noise | GaussianNoise, Field(discriminator="id")]


def draws(baseline: Part) -> int:
    """How many images a baseline stands for: 1 unless it is random."""
    return getattr(baseline, "draws", 1)


def labels(parts: Sequence[Method | Baseline]) -> list[str]:
    """A name for each part: its id, numbered from 1 where the id occurs more than once."""
    ids = [part.id for part in parts]
    return [
        name if ids.count(name) == 1 else f"{name}-{ids[: position + 1].count(name)}"
        for position, name in enumerate(ids)
    ]


def check_window(method: Method, field: str, height: int, width: int) -> None:
    """Refuse a window or a grid that does not fit the image.

    Raises:
        ValueError: naming ``field`` and the largest value allowed.
    """
    if isinstance(method, Rise):
        if method.grid > min(height, width):
            raise ValueError(
                f"{field}.grid is {method.grid}; the net's input is {height} x {width} pixels, "
                f"use 2 to {min(height, width)}"
            )
        return
    wh, ww = pair(method.window)
    if wh > height or ww > width:
        raise ValueError(
            f"{field}.window is {wh} x {ww} pixels; the net's input is {height} x {width}, "
            "use a window no larger than that"
        )
