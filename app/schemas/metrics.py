"""Bodies of metrics and the query of their route."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.schemas.page import Params, SafeInt

MetricName = Annotated[str, Field(min_length=1, max_length=200)]


class MetricQuery(Params):
    """Which numbers, and how many points of them."""

    names: list[MetricName] = Field(
        default=[], max_length=100, description="Only these; repeatable; all where left out"
    )
    from_step: SafeInt = 0
    to_step: SafeInt = 2**53 - 1
    max_points: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Points of each name; a longer series comes as minimum and maximum of ranges "
        "of steps. Where left out: 1000 in json, every point in csv and ndjson",
    )
    format: Literal["json", "csv", "ndjson"] = "json"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.from_step > self.to_step:
            raise ValueError(f"from_step {self.from_step} is greater than to_step {self.to_step}")
        return self


class PointRead(BaseModel):
    """One value of a metric, or several in a range of steps."""

    model_config = ConfigDict(from_attributes=True)

    step: int = Field(description="Of the value; the first of several")
    last_step: int = Field(description="The last of several")
    count: int = Field(description="How many values")
    value: float | None = Field(description="The value; the mean of several finite ones")
    min: float | None
    max: float | None
    non_finite: Literal["nan", "inf", "-inf"] | None = Field(
        description="Where a value was no finite number"
    )
    at: str | None = Field(description="When the value was reported; null of several")


class MetricsRead(BaseModel):
    """Numbers of a job by name, in the order of steps."""

    job_id: str
    series: dict[str, list[PointRead]]
