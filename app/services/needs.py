"""Whether what a spec names is what its kind needs, and which datasets of the tenant would do."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Dataset
from app.errors import InvalidError
from app.services.validation_errors import MAX_ERRORS
from models.core.needs import DatasetInfo, DatasetNeed, Lack, Need, StoredArtifact
from models.data.builtin import BUILTIN

LOOKED_THROUGH = 1000  # newest datasets of the tenant
NAMED = 5  # of those that would do


def check(
    session: Session,
    tenant_id: str,
    needs: Iterable[Need],
    inputs: Mapping[str, DatasetInfo | StoredArtifact],
    root: str,
) -> None:
    """Refuse references that their kind cannot use.

    Args:
        session: to look for other datasets in.
        tenant_id: whose.
        needs: of the spec.
        inputs: what its references name, by their pointers.
        root: JSON pointer of the spec in the request.

    Raises:
        InvalidError: naming each field, what is there, and what would do.
    """
    lacks = list(islice(_lacks(needs, inputs), MAX_ERRORS))
    if not lacks:
        return
    others = _datasets(session, tenant_id)
    errors = [_error(need, lack, others, root) for need, lack in lacks]
    raise InvalidError("; ".join(error["detail"] for error in errors[:3]), errors)


def _lacks(
    needs: Iterable[Need], inputs: Mapping[str, DatasetInfo | StoredArtifact]
) -> Iterator[tuple[Need, Lack]]:
    for need in needs:
        given: Any = inputs[need.pointer]
        for lack in need.lacks(given):
            yield need, lack


def _error(need: Need, lack: Lack, others: list[DatasetInfo], root: str) -> dict[str, Any]:
    detail = lack.reason
    if isinstance(need, DatasetNeed):
        fitting = [each.name for each in others if each.form and not any(need.lacks(each))]
        named = ", ".join(fitting[:NAMED]) + (", ..." if len(fitting) > NAMED else "")
        detail += f"; datasets that would do: {named or 'none of yours'}"
    return {"pointer": root + lack.pointer, "code": "unmet_need", "detail": detail}


def _datasets(session: Session, tenant_id: str) -> list[DatasetInfo]:
    """The built-in datasets and the newest of the tenant that are ready."""
    query = (
        select(Dataset.name, Dataset.counts)
        .where(
            Dataset.tenant_id == tenant_id,
            Dataset.deleted_at.is_(None),
            Dataset.status == "ready",
        )
        .order_by(Dataset.id.desc())
        .limit(LOOKED_THROUGH)
    )
    uploaded = [DatasetInfo(name, counts) for name, counts in session.execute(query)]
    return [*uploaded, *(DatasetInfo(each.name, each.counts) for each in BUILTIN.values())]
