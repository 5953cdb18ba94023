"""Changes of what a job is called and where it is listed. What it does never changes."""

from collections.abc import Set as AbstractSet

from sqlalchemy import delete
from sqlalchemy.orm import Session

from app import queue
from app.db.session import after_commit, database_now
from app.db.tables import Job, JobLabel
from app.errors import PreconditionError, invalid
from app.schemas.jobs import MAX_LABELS, JobPatch, JobRead
from app.services import jobs


def edit(
    session: Session, tenant_id: str, job_id: str, change: JobPatch, tags: AbstractSet[str] | None
) -> JobRead:
    """Change a job under the lock of its row; the answer has the new ETag.

    Args:
        session: to write in.
        tenant_id: whose.
        job_id: of the job.
        change: fields that were sent.
        tags: entity tags in quotes, one of which the job must still have; None for any.

    Raises:
        PreconditionError: if it has none of them.
        InvalidError: if it would have more labels than a job may.
    """
    job = jobs.get(session, tenant_id, job_id)
    session.refresh(job, with_for_update=True)
    before = jobs.describe(session, [job])[0]
    if tags is not None and tags.isdisjoint({"*", f'"{before.etag}"'}):
        raise PreconditionError(f"the job has the ETag {before.etag} now; read it again")
    sent = change.model_fields_set
    if "name" in sent:
        job.name = change.name
    if "notes" in sent:
        job.notes = change.notes
    if "hidden" in sent:
        job.hidden_at = (job.hidden_at or database_now(session)) if change.hidden else None
    if "metadata" in sent:
        _relabel(session, job, change)
    job.updated_at = database_now(session)
    session.flush()
    after_commit(session, lambda: queue.announce(job_id))
    return jobs.describe(session, [job])[0]


def _relabel(session: Session, job: Job, change: JobPatch) -> None:
    merged = job.labels | change.metadata
    labels = {name: value for name, value in merged.items() if value is not None}
    if len(labels) > MAX_LABELS:
        detail = f"the job would have {len(labels)} labels; at most {MAX_LABELS}: remove some"
        raise invalid("/metadata", detail, "too_many")
    job.labels = labels
    session.execute(delete(JobLabel).where(JobLabel.job_id == job.id))
    session.add_all(
        JobLabel(job_id=job.id, name=name, tenant_id=job.tenant_id, value=value)
        for name, value in labels.items()
    )
