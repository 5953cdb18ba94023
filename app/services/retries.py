"""A new job from a final one, from one of its checkpoints or from scratch."""

from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import FINAL, Artifact, Job
from app.errors import ConflictError, NotFoundError, invalid
from app.schemas.jobs import JobCreate, Limits, Resources, RetryRequest
from app.services import artifacts, jobs, webhooks
from app.services.specs import validated
from models.stored import upgrade

ROOT = "/overrides"
REFUSED = "the spec with these overrides is not valid"


def retry(session: Session, tenant_id: str, job_id: str, request: RetryRequest) -> Job:
    """Submit the job's spec again with ``overrides`` merged in (RFC 7396).

    Raises:
        ConflictError: if the job is not final or has no such checkpoint.
        InvalidError: if the merged spec is not valid.
    """
    parent = jobs.get(session, tenant_id, job_id)
    if parent.status not in FINAL:
        raise ConflictError(f"the job is {parent.status}; cancel it first or wait")
    sent = _as_sent(parent)
    if request.from_ != "scratch":
        checkpoint = _checkpoint(session, parent, request.from_)
        sent["resume_from"] = {"job": parent.id, "artifact": checkpoint.name}
    if request.overrides.get("kind", parent.kind) != parent.kind:
        raise invalid(f"{ROOT}/kind", f"a retry keeps its kind, {parent.kind}")
    again = JobCreate(
        spec=validated(merge(sent, request.overrides), ROOT, REFUSED),
        name=parent.name,
        metadata=parent.labels,
        queue=parent.queue,
        priority=parent.priority,
        webhook=webhooks.url_of(session, parent),
        resources=Resources(**parent.resources),
        limits=Limits(**parent.limits),
    )
    return jobs.submit(session, tenant_id, again, parent_id=parent.id, root=ROOT)


def _as_sent(job: Job) -> dict[str, Any]:
    """The job's spec as it was sent, in today's fields, with the meaning that it had.

    Whether a field is left out because its default was meant or because it did not exist yet, the
    resolved spec tells.
    """
    resolved, _ = upgrade(job.resolved_spec)
    added = {name: resolved[name] for name in resolved.keys() - job.resolved_spec.keys()}
    left_out = job.resolved_spec.keys() - job.spec.keys() | {"resume_from"}
    sent, _ = upgrade(job.spec)
    return {name: x for name, x in sent.items() if name not in left_out} | added


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, null removes a field, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = merge(kept.get(name), value)
    return kept


def _checkpoint(session: Session, job: Job, which: str | int) -> Artifact:
    try:
        return artifacts.checkpoint(session, job.tenant_id, job.id, str(which))
    except NotFoundError as error:
        raise ConflictError(f'{error.detail}; use "from": "scratch"') from error
