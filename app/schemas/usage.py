"""Bodies of quotas: what a tenant uses, and what the operator sets."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from app.schemas.page import Body

Limit = Annotated[int | None, Field(ge=0, le=2**53 - 1)]


class QuotaValues(Body):
    """Quotas of a tenant; one left out is the default of the settings, null is no limit."""

    queued_jobs: Limit = Field(default=None, description="Jobs that wait at once")
    running_jobs: Limit = Field(default=None, description="Jobs that run at once; more wait")
    stored_bytes: Limit = Field(
        default=None, description="Bytes of datasets and of files of jobs together"
    )
    gpu_seconds_a_day: Limit = Field(
        default=None, description="GPU-seconds from midnight UTC on; then jobs for GPUs wait"
    )
    writes_a_minute: Limit = Field(default=None, description="POST, PUT and DELETE of one key")
    reads_a_minute: Limit = Field(default=None, description="GET and HEAD of one key")


class QuotaUse(BaseModel):
    """How much of a quota is used."""

    limit: int | None = Field(description="null: none")
    used: int | float = Field(description="Now")


class RateLimit(BaseModel):
    """A limit of requests; the headers `RateLimit` of each answer tell how many are left."""

    limit: int | None = Field(description="Requests of one key; null: no limit")


class UsageRead(BaseModel):
    """What the caller's tenant uses and may use."""

    tenant: str
    queued_jobs: QuotaUse
    running_jobs: QuotaUse
    stored_bytes: QuotaUse
    gpu_seconds_a_day: QuotaUse
    writes_a_minute: RateLimit
    reads_a_minute: RateLimit
    delayed_by: list[str] = Field(description="Quotas that keep queued jobs waiting now")
    resets_at: datetime = Field(description="When the GPU-seconds of a day begin anew")
