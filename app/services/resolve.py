"""From a spec as it was sent to one that repeats the same job: defaults and digests filled in."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from app.db.tables import Job
from app.errors import InvalidError, NotFoundError, ServiceError, invalid
from app.schemas.jobs import JobCreate, Resources
from app.services import artifacts, datasets, needs
from app.services.promised import promised
from app.services.queues import GPU_QUEUE
from app.services.registered import bind
from app.services.specs import part
from app.services.validation_errors import did_you_mean
from models.core.errors import SpecError
from models.core.needs import DatasetInfo, StoredArtifact
from models.core.spec import ArtifactRef, DatasetRef, Estimate, Spec
from models.data.builtin import BUILTIN


class Resolved(NamedTuple):
    """A spec with every default and digest, what it will cost, and the jobs it must wait for.

    The digest of a file that one of these jobs is yet to make is null. ``sent`` is the spec as it
    was sent, with a version in place of each alias of a registered model.
    """

    spec: dict[str, Any]
    sent: dict[str, Any]
    cost: Estimate
    awaited: tuple[str, ...] = ()


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
            or will be, and the tenant's own, or nothing that the kind can use.
    """
    spec, sent = bind(session, tenant_id, spec, root)
    awaited: list[str] = []
    filled = spec.model_dump(mode="json")
    inputs: dict[str, DatasetInfo | StoredArtifact] = {}
    counts: dict[str, Mapping[str, Any]] = {}
    for pointer, ref in spec.references():
        at = root + pointer
        if isinstance(ref, ArtifactRef):
            sha256, inputs[pointer] = _artifact(session, tenant_id, spec, ref, at)
            awaited += [ref.job] if sha256 is None else []
        else:
            ready = _dataset(session, tenant_id, ref, at)
            sha256, inputs[pointer] = ready.sha256, ready.info
            counts[ref.dataset] = ready.info.counts
            part(filled, pointer).update(_options(ref, ready, at))
        if ref.sha256 not in (None, sha256):
            there = f"the digest there is {sha256}" if sha256 else "the file is not made yet"
            raise invalid(f"{at}/sha256", f"{there}; leave sha256 out", "sha256")
        part(filled, pointer)["sha256"] = sha256
    needs.check(session, tenant_id, spec.needs(), inputs, root)
    return Resolved(filled, sent, _estimate(spec, counts, root), tuple(awaited))


def _estimate(spec: Spec, counts: Mapping[str, Mapping[str, Any]], root: str) -> Estimate:
    try:
        return spec.estimate(counts)
    except SpecError as error:  # the spec is valid by itself but not with these data
        detail = f"{error}: {error.hint}" if error.hint else str(error)
        raise invalid(root + error.pointer, detail, "spec_invalid") from error
    except ValueError as error:
        raise invalid(root, str(error), "spec_invalid") from error


def _options(ref: DatasetRef, ready: datasets.ReadyDataset, at: str) -> dict[str, Any]:
    """How the bytes are read, and options of the upload that the reference leaves open."""
    if ref.read is not None and ref.read.model_dump() != ready.read:
        detail = f"the dataset was imported with {ready.read}; leave read out"
        raise invalid(f"{at}/read", detail, "read")
    return ref.from_upload(ready.options) | {"read": ready.read}


def _artifact(
    session: Session, tenant_id: str, spec: Spec, ref: ArtifactRef, at: str
) -> tuple[str | None, StoredArtifact]:
    if ref is spec.resume_from and not spec.resumable:
        raise invalid(at, "this kind cannot go on from a checkpoint; leave resume_from out")
    try:
        artifact = artifacts.find(session, tenant_id, ref.job, ref.artifact)
    except ServiceError as error:
        return None, _promised(session, tenant_id, ref, at, error)
    kind = session.get_one(Job, ref.job).kind
    return artifact.sha256, StoredArtifact(artifact.name, artifact.role, kind)


def _promised(
    session: Session, tenant_id: str, ref: ArtifactRef, at: str, missing: ServiceError
) -> StoredArtifact:
    """A file that its job is yet to make."""
    try:
        file = promised(session, tenant_id, ref)
    except NotFoundError as error:
        raise invalid(f"{at}/artifact", error.detail, "reference") from error
    if file is None:
        raise invalid(at, missing.detail, "reference") from missing
    return file


def _dataset(session: Session, tenant_id: str, ref: DatasetRef, at: str) -> datasets.ReadyDataset:
    try:
        return datasets.resolve(session, tenant_id, ref.dataset)
    except NotFoundError as error:
        hint = did_you_mean(ref.dataset, BUILTIN)
        detail = f"{error.detail}{hint}; GET /v1/datasets lists all"
        raise invalid(f"{at}/dataset", detail, "reference") from error
    except InvalidError as error:
        raise invalid(f"{at}/dataset", error.detail, "reference") from error


def placement(request: JobCreate) -> Placement:
    """Device, number of GPUs and queue of a job."""
    asked: Resources = request.resources
    device = "cuda" if asked.device == "auto" and asked.gpus else asked.device
    gpus = max(1, asked.gpus or 0) if device == "cuda" else 0
    return Placement(device, gpus, request.queue or (GPU_QUEUE if gpus else request.spec.queue))
