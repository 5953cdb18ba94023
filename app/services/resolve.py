"""From a spec as it was sent to one that repeats the same job: defaults and digests filled in."""

from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from app.errors import InvalidError, NotFoundError, ServiceError, invalid
from app.schemas.jobs import JobCreate, Resources
from app.services import artifacts, datasets
from app.services.queues import GPU_QUEUE
from app.services.validation_errors import did_you_mean
from models.core.spec import ArtifactRef, DatasetRef, Spec
from models.data.builtin import BUILTIN


class Resolved(NamedTuple):
    """A spec with every default and digest, and what it will cost."""

    spec: dict[str, Any]
    estimate: dict[str, Any]


class Placement(NamedTuple):
    """Where a job may run."""

    device: str
    gpus: int
    queue: str


def resolve(session: Session, tenant_id: str, spec: Spec, root: str = "/spec") -> Resolved:
    """Fill in defaults, pin the SHA-256 of every reference, work out the estimate.

    ``root`` is the JSON pointer of the spec in the request, for messages.

    Raises:
        InvalidError: with the pointer of the field, if a reference names nothing that is ready
            and the tenant's own, the kind cannot go on from a checkpoint, or the data do not fit.
    """
    filled = spec.model_dump(mode="json")
    counts: dict[str, dict[str, int]] = {}
    for pointer, ref in spec.references():
        at = root + pointer
        if isinstance(ref, ArtifactRef):
            sha256 = _artifact(session, tenant_id, spec, ref, at)
        else:
            sha256, counts[ref.dataset] = _dataset(session, tenant_id, ref, at)
        if ref.sha256 not in (None, sha256):
            raise invalid(
                f"{at}/sha256", f"the digest there is {sha256}; leave sha256 out", "sha256"
            )
        _part(filled, pointer)["sha256"] = sha256
    try:
        return Resolved(filled, spec.estimate(counts).model_dump(mode="json"))
    except ValueError as error:  # the spec is valid by itself but not with these data
        raise invalid(root, str(error), "spec_invalid") from error


def _artifact(
    session: Session, tenant_id: str, spec: Spec, ref: ArtifactRef, at: str
) -> str | None:
    resuming = ref is spec.resume_from
    if resuming and not spec.resumable:
        raise invalid(at, "this kind cannot go on from a checkpoint; leave resume_from out")
    try:
        artifact = artifacts.find(session, tenant_id, ref.job, ref.artifact)
    except ServiceError as error:
        raise invalid(at, error.detail, "reference") from error
    if resuming and artifact.role != "checkpoint":
        detail = f"{ref.artifact} has the role {artifact.role}; name one of role checkpoint"
        raise invalid(f"{at}/artifact", detail, "reference")
    return artifact.sha256


def _dataset(
    session: Session, tenant_id: str, ref: DatasetRef, at: str
) -> tuple[str | None, dict[str, int]]:
    try:
        return datasets.resolve(session, tenant_id, ref.dataset)
    except NotFoundError as error:
        hint = did_you_mean(ref.dataset, BUILTIN)
        detail = f"{error.detail}{hint}; GET /v1/datasets lists all"
        raise invalid(f"{at}/dataset", detail, "reference") from error
    except InvalidError as error:
        raise invalid(f"{at}/dataset", error.detail, "reference") from error


def _part(filled: dict[str, Any], pointer: str) -> dict[str, Any]:
    """The part of a dumped spec at a pointer of ``Spec.references``."""
    part: Any = filled
    for step in pointer.split("/")[1:]:
        part = part[int(step)] if isinstance(part, list) else part[step]
    return part


def placement(request: JobCreate) -> Placement:
    """Device, number of GPUs and queue of a job."""
    asked: Resources = request.resources
    device = "cuda" if asked.device == "auto" and asked.gpus else asked.device
    gpus = max(1, asked.gpus or 0) if device == "cuda" else 0
    return Placement(device, gpus, request.queue or (GPU_QUEUE if gpus else request.spec.queue))
