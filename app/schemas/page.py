"""What request and response bodies share: strict bodies, times, pages."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from models.core.spec import StrictFields

Item = TypeVar("Item")


class Body(StrictFields):
    """A request body."""


class Params(BaseModel):
    """Query parameters of a route: unknown ones refused; numbers arrive as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _rfc3339(value: Any) -> datetime:
    """Text of the form 2026-01-31T12:00:00Z as an aware UTC time."""
    refused = ValueError("give an RFC 3339 time with its zone, for example 2026-01-31T12:00:00Z")
    if not isinstance(value, str) or "T" not in value.upper():
        raise refused
    try:
        time = datetime.fromisoformat(value.upper())
        if time.tzinfo is None:
            raise refused
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise refused from error


Time = Annotated[
    datetime,
    Field(strict=False),
    BeforeValidator(_rfc3339, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"]}),
]

CallUrl = Annotated[str, Field(max_length=2000, pattern=r"^https?://[!-~]+$")]
SafeInt = Annotated[int, Field(ge=0, le=2**53 - 1)]  # exact in JSON readers that use float64
Limit = Annotated[int, Field(ge=1, le=200, description="Rows a page, 1 to 200")]
Cursor = Annotated[
    str, Field(min_length=1, max_length=400, description="`next_cursor` of the page before")
]


class Page(BaseModel, Generic[Item]):
    """One page of a list; ``next_cursor`` leads to the next, with the same filters."""

    data: list[Item]
    has_more: bool
    next_cursor: str | None
