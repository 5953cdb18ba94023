"""Predictions by registered models: what a loaded net is asked, and the job where none answers."""

import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from app.db.tables import Dataset, Job, new_id
from app.errors import InvalidError, invalid
from app.questions import Question
from app.schemas.jobs import MAX_NAME, JobCreate
from app.schemas.predictions import PredictOptions
from app.services import datasets, jobs, quotas, registered, uploads
from app.services.specs import validated
from app.storage import Stored
from models.catalog import kinds
from models.core.needs import ArtifactNeed, StoredArtifact

KIND = "classify.predict"
PICTURES = "photos"  # stands for those of the request, where a spec must name a dataset


class Asked(NamedTuple):
    """A question to a version of a model.

    Attributes:
        reference: what specs call the version.
        question: to a net that is loaded.
    """

    reference: str
    question: Question


def prepare(
    session: Session,
    tenant_id: str,
    reference: str,
    options: PredictOptions,
    contents: Sequence[bytes],
) -> Asked:
    """The question that a request asks.

    Raises:
        NotFoundError: if there is no such version.
        InvalidError: if it is no classifier.
    """
    row = registered.find(session, tenant_id, reference)
    model = {"job": row.job_id, "artifact": row.artifact, "sha256": row.sha256}
    spec = kinds()[KIND].model_validate(_spec(model, PICTURES, options))
    file = StoredArtifact(row.artifact, row.role, row.kind)
    needs = [need for need in spec.needs() if isinstance(need, ArtifactNeed)]
    for lack in (lack for need in needs for lack in need.lacks(file)):
        raise invalid("", f"{KIND} {lack.reason}", "unmet_need")
    name = registered.with_number(reference, row)
    return Asked(name, Question(tenant_id, KIND, model, options.model_dump(), contents))


def _spec(model: Any, dataset: str, options: PredictOptions) -> dict[str, Any]:
    return {"kind": KIND, "model": model, "data": {"dataset": dataset}, **options.model_dump()}


def refusal(reply: dict[str, Any]) -> InvalidError:
    """What a net refused, as the error of the request."""
    message, hint = reply["message"], reply.get("hint")
    return invalid("", f"{message}: {hint}" if hint else message, "data_invalid")


# -- as a job --------------------------------------------------------------------------------


def make_dataset(session: Session, tenant_id: str) -> tuple[Dataset, quotas.Room]:
    """A dataset for the pictures of a request, and the room that there is for them."""
    name = f"predict-{new_id('x').partition('_')[2]}"
    row = datasets.create(session, tenant_id, name, "image_folder", {})
    return row, quotas.room(session, tenant_id)


async def store(
    dataset: Dataset, room: quotas.Room, contents: Sequence[bytes]
) -> tuple[str, Stored]:
    """Store the pictures as a zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, content in enumerate(contents):
            # so ended, none is left out as something else: a damaged one fails the job
            archive.writestr(f"{number:05d}.png", content)

    async def chunks() -> AsyncIterator[bytes]:
        yield packed.getvalue()

    return await uploads.receive(dataset, chunks(), packed.tell(), None, room)


def submit(
    session: Session,
    asked: Asked,
    options: PredictOptions,
    dataset: Dataset,
    key: str,
    stored: Stored,
) -> Job:
    """The job that classifies the stored pictures.

    No worker checks the dataset first: the job reads it as carefully.

    Raises:
        QuotaExceededError: if the tenant has as many queued, or as much stored, as it may.
    """
    tenant_id = asked.question.tenant_id
    row = uploads.accept(session, tenant_id, dataset.id, key, stored)
    row.status, row.counts = "ready", {"images": len(asked.question.contents)}
    session.flush()
    spec = validated(_spec({"job": asked.reference}, row.name, options), "")
    return jobs.submit(
        session, tenant_id, JobCreate(spec=spec, name=f"predict {asked.reference}"[:MAX_NAME])
    )
