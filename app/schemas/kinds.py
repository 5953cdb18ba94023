"""Bodies of kinds: what can be asked for."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class MetricRead(BaseModel):
    """A number the kind reports."""

    name: str
    unit: str
    goal: Literal["min", "max"] | None
    description: str


class ArtifactKind(BaseModel):
    """A file the kind leaves; the name may hold ``*``."""

    name: str
    role: str
    description: str
    on_request: bool = Field(description="Left only where the spec asks for it")


class KindRead(BaseModel):
    """A kind of job."""

    kind: str
    method: str
    description: str
    queue: str = Field(description="Default queue")
    resumable: bool = Field(description="Whether resume_from is accepted")
    metrics: list[MetricRead]
    artifacts: list[ArtifactKind]
    presets: dict[str, dict[str, Any]] = Field(description="Spec fields of published set-ups")
    example: dict[str, Any] = Field(description="A spec whose result is worth seeing")
    links: dict[str, str]
