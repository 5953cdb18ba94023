"""Files that a job which is not final will leave, as its kind declares them."""

from sqlalchemy.orm import Session

from app.db.tables import FINAL, Job
from app.errors import NotFoundError
from models.catalog import kinds
from models.core.needs import StoredArtifact
from models.core.spec import ArtifactRef


def promised(session: Session, tenant_id: str, ref: ArtifactRef) -> StoredArtifact | None:
    """The file that a reference will name; None if its job is final or not the tenant's.

    Raises:
        NotFoundError: if the kind of the job leaves no file of this name.
    """
    job = session.get(Job, ref.job)
    if job is None or job.tenant_id != tenant_id or job.deleted_at is not None:
        return None
    if job.status in FINAL:
        return None
    kind = kinds()[job.kind]
    if declared := kind.artifact_of(ref.artifact):
        return StoredArtifact(ref.artifact, declared.role, job.kind)
    names = ", ".join(each.name for each in kind.artifacts)
    detail = f"a job of kind {job.kind} leaves no file {ref.artifact!r}; it leaves {names}"
    raise NotFoundError(detail)
