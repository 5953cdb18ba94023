"""The fields of a spec that say which steps are cheap and what a cheap step is. Torch-free."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.core.spec import Int, SpecGroup

SCHEDULE_FIELDS = {
    "periodic": {"period", "n_cheap", "cheap_first"},
    "bernoulli": {"cheap_share"},
    "block": {"n_cheap_epochs", "n_full_epochs", "cheap_first"},
    "anneal": {"p0", "p1", "shape", "draw"},
    "list": {"intervals"},
    "off": set(),
}
LayerPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]-]{1,100}$")]


class Interval(SpecGroup):
    """A part of the run in which every step is cheap: [start, end) as shares of its steps."""

    start: float = Field(ge=0, le=1, description="Begin, as a share of the run's steps")
    end: float = Field(ge=0, le=1, description="End, as a share of the run's steps")
    input_scale: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Scale of its images; downsample.input_scale when null",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if self.end <= self.start:
            raise ValueError(f"end {self.end} must be above start {self.start}")
        return self


class Schedule(SpecGroup):
    """Which steps are cheap between the full warm-up and the full refinement."""

    type: Literal["periodic", "bernoulli", "block", "anneal", "list", "off"] = "periodic"
    period: Int = Field(default=2, ge=1, le=10_000, description="Steps of a period (periodic)")
    n_cheap: Int = Field(
        default=1, ge=0, le=10_000, description="Cheap steps in each period (periodic)"
    )
    cheap_first: bool = Field(
        default=True, description="Cheap steps or epochs before full ones (periodic, block)"
    )
    cheap_share: float = Field(
        default=0.5, ge=0, le=1, description="Probability that a step is cheap (bernoulli)"
    )
    n_cheap_epochs: Int = Field(default=1, ge=0, le=10_000, description="Epochs (block)")
    n_full_epochs: Int = Field(default=1, ge=0, le=10_000, description="Epochs (block)")
    p0: float = Field(default=1.0, ge=0, le=1, description="First share of cheap steps (anneal)")
    p1: float = Field(default=0.0, ge=0, le=1, description="Last share of cheap steps (anneal)")
    shape: Literal["linear", "cosine"] = Field(
        default="linear", description="Way from p0 to p1 (anneal)"
    )
    draw: Literal["diffusion", "bernoulli"] = Field(
        default="diffusion", description="Share exact to one step, or drawn at random (anneal)"
    )
    intervals: list[Interval] = Field(
        default=[], max_length=1000, description="Cheap parts of the run (list)"
    )

    @model_validator(mode="after")
    def _fields_fit_type(self) -> "Schedule":
        foreign = self.model_fields_set - {"type"} - SCHEDULE_FIELDS[self.type]
        changed = sorted(
            name
            for name in foreign
            if getattr(self, name) != type(self).model_fields[name].get_default()
        )
        if changed:
            allowed = sorted(SCHEDULE_FIELDS[self.type]) or "no further field"
            raise ValueError(f"{changed} mean nothing with type {self.type}, which takes {allowed}")
        if self.type == "periodic" and self.n_cheap > self.period:
            raise ValueError(f"n_cheap {self.n_cheap} must be at most period {self.period}")
        if self.type == "block" and self.n_cheap_epochs + self.n_full_epochs == 0:
            raise ValueError("n_cheap_epochs and n_full_epochs cannot both be 0")
        if self.type == "list":
            self._check_intervals()
        return self

    def _check_intervals(self) -> None:
        if not self.intervals:
            raise ValueError("intervals is empty: give one at least, or type off for a plain run")
        ordered = sorted(self.intervals, key=lambda interval: interval.start)
        for first, second in pairwise(ordered):
            if second.start < first.end:
                raise ValueError(
                    f"intervals [{first.start}, {first.end}) and [{second.start}, {second.end})"
                    " overlap, and a step has one scale: end one where the other starts"
                )


class Downsample(SpecGroup):
    """What a cheap step leaves out and when (sections 2 to 4 of the method's README)."""

    schedule: Schedule = Schedule()
    input_scale: float = Field(
        default=0.5, gt=0, le=1, description="Height and width of cheap images over full ones"
    )
    input_resample: Literal["area", "bilinear_aa", "nearest", "crop"] = Field(
        default="area", description="How images shrink; crop takes one random window a step"
    )
    size_multiple: Int = Field(
        default=4, ge=1, le=64, description="Cheap height and width are multiples of it, in pixels"
    )
    kernel_pool: Literal["avg", "max", "none"] = Field(
        default="avg", description="Pooling of the filters; none keeps them whole"
    )
    kernel_rule: Literal["half", "minus_one"] = Field(
        default="half", description="Side of a pooled filter: (k + 1) / 2, or k - 1"
    )
    kernel_gain: Annotated[float, Field(gt=0, le=10)] | Literal["dc", "white"] = Field(
        default=1.0,
        description="Factor on pooled filters; dc keeps the response to a constant image, white"
        " the variance under white noise",
    )
    kernel_layers: Literal["all", "auto"] | Annotated[list[LayerPattern], Field(min_length=1)] = (
        Field(
            default="all",
            description="Convolutions to pool: all of 3x3 and larger, those that are faster pooled"
            " when timed (auto), or names such as stages.1.* ",
        )
    )
    pad_policy: Literal["alternate", "pair", "low", "high"] = Field(
        default="alternate", description="Side on which pooled convolutions pad"
    )
    warmup_full_fraction: float = Field(
        default=0.0, ge=0, le=1, description="First share of the steps, all full"
    )
    refine_fraction: float = Field(
        default=0.2, ge=0, le=1, description="Last share of the steps, all full"
    )
    cheap_lr_scale: Annotated[float, Field(ge=0.1, le=1)] | Literal["match_norm"] = Field(
        default=1.0,
        description="Factor on the learning rate of cheap steps; match_norm scales their gradients"
        " to the norm of full ones instead",
    )
    cheap_batch_multiplier: Int = Field(
        default=1,
        ge=1,
        le=4,
        description="Batches that one cheap step takes at once, at as many times the learning rate",
    )
    rate_over: Literal["steps", "operations"] = Field(
        default="steps",
        description="What the learning-rate schedule runs over: steps, or operations, of which"
        " cheap steps take fewer, so that the rate is still high when the full ones come",
    )
    bn_mode: Literal["shared", "skip", "split"] = Field(
        default="skip",
        description="Running batch-norm statistics in cheap steps: updated, left, or kept apart",
    )
    bn_reestimate_batches: Int | None = Field(
        default=None,
        ge=0,
        le=500,
        description="Full batches from which statistics are estimated anew at the end;"
        " 50 with bn_mode shared and else 0 when null",
    )
    wd_on_cheap: bool = Field(default=True, description="Weight decay in cheap steps too")
    gradient_probes: Int = Field(
        default=4,
        ge=0,
        le=100,
        description="Times in the run that cheap and full gradients of one batch are compared",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "Downsample":
        if self.warmup_full_fraction + self.refine_fraction > 1:
            raise ValueError(
                f"warmup_full_fraction {self.warmup_full_fraction} + refine_fraction"
                f" {self.refine_fraction} must be at most 1"
            )
        return self

    @property
    def scales(self) -> list[float]:
        """Scales of cheap images, each once; intervals of a list may have their own."""
        if self.schedule.type != "list" or not self.schedule.intervals:
            return [self.input_scale]
        return list(dict.fromkeys(self.scale_of(part) for part in self.schedule.intervals))

    def scale_of(self, part: Interval) -> float:
        """Scale of the images in this part of the run."""
        return part.input_scale or self.input_scale

    @property
    def reestimate_batches(self) -> int:
        """Full batches of the final re-estimation of batch-norm statistics."""
        if self.bn_reestimate_batches is None:
            return 50 if self.bn_mode == "shared" else 0
        return self.bn_reestimate_batches
