"""Bodies of sweeps: many jobs of one spec with other values of some fields, over several seeds."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from app.db.tables import JobStatus
from app.schemas.errors import ReportedError
from app.schemas.jobs import JobOptions
from app.schemas.page import Body, Cursor, Limit, Params
from models.core.spec import Int

FieldPath = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}(\.[a-z0-9_]{1,64}){0,15}$")]
SweepStatus = Literal["running", "finished", "failed", "cancelled"]
LEARNING = ("tpe", "cmaes")  # samplers that look at the trials before
MAX_PARAMETERS, MAX_VALUES, MAX_TRIALS, MAX_SEEDS, MAX_PARALLEL = 16, 100, 500, 32, 64
EXAMPLE: Any = {
    "job": {
        "spec": {
            "kind": "freetickets.train",
            "model": {"name": "resnet8", "width": 16},
            "data": {"dataset": "digits"},
        }
    },
    "parameters": {"optimizer.lr": {"values": [0.05, 0.1, 0.2]}},
    "seeds": [0, 1, 2],
    "objective": {"metric": "validation_accuracy"},
    "baseline": {"optimizer.lr": 0.1},
}


class ValueList(Body):
    """Values to try, in this order."""

    values: list[Any] = Field(min_length=1, max_length=MAX_VALUES, description="Any JSON values")


class ValueRange(Body):
    """Numbers to draw from, both ends included; not for the sampler grid."""

    low: float
    high: float
    log: bool = Field(default=False, description="Draw evenly in the logarithm")
    integer: bool = Field(default=False, description="Draw whole numbers")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 with log")
        if self.integer and (self.low % 1 or self.high % 1):
            raise ValueError("low and high must be whole numbers with integer")
        return self


def _form(value: Any) -> str:
    """Which of the two forms is meant, so that errors are of that one alone."""
    is_range = value.keys() & {"low", "high"} if isinstance(value, dict) else None
    return "range" if is_range or isinstance(value, ValueRange) else "values"


Domain = Annotated[
    Annotated[ValueList, Tag("values")] | Annotated[ValueRange, Tag("range")],
    Discriminator(_form),
]


class SweepJob(JobOptions):
    """What every job of the sweep has in common, as for `POST /v1/jobs`."""

    spec: dict[str, Any] = Field(description="As for `POST /v1/jobs`, without the swept fields")


class Objective(Body):
    """By what trials are ranked."""

    metric: str = Field(max_length=200, description="A metric of the kind")
    goal: Literal["min", "max"] | None = Field(
        default=None, description="null: as the kind declares it"
    )
    take: Literal["last", "best"] = Field(
        default="last", description="Its value at the last step, or the best one of all steps"
    )


class StopRule(Body):
    """Stops a job whose metric is worse than the median of the others at the same step."""

    after_step: Int = Field(default=1, ge=0, description="Not before this step")
    others: Int = Field(
        default=3, ge=1, le=1000, description="Not before so many others have come as far"
    )


class SweepCreate(Body):
    """A search over values of some fields; each trial runs once for each seed."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    name: str | None = Field(default=None, max_length=100, description="For people; any text")
    job: SweepJob
    parameters: dict[FieldPath, Domain] = Field(
        min_length=1,
        max_length=MAX_PARAMETERS,
        description="By the path of a field in the spec, with dots: `optimizer.lr`",
    )
    sampler: Literal["grid", "random", "tpe", "cmaes"] = Field(
        default="grid",
        description="grid: every combination; random: independent draws; tpe, cmaes: draws that "
        "learn from the trials before (Optuna)",
    )
    trials: Int | None = Field(
        default=None, ge=1, le=MAX_TRIALS, description="How many to draw; not for grid"
    )
    sampler_seed: Int = Field(default=0, ge=0, lt=2**32, description="Of the draws")
    seeds: list[Annotated[Int, Field(ge=0, lt=2**32)]] = Field(
        default=[0], min_length=1, max_length=MAX_SEEDS, description="Each trial runs with each"
    )
    objective: Objective
    baseline: dict[FieldPath, Any] | None = Field(
        default=None,
        max_length=MAX_PARAMETERS,
        description="Values of one more trial, to which the others are compared seed by seed; "
        "fields left out are as in the spec",
    )
    max_parallel: Int = Field(
        default=4, ge=1, le=MAX_PARALLEL, description="Jobs queued or running at once"
    )
    early_stop: StopRule | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ from each other")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"trials: say how many to draw, 1 to {MAX_TRIALS}")
        if self.sampler == "grid":
            if self.trials is not None:
                raise ValueError("trials: the sampler grid takes every combination; leave it out")
            ranges = [n for n, each in self.parameters.items() if isinstance(each, ValueRange)]
            if ranges:
                raise ValueError(f"{ranges[0]} is a range: give values, or another sampler")
        return self


class MeanRead(BaseModel):
    """A mean over seeds."""

    model_config = ConfigDict(from_attributes=True)

    mean: float
    interval: tuple[float, float] | None = Field(
        description="95 % by Student's t, over seeds; null for a single one"
    )
    count: int = Field(description="Seeds in it")


class TrialJob(BaseModel):
    """A job of a trial."""

    id: str
    seed: int
    status: JobStatus
    value: float | None = Field(description="The objective; null unless it succeeded with one")


class TrialRead(BaseModel):
    """One choice of values, with its jobs."""

    trial: int
    baseline: bool
    values: dict[str, Any]
    rank: int | None = Field(description="1 is best; null until all its seeds have a value")
    objective: MeanRead | None
    difference: MeanRead | None = Field(
        description="To the baseline: the mean of the differences of equal seeds"
    )
    jobs: list[TrialJob]


class JobCounts(BaseModel):
    """Jobs of a sweep."""

    total: int = Field(description="All that it makes")
    unmade: int = Field(description="Yet to be submitted")
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class SweepRead(BaseModel):
    """A sweep as lists answer it."""

    id: str
    object: Literal["sweep"] = "sweep"
    name: str | None
    kind: str
    status: SweepStatus = Field(description="finished: every job has ended, whichever way")
    error: ReportedError | None
    jobs: JobCounts
    created_at: datetime
    finished_at: datetime | None


class SweepDetail(SweepRead):
    """A sweep with its trials."""

    request: dict[str, Any] = Field(description="As it was sent")
    metric: str
    goal: Literal["min", "max"]
    trials: list[TrialRead] = Field(description="By rank; those without one after them")


class SweepFilters(Params):
    """Which sweeps to list, newest first."""

    status: SweepStatus | None = None
    limit: Limit = 50
    cursor: Cursor | None = None
