"""The query of the log's route."""

from pydantic import Field

from app.schemas.page import Params


class LogQuery(Params):
    """Which part of the log."""

    run: int | None = Field(default=None, ge=1, le=2**31 - 1, description="The newest otherwise")
    tail: int | None = Field(default=None, ge=1, le=100_000, description="Only the last lines")
    follow: bool = Field(default=False, description="Stream events `log` while it grows")
