"""Registered models: names for trained nets. Their versions and aliases are in ``versions``.

All changes of a model happen under the lock of its row.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import ModelAlias, ModelVersion, RegisteredModel, new_id
from app.errors import ConflictError, NotFoundError, invalid
from app.schemas.jobs import MAX_LABELS
from app.schemas.registry import ModelCreate, ModelFilters, ModelPatch, ModelRead
from app.services import paging


def create(session: Session, tenant_id: str, request: ModelCreate) -> RegisteredModel:
    """A model without versions.

    Raises:
        ConflictError: if the tenant has one of this name.
    """
    there = ConflictError(f"there is a model {request.name!r} already; choose another name")
    if find(session, tenant_id, request.name) is not None:
        raise there
    model = RegisteredModel(
        id=new_id("mdl"),
        tenant_id=tenant_id,
        name=request.name,
        description=request.description,
        labels=request.metadata,
    )
    try:
        with session.begin_nested():
            session.add(model)
    except IntegrityError as error:  # two at once
        raise there from error
    return model


def get(session: Session, tenant_id: str, name: str, *, locked: bool = False) -> RegisteredModel:
    """The model of this name.

    Raises:
        NotFoundError: if the tenant has none.
    """
    model = find(session, tenant_id, name, locked=locked)
    if model is None:
        raise NotFoundError(f"no model {name!r}; GET /v1/models lists all")
    return model


def find(
    session: Session, tenant_id: str, name: str, *, locked: bool = False
) -> RegisteredModel | None:
    """The same, None if there is none."""
    query = select(RegisteredModel).where(
        RegisteredModel.tenant_id == tenant_id, RegisteredModel.name == name
    )
    if locked:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def list_page(session: Session, tenant_id: str, filters: ModelFilters) -> paging.RowPage:
    """One page of the tenant's models, newest first."""
    query = select(RegisteredModel).where(RegisteredModel.tenant_id == tenant_id)
    return paging.fetch(
        session, query, RegisteredModel.id, limit=filters.limit, cursor=filters.cursor
    )


def edit(session: Session, tenant_id: str, name: str, change: ModelPatch) -> RegisteredModel:
    """Change what is written about a model.

    Raises:
        InvalidError: if it would have more labels than it may.
    """
    model = get(session, tenant_id, name, locked=True)
    merged = model.labels | change.metadata
    labels = {label: value for label, value in merged.items() if value is not None}
    if len(labels) > MAX_LABELS:
        detail = f"the model would have {len(labels)} labels; at most {MAX_LABELS}: remove some"
        raise invalid("/metadata", detail, "too_many")
    if "description" in change.model_fields_set:
        model.description = change.description
    model.labels, model.updated_at = labels, database_now(session)
    session.flush()
    return model


def delete(session: Session, tenant_id: str, name: str) -> None:
    """Remove a model with its versions and aliases; files and jobs stay, and are free to go."""
    model = get(session, tenant_id, name, locked=True)
    session.execute(delete_rows(ModelAlias).where(ModelAlias.model_id == model.id))
    session.execute(delete_rows(ModelVersion).where(ModelVersion.model_id == model.id))
    session.delete(model)
    session.flush()


def aliases_of(session: Session, model_ids: Iterable[str]) -> dict[str, dict[str, int]]:
    """Number by alias, by model."""
    numbers: dict[str, dict[str, int]] = {each: {} for each in model_ids}
    query = select(ModelAlias).where(ModelAlias.model_id.in_(numbers)).order_by(ModelAlias.name)
    for row in session.scalars(query):
        numbers[row.model_id][row.name] = row.number
    return numbers


def describe(session: Session, rows: Sequence[RegisteredModel]) -> list[ModelRead]:
    """Models as they are answered."""
    ids = [row.id for row in rows]
    newest = (
        select(ModelVersion.model_id, func.max(ModelVersion.number))
        .where(ModelVersion.model_id.in_(ids))
        .group_by(ModelVersion.model_id)
    )
    latest = dict(session.execute(newest).all())
    aliases = aliases_of(session, ids)
    return [
        ModelRead(
            id=row.id,
            name=row.name,
            description=row.description,
            metadata=row.labels,
            latest_version=latest.get(row.id),
            aliases=aliases[row.id],
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in rows
    ]
