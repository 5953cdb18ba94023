"""Predictions by registered models: at once where a net is loaded, else as a job."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import HTTPException
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.db.tables import Dataset
from app.errors import TooLargeError, invalid
from app.http import asking
from app.http.deps import IdempotencyKey, JobsWrite
from app.http.loopback import JSON, media_type_of
from app.http.problems import problems, refusal, respond
from app.http.strict import StrictRoute, wrong_values
from app.routers.registry import Alias, Name, Number
from app.schemas.jobs import JobRead
from app.schemas.predictions import BODY_BYTES, PredictionRead, PredictOptions, PredictRequest
from app.services import datasets, idempotency, jobs, predictions
from app.services.idempotency import REPLAYED, Answer, Claim
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
    name: Name,
    alias: Alias,
    options: Options,
    request: Request,
    principal: JobsWrite,
    key: IdempotencyKey = None,
) -> Response:
    """Classify pictures by the version an alias points at: one picture file, or JSON of several.

    A file may also be sent as what it is, such as ``image/png``.
    """
    return await _predict(f"model:{name}@{alias}", options, request, principal.tenant_id, key)


@router.post(
    "/{name}/versions/{number}/predict",
    response_model=PredictionRead,
    responses=ANSWERS,
    openapi_extra=BODY,
)
async def predict_by_version(
    name: Name,
    number: Number,
    options: Options,
    request: Request,
    principal: JobsWrite,
    key: IdempotencyKey = None,
) -> Response:
    """Classify pictures by a version."""
    return await _predict(f"model:{name}/{number}", options, request, principal.tenant_id, key)


async def _predict(
    reference: str, options: PredictOptions, request: Request, tenant_id: str, key: str | None
) -> Response:
    contents = await _contents(request)
    once = _Once(request.url.path, _claim(request, options, contents, tenant_id, key))
    if once.claim and (first := await run_in_threadpool(_first, once.claim)):
        return respond(first)
    asked = await run_in_threadpool(_prepare, tenant_id, reference, options, contents)
    reply = await asking.ask(asked.question)
    if reply is None or "failed" in reply:
        return await _as_job(asked, options, once)
    if "refused" in reply:
        raise predictions.refusal(reply["refused"])
    read = PredictionRead(model=asked.reference, predictions=reply["predictions"])
    answer = Answer(200, read.model_dump(by_alias=True))
    if once.claim:
        answer = await run_in_threadpool(once.answer, lambda _: answer)
    return respond(answer)


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


# -- once for each key -----------------------------------------------------------------------


def _claim(
    request: Request,
    options: PredictOptions,
    contents: Sequence[bytes],
    tenant_id: str,
    key: str | None,
) -> Claim | None:
    """Whose key it is, and for which pictures in which order; None without a key."""
    if key is None:
        return None
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    body = json.dumps([options.model_dump(), digests], sort_keys=True).encode()
    hashed = idempotency.request_hash(request.method, request.url.path, body)
    return Claim(tenant_id, key, hashed)


class _Once(NamedTuple):
    """What answers a request once for its key, if it has one.

    No transaction is open while a net is asked: of two equal requests at once both ask, and the
    second to be answered gets the answer of the first.
    """

    path: str
    claim: Claim | None

    def answer(self, work: Callable[[Session], Answer]) -> Answer:
        """Carry out ``work`` and keep its answer, or give the one that was kept meanwhile."""
        with make_session(durable=True) as session:
            if self.claim is None:
                return work(session)
            return idempotency.answer_once(
                session, self.claim, lambda: work(session), lambda error: refusal(self.path, error)
            )


def _first(claim: Claim) -> Answer | None:
    with make_session(write=False) as session:
        return idempotency.first_answer(session, claim)


# -- as a job --------------------------------------------------------------------------------


async def _as_job(asked: Asked, options: PredictOptions, once: _Once) -> Response:
    tenant_id = asked.question.tenant_id
    dataset, room = await run_in_threadpool(_make_dataset, tenant_id)
    needed = False
    try:
        stored = await predictions.store(dataset, room, asked.question.contents)
        work = partial(_submit, asked, options, dataset, stored)
        answer = await run_in_threadpool(once.answer, work)
        needed = answer.status_code == 202 and REPLAYED not in answer.headers
    finally:
        if not needed:
            await run_in_threadpool(_drop, tenant_id, dataset)
    return respond(answer)


def _make_dataset(tenant_id: str) -> Any:
    with make_session() as session:
        return predictions.make_dataset(session, tenant_id)


def _submit(
    asked: Asked,
    options: PredictOptions,
    dataset: Dataset,
    stored: tuple[str, Stored],
    session: Session,
) -> Answer:
    job = predictions.submit(session, asked, options, dataset, *stored)
    read = jobs.describe(session, [job])[0]
    headers = {"Location": f"/v1/jobs/{read.id}"}
    return Answer(202, read.model_dump(mode="json"), headers, read.id)


def _drop(tenant_id: str, dataset: Dataset) -> None:
    with make_session() as session:
        datasets.delete(session, tenant_id, dataset.id)
