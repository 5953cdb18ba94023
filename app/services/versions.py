"""Versions of registered models, numbered 1, 2, 3, ..., and the aliases that move between them.

All changes happen under the lock of the model's row, so no number is given twice and no alias
points at a version that is being deleted.
"""

import contextlib
from collections.abc import Sequence

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import FINAL, Artifact, Job, ModelAlias, ModelVersion, RegisteredModel, new_id
from app.errors import ConflictError, NotFoundError, PreconditionError, invalid
from app.schemas.registry import (
    MAX_ALIASES,
    ModelAliasMove,
    ModelCreate,
    ModelFilters,
    ModelVersionCreate,
    ModelVersionRead,
)
from app.services import artifacts, paging, registry
from models.core.needs import WEIGHTS

# made once: building a statement costs more than running it, and predictions are quick
POINTED = (
    select(ModelVersion)
    .join(RegisteredModel, RegisteredModel.id == ModelVersion.model_id)
    .join(
        ModelAlias,
        (ModelAlias.model_id == ModelVersion.model_id) & (ModelAlias.number == ModelVersion.number),
    )
    .where(
        RegisteredModel.tenant_id == bindparam("tenant_id"),
        RegisteredModel.name == bindparam("model"),
        ModelAlias.name == bindparam("alias"),
    )
)


def register(
    session: Session, tenant_id: str, name: str, request: ModelVersionCreate
) -> ModelVersion:
    """Make a file the next version of a model, which is made too if there is none.

    Raises:
        ConflictError: if the job is not final.
        InvalidError: if it has no such file, or one that holds no net.
    """
    model = _locked_or_made(session, tenant_id, name)
    artifact, kind = _file(session, tenant_id, request)
    model.numbered += 1
    model.updated_at = database_now(session)
    made = ModelVersion(
        id=new_id("mdv"),
        model_id=model.id,
        number=model.numbered,
        tenant_id=tenant_id,
        job_id=artifact.job_id,
        artifact=artifact.name,
        role=artifact.role,
        kind=kind,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        description=request.description,
        created_at=model.updated_at,
    )
    session.add(made)
    session.flush()
    for alias in dict.fromkeys(request.aliases):
        _point(session, model, alias, made.number, "/aliases")
    return made


def _locked_or_made(session: Session, tenant_id: str, name: str) -> RegisteredModel:
    if registry.find(session, tenant_id, name) is None:
        with contextlib.suppress(ConflictError):  # another request made it just now
            registry.create(session, tenant_id, ModelCreate(name=name))
    return registry.get(session, tenant_id, name, locked=True)


def _file(session: Session, tenant_id: str, request: ModelVersionCreate) -> tuple[Artifact, str]:
    """The file and the kind of its job, which is locked against deletion until the commit."""
    query = select(Job).where(Job.id == request.job, Job.tenant_id == tenant_id)
    job = session.scalar(query.where(Job.deleted_at.is_(None)).with_for_update(read=True))
    if job is None:
        raise invalid("/job", f"no job {request.job}", "reference")
    if job.status not in FINAL:
        detail = f"the job is {job.status}: its files may still change; wait for its end"
        raise ConflictError(detail)
    try:
        artifact = artifacts.find(session, tenant_id, job.id, request.artifact)
    except NotFoundError as error:
        raise invalid("/artifact", error.detail, "reference") from error
    if artifact.role not in WEIGHTS:
        detail = f"{artifact.name} has the role {artifact.role}; a version is weights or checkpoint"
        raise invalid("/artifact", detail, "unmet_need")
    return artifact, job.kind


def list_page(session: Session, tenant_id: str, name: str, filters: ModelFilters) -> paging.RowPage:
    """One page of a model's versions, newest first."""
    model = registry.get(session, tenant_id, name)
    query = select(ModelVersion).where(ModelVersion.model_id == model.id)
    return paging.fetch(
        session,
        query,
        ModelVersion.id,
        limit=filters.limit,
        cursor=filters.cursor,
        filters={"model": model.id},
    )


def get(session: Session, tenant_id: str, name: str, number: int) -> ModelVersion:
    """The version of this number.

    Raises:
        NotFoundError: if the model has none.
    """
    model = registry.get(session, tenant_id, name)
    row = _version(session, model, number)
    if row is None:
        raise NotFoundError(f"the model {name!r} has no version {number}; {_range(model)}")
    return row


def _version(session: Session, model: RegisteredModel, number: int) -> ModelVersion | None:
    query = select(ModelVersion).where(ModelVersion.model_id == model.id)
    return session.scalar(query.where(ModelVersion.number == number))


def _range(model: RegisteredModel) -> str:
    return f"its newest was {model.numbered}" if model.numbered else "it has none yet"


def delete(session: Session, tenant_id: str, name: str, number: int) -> None:
    """Remove a version; its number is not given again, its file is free to go with its job.

    Raises:
        ConflictError: while an alias points at it.
    """
    model = registry.get(session, tenant_id, name, locked=True)
    row = get(session, tenant_id, name, number)
    names = [
        alias
        for alias, at in registry.aliases_of(session, [model.id])[model.id].items()
        if at == number
    ]
    if names:
        raise ConflictError(f"{', '.join(names)} points at it; move or delete the alias first")
    session.delete(row)
    session.flush()


# -- aliases ---------------------------------------------------------------------------------


def move_alias(
    session: Session, tenant_id: str, name: str, alias: str, move: ModelAliasMove
) -> RegisteredModel:
    """Let an alias point at a version, if it points where it is expected to.

    Raises:
        PreconditionError: if it points elsewhere.
        InvalidError: if the model has no such version.
    """
    model = registry.get(session, tenant_id, name, locked=True)
    now = registry.aliases_of(session, [model.id])[model.id].get(alias, 0)
    if move.expected_version not in (None, now):
        at = f"points at version {now}" if now else "does not exist"
        raise PreconditionError(f"{alias} {at}, not at {move.expected_version}; read it again")
    if _version(session, model, move.version) is None:
        detail = f"the model has no version {move.version}; {_range(model)}"
        raise invalid("/version", detail, "reference")
    model.updated_at = database_now(session)
    _point(session, model, alias, move.version, "")
    return model


def _point(session: Session, model: RegisteredModel, alias: str, number: int, pointer: str) -> None:
    row = session.get(ModelAlias, (model.id, alias))
    if row is None:
        count = select(func.count()).where(ModelAlias.model_id == model.id)
        if (session.scalar(count) or 0) >= MAX_ALIASES:
            detail = f"the model has {MAX_ALIASES} aliases, the most it may; delete one"
            raise invalid(pointer, detail, "too_many")
        row = ModelAlias(model_id=model.id, name=alias, number=number)
        session.add(row)
    row.number, row.updated_at = number, model.updated_at
    session.flush()


def delete_alias(session: Session, tenant_id: str, name: str, alias: str) -> None:
    """Remove an alias; the version stays.

    Raises:
        NotFoundError: if there is none.
    """
    model = registry.get(session, tenant_id, name, locked=True)
    row = session.get(ModelAlias, (model.id, alias))
    if row is None:
        raise NotFoundError(f"the model {name!r} has no alias {alias!r}")
    session.delete(row)
    session.flush()


def pointed(session: Session, tenant_id: str, name: str, alias: str) -> ModelVersion:
    """The version that an alias points at.

    Raises:
        NotFoundError: if there is no such model or alias.
    """
    named = {"tenant_id": tenant_id, "model": name, "alias": alias}
    row = session.scalar(POINTED, named)
    if row is None:
        model = registry.get(session, tenant_id, name)
        there = ", ".join(registry.aliases_of(session, [model.id])[model.id]) or "none"
        raise NotFoundError(f"the model {name!r} has no alias {alias!r}; it has {there}")
    return row


def describe(session: Session, name: str, rows: Sequence[ModelVersion]) -> list[ModelVersionRead]:
    """Versions of one model as they are answered."""
    aliases = registry.aliases_of(session, {row.model_id for row in rows})
    return [
        ModelVersionRead(
            id=row.id,
            model=name,
            version=row.number,
            reference=f"model:{name}/{row.number}",
            job=row.job_id,
            artifact=row.artifact,
            role=row.role,
            kind=row.kind,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            description=row.description,
            aliases=[alias for alias, at in aliases[row.model_id].items() if at == row.number],
            created_at=row.created_at,
        )
        for row in rows
    ]
