"""Bodies about workers, queues and jobs beside each other."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.jobs import JobRead


class LiveWorker(BaseModel):
    """A worker process that is alive."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    host: str
    queues: list[str]
    gpus: list[str] = Field(description="UUIDs")
    slots: int
    slots_free: int
    draining: bool
    started_at: datetime
    heartbeat_at: datetime
    versions: dict[str, Any]


class QueueRead(BaseModel):
    """A queue, of all tenants."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    waiting: int
    served: bool = Field(description="Whether a live worker serves it")


class FieldDifference(BaseModel):
    """A field that is not the same in all jobs."""

    field: str
    values: list[Any] = Field(description="In the order of the jobs; null where one has none")


class ComparisonRead(BaseModel):
    """Jobs beside each other."""

    jobs: list[JobRead]
    spec: list[FieldDifference] = Field(description="Fields of the resolved specs that differ")
    result: list[FieldDifference] = Field(description="Fields of the results that differ")
    metrics: dict[str, list[float | None]] = Field(
        description="The last finite value of each metric that one of them has, by name"
    )
