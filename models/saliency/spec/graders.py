"""Spec fields of the graders. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.core.spec import DatasetRef, Int, SpecGroup
from models.saliency.spec.fields import Baseline, Blur, Plain
from models.saliency.spec.simplicity import InformationCurve, Simplicity


class Curve(SpecGroup):
    """Score while pixels are replaced in the order of the map (Petsiuk et al. 2018; Samek 2017).

    deletion and morf replace the highest values first and lerf the lowest, from the image towards
    the baseline; insertion goes from the baseline to the image. srg is the area of lerf minus that
    of morf (Bluecher et al. 2024).
    """

    id: Literal["deletion", "insertion", "morf", "lerf", "srg"]
    baseline: Baseline | None = Field(
        default=None, description="Values of removed pixels; null: zero, for insertion blur 10"
    )
    points: Int = Field(default=224, ge=1, le=10_000, description="States after the first")
    shuffles: Int = Field(
        default=0, ge=0, le=100, description="Repetitions with ties broken at random; 0: by index"
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="0: every state is scored. Above 0: every 8th, then more where the score "
        "differs by over twice this; the area is within it if the curve is monotone in between",
    )
    order_unit: Literal["pixel", "channel_value"] = Field(
        default="pixel",
        description="What is replaced: pixels with all channels, or single channel values "
        "(every channel by the same map), as Quantus' PixelFlipping does",
    )

    @property
    def replaced_by(self) -> Baseline:
        """The baseline of the grader, with its default."""
        if self.baseline is not None:
            return self.baseline
        return Blur(id="blur") if self.id == "insertion" else Plain(id="zero")

    def rows(self) -> int:
        """Rows through the net for one map, at most."""
        return (self.points + 1) * (self.shuffles + 1) * (2 if self.id == "srg" else 1)


class RegionCurve(SpecGroup):
    """Score while whole regions are replaced, in the order of the map's mean over them."""

    id: Literal["region_perturbation", "selectivity", "irof"] = Field(
        description="region_perturbation: squares, the best ones only; selectivity: all squares; "
        "irof: superpixels (Rieger and Hansen 2020)"
    )
    baseline: Baseline | None = Field(default=None, description="null: zero; irof: channel_mean")
    order: Literal["morf", "lerf", "random"] = "morf"
    patch: Int = Field(default=8, ge=1, le=256, description="Side of a square, pixels")
    regions: Int = Field(default=100, ge=1, le=10_000, description="Squares or superpixels used")

    @property
    def replaced_by(self) -> Baseline:
        """The baseline of the grader, with its default."""
        default = "channel_mean" if self.id == "irof" else "zero"
        return Plain(id=default) if self.baseline is None else self.baseline

    def rows(self) -> int:
        """Upper bound of the rows through the net for one map."""
        return self.regions + 1


class Road(SpecGroup):
    """Score with pixels imputed from their neighbours (Rong et al. 2022): (lerf - morf) / 2."""

    id: Literal["road"]
    percent: list[Annotated[Int, Field(ge=1, le=99)]] = Field(
        default=[10, 20, 30, 40, 50, 60, 70, 80, 90], min_length=1, max_length=99
    )
    noise: float = Field(default=0.01, ge=0, le=1, description="Of imputed pixels, in [0, 1]")

    def rows(self) -> int:
        """Rows through the net for one map."""
        return 2 * len(self.percent)


class Infidelity(SpecGroup):
    """Mean of (<I, map> - (f(x) - f(x - I)))^2 over random I (Yeh et al. 2019, eq. 1)."""

    id: Literal["infidelity"]
    perturbation: Literal["noise", "square"] = Field(
        default="square",
        description="I: normal noise, or x in a square, which sets the square to zero",
    )
    samples: Int = Field(default=100, ge=2, le=100_000)
    sigma: float = Field(default=0.2, gt=0, le=10, description="Of the noise")
    side: Int = Field(default=32, ge=1, le=512, description="Of the square, pixels")
    optimal_scale: bool = Field(
        default=True,
        description="First multiply the map by E[<I, map> d] / E[<I, map>^2], d the score drop; "
        "without it the grade compares units of maps, not maps",
    )

    def rows(self) -> int:
        """Rows through the net for one map."""
        return self.samples


class Correlation(SpecGroup):
    """Correlation of the map's sum over a subset of pixels with the score drop without them.

    faithfulness_correlation: Bhatt et al. 2020; sensitivity_n: Ancona et al. 2018.
    """

    id: Literal["faithfulness_correlation", "sensitivity_n"]
    baseline: Baseline | None = None
    runs: Int = Field(default=100, ge=3, le=100_000, description="Random subsets")
    subset: Int = Field(default=224, ge=1, le=10**6, description="Pixels in each")

    @property
    def replaced_by(self) -> Baseline:
        """The baseline of the grader, with its default."""
        return Plain(id="zero") if self.baseline is None else self.baseline

    def rows(self) -> int:
        """Rows through the net for one map."""
        return self.runs


class Monotonicity(SpecGroup):
    """Rank correlation of the absolute map's sums over groups of pixels with their effect.

    The effect of a group is the mean squared change of the score when uniform noise replaces it
    (Nguyen and Martinez 2020, section 2.3).
    """

    id: Literal["monotonicity_correlation"]
    groups: Int = Field(
        default=56, ge=3, le=10_000, description="Groups of pixels of equal size, by rank"
    )
    draws: Int = Field(default=10, ge=1, le=1000, description="Draws of noise for each group")

    def rows(self) -> int:
        """Rows through the net for one map."""
        return self.groups * self.draws


class Robustness(SpecGroup):
    """Largest or mean relative change of the map under noise (Yeh et al. 2019)."""

    id: Literal["sensitivity_max", "sensitivity_avg"]
    radius: float = Field(default=0.02, gt=0, le=10, description="Of the noise, each value")
    samples: Int = Field(
        default=10, ge=1, le=1000, description="Noisy images, each with a map of its own"
    )

    def rows(self) -> int:
        """Rows in addition to those of the recomputed maps."""
        return 0


class Localisation(SpecGroup):
    """How well the map finds a box, or the regions that are known of each image.

    pointing_game: whether the maximum lies in it (Zhang et al. 2018); mass_in_box: the share of the
    positive values (Wang et al. 2020); region_iou: intersection over union of it with as many of
    the highest pixels.
    """

    id: Literal["pointing_game", "mass_in_box", "region_iou"]
    box: list[Annotated[Int, Field(ge=0, le=4096)]] | None = Field(
        default=None,
        min_length=4,
        max_length=4,
        description="top, left, bottom, right in pixels of the input, the same for every image",
    )
    regions: DatasetRef | None = Field(
        default=None,
        description="Uploaded boxes or masks by the name of the image, in pixels of the images as "
        "they are stored; in place of box",
    )
    category: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Only regions of this category of the file, such as dog; null takes those of"
        " all categories together",
    )
    tolerance: Int = Field(default=15, ge=0, le=512, description="Pixels, of the pointing game")

    @model_validator(mode="after")
    def _holds_pixels(self) -> "Localisation":
        if (self.box is None) == (self.regions is None):
            raise ValueError(f"{self.id} needs either box or regions")
        if self.box is None:
            return self
        if self.category is not None:
            raise ValueError("category chooses among regions: leave it out beside box")
        top, left, bottom, right = self.box
        if top >= bottom or left >= right:
            raise ValueError(f"box {self.box} holds no pixel; use top < bottom and left < right")
        return self

    def rows(self) -> int:
        """No rows."""
        return 0


class Randomisation(SpecGroup):
    """Similarity of the map to that of a net with random weights, or of another class.

    mprt and random_logit: Adebayo et al. 2018. efficient_mprt: relative increase of the entropy of
    the map's histogram when all layers are randomised (Hedstroem et al. 2024); without an increase
    the map does not depend on what the net has learned.
    """

    id: Literal["mprt", "random_logit", "efficient_mprt"]
    order: Literal["cascading", "independent"] = Field(
        default="cascading", description="From the top layer down, or each layer alone"
    )
    layers: Int = Field(default=4, ge=1, le=200, description="Randomisations, evenly spread")

    def rows(self) -> int:
        """Rows in addition to those of the recomputed maps."""
        return 0


Metric = Annotated[
    Curve | RegionCurve | Road | Infidelity | Correlation | Monotonicity | Robustness | Localisation
    | Randomisation | Simplicity | InformationCurve,
    Field(discriminator="id"),
]  # fmt: skip
LOWER_IS_BETTER = {
    "deletion", "morf", "region_perturbation", "selectivity", "infidelity", "sensitivity_max",
    "sensitivity_avg", "mprt", "random_logit", "complexity",
}  # fmt: skip


def maps_made(metric: Metric) -> int:
    """Number of maps that a grader needs in addition to the graded one."""
    if isinstance(metric, Robustness):
        return metric.samples
    if isinstance(metric, Randomisation):
        return metric.layers if metric.id == "mprt" else 1
    return 0
