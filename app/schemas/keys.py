"""Bodies of API keys."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.page import Body, Cursor, Limit, Params, Time

Scope = Literal["jobs:read", "jobs:write", "datasets:read", "datasets:write", "admin"]


class KeyCreate(Body):
    """A key to make."""

    name: str = Field(min_length=1, max_length=120, description="For people")
    scopes: list[Scope] = Field(min_length=1, max_length=5, description="admin includes all")
    expires_at: Time | None = Field(default=None, description="null: never")


class KeyFilters(Params):
    """Which page of keys."""

    limit: Limit = 50
    cursor: Cursor | None = None


class KeyRead(BaseModel):
    """A key without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute")
    revoked_at: datetime | None


class KeyCreated(KeyRead):
    """A new key; the only answer with its secret."""

    key: str | None = Field(description="Send it as a bearer token; null in a repeated answer")
