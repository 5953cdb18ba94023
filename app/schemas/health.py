"""Bodies of the health routes."""

from pydantic import BaseModel, Field


class Health(BaseModel):
    """The process answers."""

    status: str


class Ready(BaseModel):
    """What the service depends on; a 503 when database, migration or store is not ``ok``."""

    ready: bool
    database: str
    migration: str
    store: str
    broker: str = Field(description="Reported only: without it jobs start a few seconds later")
    live_workers: int | None = Field(default=None, description="Reported only")
    dispatcher_age_s: float | None = Field(default=None, description="Reported only")


class ProblemRead(BaseModel):
    """What a problem's code means."""

    code: str
    status: int
    title: str
    explanation: str
