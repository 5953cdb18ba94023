"""Predictions by registered models: at once where a net is loaded, else as a job."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import HTTPException
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.db.tables import Dataset
from app.errors import TooLargeError, invalid
from app.http import asking
from app.http.deps import JobsWrite
from app.http.loopback import JSON, media_type_of
from app.http.problems import problems
from app.http.strict import StrictRoute, wrong_values
from app.routers.registry import Alias, Name, Number
from app.schemas.jobs import JobRead
from app.schemas.predictions import BODY_BYTES, PredictionRead, PredictOptions, PredictRequest
from app.services import datasets, jobs, predictions
from app.services.predictions import Asked
from app.storage import Stored

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)

FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": PredictRequest.model_json_schema()},
            "application/octet-stream": FILE,  # or image/...: generated clients know no patterns
        },
    }
}
ANSWERS: dict[int | str, Any] = {
    202: {
        "model": JobRead,
        "description": "No net that is loaded answered in time: the job that does it",
        "headers": {"Location": {"schema": {"type": "string"}}},
    },
    **problems(400, 404, 413, 415),
}
Options = Annotated[PredictOptions, Query()]


@router.post(
    "/{name}@{alias}/predict",
    response_model=PredictionRead,
    responses=ANSWERS,
    openapi_extra=BODY,
)
async def predict(
    name: Name, alias: Alias, options: Options, request: Request, principal: JobsWrite
) -> Response:
    """Classify pictures by the version an alias points at: one picture file, or JSON of several.

    A file may also be sent as what it is, such as ``image/png``.
    """
    return await _predict(f"model:{name}@{alias}", options, request, principal.tenant_id)


@router.post(
    "/{name}/versions/{number}/predict",
    response_model=PredictionRead,
    responses=ANSWERS,
    openapi_extra=BODY,
)
async def predict_by_version(
    name: Name, number: Number, options: Options, request: Request, principal: JobsWrite
) -> Response:
    """Classify pictures by a version."""
    return await _predict(f"model:{name}/{number}", options, request, principal.tenant_id)


async def _predict(
    reference: str, options: PredictOptions, request: Request, tenant_id: str
) -> Response:
    contents = await _contents(request)
    asked = await run_in_threadpool(_prepare, tenant_id, reference, options, contents)
    reply = await asking.ask(asked.question)
    if reply is None or "failed" in reply:
        return await _as_job(asked, options)
    if "refused" in reply:
        raise predictions.refusal(reply["refused"])
    read = PredictionRead(model=asked.reference, predictions=reply["predictions"])
    return Response(read.model_dump_json(by_alias=True), media_type=JSON)


async def _contents(request: Request) -> list[bytes]:
    """The picture files of a body of either form."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_BYTES:
            raise TooLargeError(f"the body is longer than {BODY_BYTES} bytes; send fewer pictures")
    media_type = media_type_of(request.headers)
    if media_type == JSON:
        return await run_in_threadpool(_of_json, bytes(raw))
    if media_type != "application/octet-stream" and not media_type.startswith("image/"):
        raise HTTPException(415, f"the body is {media_type!r}; send a picture file or {JSON}")
    if not raw:
        raise invalid("", "the body is empty; send a picture file", "data_invalid")
    return [bytes(raw)]


def _of_json(raw: bytes) -> list[bytes]:
    try:
        return PredictRequest.model_validate_json(raw).contents()
    except ValidationError as error:
        first = error.errors(include_url=False)[0] if error.error_count() == 1 else None
        if first and first["type"] == "json_invalid":
            raise HTTPException(400, f"the body is not JSON: {first['msg']}") from error
        raise wrong_values(error, None) from error


def _prepare(
    tenant_id: str, reference: str, options: PredictOptions, contents: list[bytes]
) -> Asked:
    with make_session(write=False) as session:
        return predictions.prepare(session, tenant_id, reference, options, contents)


# -- as a job --------------------------------------------------------------------------------


async def _as_job(asked: Asked, options: PredictOptions) -> Response:
    tenant_id = asked.question.tenant_id
    dataset, room = await run_in_threadpool(_make_dataset, tenant_id)
    try:
        stored = await predictions.store(dataset, room, asked.question.contents)
        read = await run_in_threadpool(_submit, asked, options, dataset, stored)
    except BaseException:
        await run_in_threadpool(_drop, tenant_id, dataset)
        raise
    headers = {"Location": f"/v1/jobs/{read.id}"}
    return Response(read.model_dump_json(), 202, headers, media_type=JSON)


def _make_dataset(tenant_id: str) -> Any:
    with make_session() as session:
        return predictions.make_dataset(session, tenant_id)


def _submit(
    asked: Asked, options: PredictOptions, dataset: Dataset, stored: tuple[str, Stored]
) -> JobRead:
    with make_session(durable=True) as session:
        job = predictions.submit(session, asked, options, dataset, *stored)
        return jobs.describe(session, [job])[0]


def _drop(tenant_id: str, dataset: Dataset) -> None:
    with make_session() as session:
        datasets.delete(session, tenant_id, dataset.id)
