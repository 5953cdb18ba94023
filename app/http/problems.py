"""Errors as ``application/problem+json`` (RFC 9457): body, handlers, ``responses=`` of routes."""

from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, Field, TypeAdapter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from structlog.contextvars import get_contextvars

from app.db.failures import is_temporary
from app.errors import ServiceError
from app.services.idempotency import Answer
from app.services.validation_errors import EXCERPT_CHARS, MAX_ERRORS, describe_errors

MEDIA_TYPE = "application/problem+json"


class ProblemKind(NamedTuple):
    """What a problem's code means; served at ``/problems/{code}``."""

    status: int
    title: str
    text: str


PROBLEMS = {
    "invalid_request": ProblemKind(400, "Malformed request", "The body is not JSON in UTF-8."),
    "unauthorized": ProblemKind(
        401, "No valid key", "Send `Authorization: Bearer <key>` with a key that is still valid."
    ),
    "forbidden": ProblemKind(
        403, "Scope missing", "The key is valid but lacks the scope that the detail names."
    ),
    "storage_quota_exceeded": ProblemKind(
        403,
        "Storage quota full",
        "The tenant has stored all it may, as `quota` tells. Delete jobs or datasets.",
    ),
    "not_found": ProblemKind(
        404, "Not found", "There is nothing at this address, or it belongs to another tenant."
    ),
    "method_not_allowed": ProblemKind(
        405, "Method not allowed", "The header `Allow` lists the methods of this address."
    ),
    "conflict": ProblemKind(
        409, "Conflict", "The present state of the resource does not allow the request."
    ),
    "idempotency_in_flight": ProblemKind(
        409, "First request in flight", "Repeat the request after a second to get its answer."
    ),
    "precondition_failed": ProblemKind(
        412, "Changed meanwhile", "Read it again, and send the change with its new ETag."
    ),
    "too_large": ProblemKind(413, "Too large", "Send fewer bytes; the detail names the limit."),
    "unsupported_media_type": ProblemKind(
        415, "Unsupported media type", "Send the body in the media type that the detail names."
    ),
    "range_not_satisfiable": ProblemKind(
        416, "Range not satisfiable", "The range lies outside of the content."
    ),
    "misdirected": ProblemKind(
        421, "Another host", "Without keys the service answers only to names of this machine."
    ),
    "validation_failed": ProblemKind(
        422, "Invalid values", "`errors` names each wrong field by its JSON pointer."
    ),
    "idempotency_mismatch": ProblemKind(
        422, "Key used for another request", "Use a new Idempotency-Key for a new request."
    ),
    "quota_exceeded": ProblemKind(
        429, "Quota full", "Wait, or free some of what `quota` names; `GET /v1/usage` tells all."
    ),
    "too_many": ProblemKind(429, "Too many", "Wait for the seconds that `Retry-After` names."),
    "headers_too_large": ProblemKind(
        431, "Headers too large", "Shorten the address or the headers; the detail names the limit."
    ),
    "internal": ProblemKind(
        500, "Internal error", "A defect of the service; report it with the request_id."
    ),
    "unavailable": ProblemKind(
        503, "Temporarily unavailable", "Try again after the seconds that `Retry-After` names."
    ),
}
CODES = {item.status: code for code, item in reversed(PROBLEMS.items())}
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": "5"},
}


class FieldError(BaseModel):
    """One wrong field."""

    pointer: str = Field(description="JSON pointer (RFC 6901) of the field in the request")
    location: Literal["body", "query", "header", "path"] = "body"
    code: str
    detail: str
    value_excerpt: str | None = None


class QuotaProblem(BaseModel):
    """The quota that is full."""

    name: str
    limit: int
    used: int


class Problem(BaseModel):
    """An error."""

    type: str = Field(description="Address of the explanation")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request")
    code: str
    request_id: str | None
    errors: list[FieldError] | None = Field(default=None, description="With status 422")
    quota: QuotaProblem | None = Field(default=None, description="With a full quota")


def schemas() -> dict[str, Any]:
    """Parts of the OpenAPI document that the responses of :func:`problems` refer to."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), Problem.__name__: schema}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Argument ``responses=`` of a route that answers these statuses in problem form."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def answer(
    instance: str,
    code: str,
    detail: str,
    *,
    status: int | None = None,
    errors: list[dict[str, Any]] | None = None,
    quota: dict[str, Any] | None = None,
    retry_after_s: int | None = None,
) -> Answer:
    """Status, headers and body of a problem."""
    explained = PROBLEMS[code]
    status = status or explained.status
    field_errors = [FieldError(**error) for error in errors] if errors else None
    problem = Problem(
        type=f"/problems/{code}",
        title=explained.title if status == explained.status else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        request_id=get_contextvars().get("request_id"),
        errors=field_errors,
        quota=QuotaProblem(**quota) if quota else None,
    )
    body = problem.model_dump(exclude={n for n in ("errors", "quota") if not getattr(problem, n)})
    wait = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Answer(status, body, HEADERS.get(status, {}) | wait)


def refusal(instance: str, error: ServiceError) -> Answer:
    """The problem of a service's exception."""
    return answer(
        instance,
        error.code,
        error.detail,
        errors=error.errors,
        quota=error.quota,
        retry_after_s=error.retry_after_s,
    )


def respond(content: Answer) -> Response:
    """An Answer as a response; problems under their own media type."""
    media_type = MEDIA_TYPE if content.status_code >= HTTPStatus.BAD_REQUEST else None
    return JSONResponse(content.body, content.status_code, content.headers, media_type)


def respond_problem(request: Request, code: str, detail: str, **more: Any) -> Response:
    """A problem as a response."""
    return respond(answer(request.url.path, code, detail, **more))


async def on_service_error(request: Request, error: ServiceError) -> Response:
    """A refusal of a service, by its class."""
    return respond(refusal(request.url.path, error))


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """An exception of the framework; a 405 gets a complete ``Allow``."""
    status = error.status_code
    fallback = "internal" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request"
    detail = str(error.detail)
    if detail == HTTPStatus.NOT_FOUND.phrase:  # of the framework: no route has this address
        detail = f"nothing at {request.url.path}; GET /openapi.json lists every address"
    response = respond_problem(request, CODES.get(status, fallback), detail, status=status)
    response.headers.update(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """Methods of all routes at this address; the framework names those of one."""
    path = request.scope["path"]
    return {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.methods and route.path_regex.match(path)
        for method in route.methods
    }


def on_invalid(request: Request, error: RequestValidationError) -> Response:
    """Wrong values: 404 where the address itself is wrong, else 422 with the fields.

    No coroutine, so it runs in a thread: similar names take a while to look up.
    """
    errors = error.errors()
    for item in errors:
        if item["loc"][0] == "path":
            what = str(item["loc"][-1]).removesuffix("_id")
            detail = f"no {what} {str(item.get('input'))[:EXCERPT_CHARS]!r}"
            return respond_problem(request, "not_found", detail)
    route = request.scope["route"]
    field_errors = [
        item for each in errors[:MAX_ERRORS] for item in _field_errors(each, error.body, route)
    ]
    detail = "; ".join(
        f"{item['pointer'] or item.get('location', 'body')}: {item['detail']}"
        for item in field_errors[:3]
    )
    if len(errors) > MAX_ERRORS:
        detail += f"; only the first {MAX_ERRORS} errors are listed"
    return respond_problem(request, "validation_failed", detail, errors=field_errors)


def _field_errors(error: dict[str, Any], body: Any, route: APIRoute) -> list[dict[str, Any]]:
    location, *loc = error["loc"]
    if location == "body" and route.body_field is not None:
        adapter = adapter_of(route)
        return describe_errors([{**error, "loc": loc}], body, adapter)
    sent = {str(loc[0]): error.get("input")} if loc else {}
    described = describe_errors([{**error, "loc": loc}], sent, TypeAdapter(Any))
    return [{**item, "location": location} for item in described]


ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def adapter_of(route: APIRoute) -> TypeAdapter[Any]:
    """What the body of a route, which must have one, is validated with."""
    annotation: Any = route.body_field and route.body_field.field_info.annotation
    if annotation not in ADAPTERS:
        ADAPTERS[annotation] = TypeAdapter(annotation)
    return ADAPTERS[annotation]


async def on_database_error(request: Request, error: Exception) -> Response:
    """The database is away, locked, too slow, or ended a transaction; else a defect of ours."""
    if not is_temporary(error):
        raise error
    return respond_problem(request, "unavailable", "the database does not answer; try again")


async def on_cut_off(request: Request, _error: ClientDisconnect) -> Response:
    """The client went away before its body was there: no defect, and nobody reads the answer."""
    return respond_problem(request, "invalid_request", "the body was cut off")


def install(app: FastAPI) -> None:
    """Register the handlers."""
    handlers: dict[Any, Any] = {
        ServiceError: on_service_error,
        HTTPException: on_http_error,
        RequestValidationError: on_invalid,
        ClientDisconnect: on_cut_off,
        DBAPIError: on_database_error,
        PoolTimeoutError: on_database_error,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
