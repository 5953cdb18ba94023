"""Bodies of registered models, their versions and aliases."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from app.schemas.jobs import MAX_LABELS, Label, LabelName
from app.schemas.page import Body, Cursor, Limit, Params
from models.core.spec import MODEL_ALIAS, MODEL_NAME, Int

DESCRIPTION_CHARS = 20_000
MAX_ALIASES = 32
MAX_NUMBER = 999_999_999
ModelName = Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME}$")]
AliasName = Annotated[str, StringConstraints(pattern=rf"^{MODEL_ALIAS}$")]
Description = Annotated[str, StringConstraints(max_length=DESCRIPTION_CHARS)]


class ModelCreate(Body):
    """A name under which trained nets are kept."""

    name: ModelName = Field(description="Unique in the tenant")
    description: Description | None = Field(default=None, description="For people; any text")
    metadata: dict[LabelName, Label] = Field(default={}, max_length=MAX_LABELS)


class ModelPatch(Body):
    """What may be changed of a model; a field left out stays as it is."""

    description: Description | None = Field(default=None, description="null removes it")
    metadata: dict[LabelName, Label | None] = Field(
        default={},
        max_length=2 * MAX_LABELS,
        description="Merged into what is there; null removes one",
    )


class ModelRead(BaseModel):
    """A registered model."""

    id: str
    object: Literal["model"] = "model"
    name: str
    description: str | None
    metadata: dict[str, str]
    latest_version: int | None = Field(description="The newest version; null before the first")
    aliases: dict[str, int] = Field(description="Version by alias")
    created_at: datetime
    updated_at: datetime


class ModelVersionCreate(Body):
    """A file of a job that has ended, to be the next version of a model."""

    job: str = Field(pattern=r"^job_[0-9a-f]{32}$", description="Id of a final job")
    artifact: str = Field(
        pattern=r"^[A-Za-z0-9._/-]{1,200}$",
        description="Name of its weights, or of one of its checkpoints",
    )
    description: Description | None = Field(default=None, description="For people; any text")
    aliases: list[AliasName] = Field(
        default=[], max_length=MAX_ALIASES, description="Are moved to the new version"
    )


class ModelVersionRead(BaseModel):
    """A version of a model: a file that stays as long as the version does."""

    id: str
    object: Literal["model_version"] = "model_version"
    model: str = Field(description="Name of the model")
    version: int = Field(description="1, 2, 3, ...; never given twice")
    reference: str = Field(description="What specs call it")
    job: str
    artifact: str
    role: str
    kind: str = Field(description="Of the job")
    sha256: str
    size_bytes: int
    description: str | None
    aliases: list[str] = Field(description="Those that point at it now")
    created_at: datetime


class RegisterForm(Body):
    """The same as fields of a plain form."""

    name: ModelName
    artifact: str
    alias: AliasName | Literal[""]


class ModelAliasMove(Body):
    """Where an alias is to point."""

    version: Int = Field(ge=1, le=MAX_NUMBER, description="Number of a version of the model")
    expected_version: Int | None = Field(
        default=None,
        ge=0,
        le=MAX_NUMBER,
        description="Move it only from this version, 0: only make it anew; null: whatever it is",
    )


class ModelFilters(Params):
    """Which page of models or versions, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None
