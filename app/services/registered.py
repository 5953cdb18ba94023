"""References of specs to registered models: from a name to the file of a job."""

import re
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from app.db.tables import ModelVersion
from app.errors import NotFoundError, invalid
from app.services import versions
from app.services.specs import part
from models.core.spec import REGISTERED, ArtifactRef, Spec

WHOLE = re.compile(REGISTERED)


class BoundSpec(NamedTuple):
    """A spec without names of models, and its JSON as it was sent, with versions for aliases."""

    spec: Spec
    sent: dict[str, Any]


def bind(session: Session, tenant_id: str, spec: Spec, root: str) -> BoundSpec:
    """Put the file of a job in the place of each registered model.

    Args:
        session: to look in.
        tenant_id: whose models.
        spec: as it was sent.
        root: JSON pointer of the spec in the request.

    Raises:
        InvalidError: with the pointer of a reference that names no version.
    """
    sent = spec.model_dump(mode="json", exclude_unset=True)
    named = [
        (pointer, ref.registered)
        for pointer, ref in spec.references()
        if isinstance(ref, ArtifactRef) and ref.registered
    ]
    if not named:
        return BoundSpec(spec, sent)
    bound = spec.model_dump(mode="json", exclude_unset=True)
    for pointer, name in named:
        try:
            row = find(session, tenant_id, name)
        except NotFoundError as error:
            raise invalid(root + pointer, error.detail, "reference") from error
        part(sent, pointer)["job"] = with_number(name, row)
        part(bound, pointer).update(job=row.job_id, artifact=row.artifact)
    return BoundSpec(type(spec).model_validate(bound), sent)


def find(session: Session, tenant_id: str, reference: str) -> ModelVersion:
    """The version that ``model:NAME@ALIAS`` or ``model:NAME/3`` names.

    Raises:
        NotFoundError: if there is none.
    """
    name, separator, which = re.split("([@/])", reference.removeprefix("model:"), maxsplit=1)
    if separator == "@":
        return versions.pointed(session, tenant_id, name, which)
    return versions.get(session, tenant_id, name, int(which))


def numbered(session: Session, tenant_id: str, node: Any) -> Any:
    """JSON of specs or their parts with the version in place of each alias.

    What is carried out later means what it meant when it was sent.

    Raises:
        NotFoundError: if there is no such version.
    """
    if isinstance(node, list):
        return [numbered(session, tenant_id, each) for each in node]
    if isinstance(node, str) and WHOLE.fullmatch(node):
        return with_number(node, find(session, tenant_id, node))
    if not isinstance(node, dict):
        return node
    return {name: numbered(session, tenant_id, value) for name, value in node.items()}


def with_number(reference: str, row: ModelVersion) -> str:
    """The name of a version by its number, whatever it was called by."""
    return f"{re.split('[@/]', reference, maxsplit=1)[0]}/{row.number}"
