"""Errors of jobs and datasets: as a run reports them, as they are stored and answered."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.texts import error_text

ErrorText = Annotated[str, AfterValidator(error_text)]


class ReportedError(BaseModel):
    """What went wrong, as a child or its worker reports it; storable, without server paths."""

    code: ErrorText
    message: ErrorText
    hint: ErrorText | None = None


class JobError(ReportedError):
    """Why a run or job failed."""

    model_config = ConfigDict(extra="allow", serialize_by_alias=True, validate_by_name=True)

    hint: ErrorText | None
    class_: str = Field(alias="class", description="job or infrastructure")
    retryable: bool
    run_number: int
    exit_code: int | None
    signal: int | None
    traceback_artifact_id: str | None


class DatasetError(ReportedError):
    """Why the check refused the content."""

    model_config = ConfigDict(extra="allow")
