"""What stays: files that a job refers to until it is final, and versions of models."""

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.tables import (
    FINAL,
    Artifact,
    Job,
    JobDependency,
    JobInput,
    ModelVersion,
    RegisteredModel,
)
from app.errors import UnavailableError
from models.core.spec import ArtifactRef, Spec


def hold(session: Session, job: Job, spec: Spec) -> None:
    """Note the pinned references of a new job's spec; until it is final they stay.

    The rows of the jobs that it refers to stay locked against deletion and pruning until the
    session ends.

    Raises:
        UnavailableError: if one of them went away since it was pinned.
    """
    refs = [ref for _pointer, ref in spec.references() if ref.sha256 is not None]
    files = [ref for ref in refs if isinstance(ref, ArtifactRef)]
    if files:
        sources = select(Job.id).where(Job.id.in_({ref.job for ref in files})).order_by(Job.id)
        session.scalars(sources.with_for_update(read=True)).all()
    for ref in files:
        if session.scalar(_stored(ref)) is None:
            text = f"{ref.artifact} of {ref.job} was replaced or deleted just now; try again"
            raise UnavailableError(text)
    for source, sha256 in {(_source(ref), str(ref.sha256)) for ref in refs}:
        session.add(JobInput(job_id=job.id, source=source, sha256=sha256))


def _source(ref: object) -> str:
    return ref.job if isinstance(ref, ArtifactRef) else str(getattr(ref, "dataset", ""))


def _stored(ref: ArtifactRef) -> Select[str]:
    return (
        select(Artifact.id)
        .join(Job, Job.id == Artifact.job_id)
        .where(
            Artifact.job_id == ref.job,
            Artifact.name == ref.artifact,
            Artifact.sha256 == ref.sha256,
            Artifact.status == "ready",
            Job.deleted_at.is_(None),
        )
    )


def _holders(source: str) -> Select[JobInput]:
    return (
        select(JobInput)
        .join(Job, Job.id == JobInput.job_id)
        .where(JobInput.source == source, Job.status.not_in(FINAL))
    )


def user(session: Session, job_id: str) -> str | None:
    """A job that is not final and refers to a file of this one, or waits for it."""
    waiting = (
        select(JobDependency.job_id)
        .join(Job, Job.id == JobDependency.job_id)
        .where(JobDependency.source_id == job_id, Job.status.not_in(FINAL))
    )
    holder = session.scalar(_holders(job_id).limit(1))
    return session.scalar(waiting.limit(1)) if holder is None else holder.job_id


def version(session: Session, job_id: str) -> str | None:
    """A version of a registered model that is a file of this job, as ``model:NAME/3``."""
    row = session.execute(
        select(RegisteredModel.name, ModelVersion.number)
        .join(RegisteredModel, RegisteredModel.id == ModelVersion.model_id)
        .where(ModelVersion.job_id == job_id)
        .limit(1)
    ).one_or_none()
    return row and f"model:{row.name}/{row.number}"


def digests(session: Session, job_id: str) -> set[str]:
    """SHA-256 of the files of a job that others still need."""
    versions = select(ModelVersion.sha256).where(ModelVersion.job_id == job_id)
    return {row.sha256 for row in session.scalars(_holders(job_id))} | {*session.scalars(versions)}
