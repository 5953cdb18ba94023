"""Bodies of events and the query of their route."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.page import Params, SafeInt


class EventQuery(Params):
    """Which events."""

    after: SafeInt = Field(default=0, description="Only events with a greater seq")
    limit: int = Field(default=100, ge=1, le=1000, description="Events a page; JSON only")


class FeedQuery(Params):
    """Which events of the tenant."""

    after: SafeInt = Field(default=0, description="Only events with a greater position")
    limit: int = Field(default=100, ge=1, le=1000, description="Events a page; JSON only")
    type: Literal["status"] | None = Field(
        default=None, description="status: changes of a job's status alone; null: all"
    )
    kind: str | None = Field(
        default=None, max_length=64, description="Only events of jobs of this kind, lcw.train"
    )
    wait_s: float = Field(
        default=0, ge=0, le=60, description="Seconds to wait for an event if there is none; JSON"
    )


class EventRead(BaseModel):
    """An immutable fact of a job."""

    model_config = ConfigDict(from_attributes=True)

    seq: int = Field(description="1, 2, 3, ... without gaps")
    type: str = Field(description="status, run, progress, metric, artifact, log or warning")
    at: datetime
    run_number: int | None
    data: dict[str, Any]


class FeedJob(BaseModel):
    """What an event tells of its job, as it is now."""

    id: str
    kind: str
    name: str | None
    metadata: dict[str, str]


class FeedEvent(BaseModel):
    """An event of some job of the tenant."""

    position: int = Field(description="Greater for each later event of the tenant; may have gaps")
    type: str = Field(description="status, run, progress, metric, artifact, log or warning")
    at: datetime
    job: FeedJob
    seq: int = Field(description="Of the event in its job: 1, 2, 3, ...")
    run_number: int | None
    data: dict[str, Any]


class FeedPage(BaseModel):
    """Events in order; go on with ``after=next_after``."""

    data: list[FeedEvent]
    has_more: bool
    next_after: int
    latest: int = Field(description="The newest position; begin there for what is to come")


class EventPage(BaseModel):
    """Events in order; go on with ``after=next_after``."""

    data: list[EventRead]
    has_more: bool
    next_after: int
