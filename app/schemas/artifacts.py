"""Bodies of artifacts."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field

from app.db.tables import Artifact


class ArtifactRead(BaseModel):
    """An immutable file that a run produced."""

    id: str
    job_id: str
    run_number: int
    role: str = Field(description="checkpoint, weights, report, table, image, log, ...")
    name: str
    step: int | None
    size_bytes: int
    sha256: str
    media_type: str
    metadata: dict[str, Any]
    created_at: datetime
    url: str = Field(description="Address of the bytes")

    @classmethod
    def of(cls, row: Artifact) -> Self:
        """The row as it is answered."""
        return cls(
            id=row.id,
            job_id=row.job_id,
            run_number=row.run_number,
            role=row.role,
            name=row.name,
            step=row.step,
            size_bytes=row.size_bytes,
            sha256=row.sha256 or "",
            media_type=row.media_type,
            metadata=row.labels,
            created_at=row.created_at,
            url=f"/v1/artifacts/{row.id}/content",
        )
