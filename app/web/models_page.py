"""Registered models: the list, one with its versions, and the form that registers a file."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from app.errors import ServiceError
from app.http.deps import DurableSession, ReadSession, WriteSession
from app.routers.jobs import JobId
from app.routers.registry import Alias, Name, Number
from app.schemas.registry import (
    ModelAliasMove,
    ModelFilters,
    ModelVersionCreate,
    RegisterForm,
)
from app.services import artifacts, registry, versions
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import JobsReader, JobsWriter
from models.core.needs import WEIGHTS

ROWS = 50

router = APIRouter(prefix="/models", route_class=PageRoute, include_in_schema=False)


@router.get("")
def models_page(
    request: Request, visitor: JobsReader, session: ReadSession, cursor: str = ""
) -> Response:
    """Show the models, newest first."""
    filters = ModelFilters(limit=ROWS, cursor=cursor or None)
    page = registry.list_page(session, visitor.tenant_id, filters)
    return render(
        request,
        "models.html",
        models=registry.describe(session, page.data),
        next_page=f"/models?cursor={page.next_cursor}" if page.next_cursor else None,
    )


@router.get("/register/{job_id}")
def register_page(
    job_id: JobId, request: Request, visitor: JobsWriter, session: ReadSession
) -> Response:
    """Ask for the name of a model and the file that becomes its next version."""
    return _form(request, session, visitor.tenant_id, job_id)


def _form(
    request: Request, session: ReadSession, tenant_id: str, job_id: str, **more: Any
) -> Response:
    files = [
        row.name for role in WEIGHTS for row in artifacts.listing(session, tenant_id, job_id, role)
    ]
    known = registry.list_page(session, tenant_id, ModelFilters(limit=ROWS)).data
    names = [row.name for row in known]
    shown = {"job_id": job_id, "files": files, "names": names, "sent": {}, "refused": None} | more
    return render(request, "register.html", 422 if shown["refused"] else 200, **shown)


@router.post("/register/{job_id}")
def register(
    job_id: JobId, request: Request, visitor: JobsWriter, session: DurableSession
) -> Response:
    """Register a file; a plain form, so that it needs no script."""
    sent = getattr(request.state, "form", {})
    try:
        form = RegisterForm(**{name: sent.get(name, "") for name in RegisterForm.model_fields})
        aliases = [form.alias] if form.alias else []
        body = ModelVersionCreate(job=job_id, artifact=form.artifact, aliases=aliases)
        with session.begin_nested():
            versions.register(session, visitor.tenant_id, form.name, body)
    except ValidationError as error:
        fields = ", ".join(dict.fromkeys(str(each["loc"][0]) for each in error.errors()))
        detail = f"{fields}: letters, digits, '.', '_' and '-', beginning with a letter or digit"
    except ServiceError as error:
        detail = error.detail
    else:
        return RedirectResponse(f"/models/{form.name}", 303)
    return _form(request, session, visitor.tenant_id, job_id, sent=sent, refused=detail)


@router.get("/{name}")
def model_page(
    name: Name, request: Request, visitor: JobsReader, session: ReadSession, cursor: str = ""
) -> Response:
    """Show a model with its versions, newest first."""
    model = registry.get(session, visitor.tenant_id, name)
    filters = ModelFilters(limit=ROWS, cursor=cursor or None)
    page = versions.list_page(session, visitor.tenant_id, name, filters)
    return render(
        request,
        "model.html",
        model=registry.describe(session, [model])[0],
        versions=versions.describe(session, name, page.data),
        next_page=f"/models/{name}?cursor={page.next_cursor}" if page.next_cursor else None,
    )


@router.post("/{name}/aliases/{alias}/{number}")
def move_alias(
    name: Name, alias: Alias, number: Number, visitor: JobsWriter, session: WriteSession
) -> Response:
    """Let an alias point at a version."""
    move = ModelAliasMove(version=number)
    versions.move_alias(session, visitor.tenant_id, name, alias, move)
    return Response(status_code=204)


@router.post("/{name}/versions/{number}/delete")
def delete_version(
    name: Name, number: Number, visitor: JobsWriter, session: WriteSession
) -> Response:
    """Delete a version."""
    versions.delete(session, visitor.tenant_id, name, number)
    return Response(status_code=204)
