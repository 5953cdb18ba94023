"""Lines of the child's event pipe, validated: what a run reports of itself."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.db.tables import Run
from app.schemas.errors import ReportedError

log = structlog.get_logger(__name__)


class MetricLine(BaseModel):
    """Named numbers at a step; non-finite ones arrive as words."""

    type: Literal["metric"]
    step: int = Field(ge=0, lt=2**53)
    at: float | None = Field(default=None, ge=0, lt=2**33)
    values: dict[
        Annotated[str, Field(pattern=r"^[^\x00]{1,200}$")], float | Literal["nan", "inf", "-inf"]
    ]


class ProgressLine(BaseModel):
    """So many steps of so many."""

    type: Literal["progress"]
    step: int = Field(ge=0, lt=2**53)
    total_steps: int | None = Field(default=None, ge=0, lt=2**53)
    epoch: int | None = None
    phase: str | None = Field(default=None, max_length=200)
    unit: str = Field(default="step", max_length=40)


class EventLine(BaseModel):
    """A warning, the lineage, or another fact, with fields of its own."""

    model_config = ConfigDict(extra="allow")

    type: Literal["event"]
    event: str = Field(max_length=40)


AnyLine = MetricLine | ProgressLine | EventLine
LINE: TypeAdapter[AnyLine] = TypeAdapter(Annotated[AnyLine, Field(discriminator="type")])


def storable(value: Any) -> Any:
    """The same JSON value without what a database refuses: NUL, half surrogates, NaN."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(run: Run, events: Iterable[dict[str, Any]]) -> list[AnyLine]:
    """The lines that are well formed; others are logged and skipped."""
    lines = []
    for event in events:
        try:
            lines.append(LINE.validate_python(storable(event)))
        except ValidationError as error:
            log.warning("broken_line", job_id=run.job_id, run_number=run.number, error=str(error))
    return lines


def parse_error(event: dict[str, Any]) -> ReportedError | None:
    """The child's line of type ``error``; None, logged, where it is not well formed."""
    try:
        return ReportedError.model_validate(storable(event))
    except ValidationError as error:
        log.warning("broken_line", error=str(error))
        return None
