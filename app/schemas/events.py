"""Bodies of events and the query of their route."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.page import Params, SafeInt


class EventQuery(Params):
    """Which events."""

    after: SafeInt = Field(default=0, description="Only events with a greater seq")
    limit: int = Field(default=100, ge=1, le=1000, description="Events a page; JSON only")


class EventRead(BaseModel):
    """An immutable fact of a job."""

    model_config = ConfigDict(from_attributes=True)

    seq: int = Field(description="1, 2, 3, ... without gaps")
    type: str = Field(description="status, run, progress, metric, artifact, log or warning")
    at: datetime
    run_number: int | None
    data: dict[str, Any]


class EventPage(BaseModel):
    """Events in order; go on with ``after=next_after``."""

    data: list[EventRead]
    has_more: bool
    next_after: int
