"""Registered models, their versions and aliases."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.http.deps import DurableSession, Idempotent, JobsRead, JobsWrite, ReadSession, WriteSession
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.page import Page
from app.schemas.registry import (
    MAX_NUMBER,
    AliasName,
    ModelAliasMove,
    ModelCreate,
    ModelFilters,
    ModelName,
    ModelPatch,
    ModelRead,
    ModelVersionCreate,
    ModelVersionRead,
)
from app.services import registry, versions
from app.services.idempotency import Answer

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)

Name = Annotated[ModelName, Path(description="Name of a model")]
Number = Annotated[int, Path(ge=1, le=MAX_NUMBER, description="Number of a version")]
Alias = Annotated[AliasName, Path(description="Name of an alias, such as production")]
LOCATION = {"Location": {"description": "Address of what was made", "schema": {"type": "string"}}}


@router.post(
    "",
    status_code=201,
    response_model=ModelRead,
    responses={201: {"headers": LOCATION}, **problems(400, 409, 413, 415)},
)
def create_model(
    body: ModelCreate, principal: JobsWrite, session: DurableSession, idempotent: Idempotent
) -> Response:
    """Make a model without versions. Registering a first version makes one too."""

    def work() -> Answer:
        made = registry.create(session, principal.tenant_id, body)
        read = registry.describe(session, [made])[0]
        headers = {"Location": f"/v1/models/{made.name}"}
        return Answer(201, read.model_dump(mode="json"), headers, made.id)

    return idempotent(work)


@router.get("")
def list_models(
    filters: Annotated[ModelFilters, Query()], principal: JobsRead, session: ReadSession
) -> Page[ModelRead]:
    """List models, newest first."""
    rows, next_cursor = registry.list_page(session, principal.tenant_id, filters)
    data = registry.describe(session, rows)
    return Page(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


@router.get("/{name}", responses=problems(404))
def read_model(name: Name, principal: JobsRead, session: ReadSession) -> ModelRead:
    """Read a model with its aliases."""
    return registry.describe(session, [registry.get(session, principal.tenant_id, name)])[0]


@router.patch("/{name}", responses=problems(400, 404, 413, 415))
def edit_model(
    name: Name, body: ModelPatch, principal: JobsWrite, session: WriteSession
) -> ModelRead:
    """Change description and labels of a model."""
    return registry.describe(session, [registry.edit(session, principal.tenant_id, name, body)])[0]


@router.delete("/{name}", status_code=204, responses=problems(404))
def delete_model(name: Name, principal: JobsWrite, session: WriteSession) -> None:
    """Delete a model with its versions and aliases; jobs and their files stay."""
    registry.delete(session, principal.tenant_id, name)


@router.post(
    "/{name}/versions",
    status_code=201,
    response_model=ModelVersionRead,
    responses={201: {"headers": LOCATION}, **problems(400, 404, 409, 413, 415)},
)
def register_version(
    name: Name,
    body: ModelVersionCreate,
    principal: JobsWrite,
    session: DurableSession,
    idempotent: Idempotent,
) -> Response:
    """Make a file of a final job the next version of a model, which is made if there is none.

    The file is kept, and its job cannot be deleted, until the version is.
    """

    def work() -> Answer:
        made = versions.register(session, principal.tenant_id, name, body)
        read = versions.describe(session, name, [made])[0]
        headers = {"Location": f"/v1/models/{name}/versions/{made.number}"}
        return Answer(201, read.model_dump(mode="json"), headers, made.id)

    return idempotent(work)


@router.get("/{name}/versions", responses=problems(404))
def list_versions(
    name: Name,
    filters: Annotated[ModelFilters, Query()],
    principal: JobsRead,
    session: ReadSession,
) -> Page[ModelVersionRead]:
    """List the versions of a model, newest first."""
    rows, next_cursor = versions.list_page(session, principal.tenant_id, name, filters)
    data = versions.describe(session, name, rows)
    return Page(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


@router.get("/{name}/versions/{number}", responses=problems(404))
def read_version(
    name: Name, number: Number, principal: JobsRead, session: ReadSession
) -> ModelVersionRead:
    """Read a version of a model."""
    row = versions.get(session, principal.tenant_id, name, number)
    return versions.describe(session, name, [row])[0]


@router.delete("/{name}/versions/{number}", status_code=204, responses=problems(404, 409))
def delete_version(name: Name, number: Number, principal: JobsWrite, session: WriteSession) -> None:
    """Delete a version to which no alias points; its job and its file stay, and may be deleted."""
    versions.delete(session, principal.tenant_id, name, number)


@router.put("/{name}/aliases/{alias}", responses=problems(400, 404, 412, 413, 415))
def move_alias(
    name: Name, alias: Alias, body: ModelAliasMove, principal: JobsWrite, session: WriteSession
) -> ModelRead:
    """Let an alias point at a version. Jobs that were submitted before keep the one they had."""
    model = versions.move_alias(session, principal.tenant_id, name, alias, body)
    return registry.describe(session, [model])[0]


@router.delete("/{name}/aliases/{alias}", status_code=204, responses=problems(404))
def delete_alias(name: Name, alias: Alias, principal: JobsWrite, session: WriteSession) -> None:
    """Delete an alias; the version stays."""
    versions.delete_alias(session, principal.tenant_id, name, alias)
