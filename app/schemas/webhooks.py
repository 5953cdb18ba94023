"""Bodies of webhooks and their deliveries."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.page import Body, CallUrl, Cursor, Limit, Params

MessageType = Literal[
    "job.started",
    "job.progress",
    "job.paused",
    "job.resumed",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "webhook.test",
]


class WebhookCreate(Body):
    """An address that is told of the tenant's jobs."""

    url: CallUrl = Field(description="https; the host has a public address")
    progress: bool = Field(
        default=False, description="Also of progress; starts and ends are always told"
    )


class WebhookRead(BaseModel):
    """A webhook, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    progress: bool
    created_at: datetime
    failing_since: datetime | None = Field(description="First failure since the last success")
    disabled_at: datetime | None = Field(
        description="When it was given up after five days of failures; a test that arrives "
        "enables it again"
    )


class WebhookCreated(WebhookRead):
    """A new webhook with its secret."""

    secret: str | None = Field(description="`whsec_...`, in this answer alone")


class WebhookSecret(BaseModel):
    """What signs the messages to addresses of single jobs."""

    secret: str = Field(description="`whsec_...`")


class DeliveryRead(BaseModel):
    """A message to a webhook, and what became of it."""

    id: str = Field(description="The header `webhook-id`, the same in every try")
    type: MessageType
    job: str
    created_at: datetime
    tries: int
    next_try_at: datetime | None = Field(description="null: it arrived or was given up")
    delivered_at: datetime | None
    status_code: int | None = Field(description="Of the last answer; null without one")
    error: str | None = Field(description="Why the last try failed")


class WebhookTestRead(BaseModel):
    """What the address answered to a test."""

    delivered: bool
    status_code: int | None
    error: str | None


class DeliveryFilters(Params):
    """Which deliveries to list, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None
