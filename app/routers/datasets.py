"""Datasets: create, upload, finalize, list, read, delete."""

import base64
import binascii
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.exceptions import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app import storage
from app.db.session import make_session
from app.db.tables import Dataset
from app.errors import invalid
from app.http import downloads
from app.http.deps import (
    DatasetsRead,
    DatasetsWrite,
    DurableSession,
    Idempotent,
    ReadSession,
    WriteSession,
)
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.datasets import DatasetCreate, DatasetQuery, DatasetRead
from app.schemas.page import Page
from app.services import datasets, quotas, uploads
from app.services.idempotency import Answer
from models.data.builtin import BUILTIN

OCTETS = "application/octet-stream"
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    }
}
SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{1,100}):")

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=StrictRoute)

Ref = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9._-]{1,120}$", description="Id or name of a dataset")
]
# of HTTP itself, which every client sends: no parameter of the operation
Length = Annotated[int | None, Header(ge=0, le=2**63 - 1, include_in_schema=False)]
Digest = Annotated[str | None, Header(max_length=1000, description="`sha-256=:<base64>:`")]


@router.post(
    "",
    status_code=201,
    response_model=DatasetRead,
    responses={
        201: {"headers": {"Location": {"schema": {"type": "string"}}}},
        **problems(400, 409, 413, 415),
    },
)
def create_dataset(
    body: DatasetCreate, principal: DatasetsWrite, session: DurableSession, idempotent: Idempotent
) -> Response:
    """Make a dataset; then PUT its content and finalize it."""

    def create() -> Answer:
        options = body.options.model_dump(exclude_none=True)
        row = datasets.create(
            session, principal.tenant_id, body.name, body.format, options, body.sha256
        )
        headers = {"Location": f"/v1/datasets/{row.id}"}
        return Answer(201, DatasetRead.of(row).model_dump(mode="json"), headers, row.id)

    return idempotent(create)


@router.put(
    "/{dataset}/content",
    responses=problems(400, 404, 409, 413, 415),
    openapi_extra=UPLOAD,
)
async def put_content(
    dataset: Ref,
    request: Request,
    principal: DatasetsWrite,
    content_type: Annotated[str, Header()] = OCTETS,
    content_length: Length = None,
    repr_digest: Digest = None,
    content_digest: Digest = None,
) -> DatasetRead:
    """Upload the content; nothing is kept when it is cut off or has another digest."""
    if content_type.partition(";")[0].strip().lower() != OCTETS:
        raise HTTPException(415, f"the content is {content_type!r}; send {OCTETS}")
    digest = _sha256("repr-digest", repr_digest) or _sha256("content-digest", content_digest)
    tenant_id = principal.tenant_id
    row, room = await run_in_threadpool(_writable, tenant_id, dataset)
    try:
        key, stored = await uploads.receive(row, request.stream(), content_length, digest, room)
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload was cut off") from error
    return await run_in_threadpool(_accept, tenant_id, row.id, key, stored)


def _writable(tenant_id: str, ref: str) -> tuple[Dataset, quotas.Room]:
    with make_session(write=False) as session:
        return uploads.begin(session, tenant_id, ref)


def _accept(tenant_id: str, dataset_id: str, key: str, stored: storage.Stored) -> DatasetRead:
    with make_session() as session:
        return DatasetRead.of(uploads.accept(session, tenant_id, dataset_id, key, stored))


def _sha256(name: str, header: str | None) -> bytes | None:
    """The SHA-256 of a digest field (RFC 9530); None where it names other algorithms only."""
    if header is None:
        return None
    match = SHA256.search(header)
    try:
        digest = base64.b64decode(match[1], validate=True) if match else None
    except binascii.Error:
        digest = b""
    if digest is not None and len(digest) != 32:  # bytes of a SHA-256
        detail = "a SHA-256 looks like sha-256=:<44 characters of base64>:"
        error = invalid(f"/{name}", detail, "digest")
        error.errors[0]["location"] = "header"
        raise error
    return digest


@router.post(
    "/{dataset}/finalize",
    status_code=202,
    responses=problems(404, 409),
)
def finalize_dataset(dataset: Ref, principal: DatasetsWrite, session: WriteSession) -> DatasetRead:
    """Have a worker check the content; then the dataset is `ready` or `failed`."""
    return DatasetRead.of(uploads.finalize(session, principal.tenant_id, dataset))


@router.get("")
def list_datasets(
    query: Annotated[DatasetQuery, Query()], principal: DatasetsRead, session: ReadSession
) -> Page[DatasetRead]:
    """List datasets: the built-in ones on the first page, then the uploaded, newest first."""
    rows, next_cursor = datasets.list_page(session, principal.tenant_id, query.limit, query.cursor)
    builtin = [] if query.cursor else [DatasetRead.of_builtin(each) for each in BUILTIN.values()]
    data = builtin + [DatasetRead.of(row) for row in rows]
    return Page(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)


@router.get("/{dataset}", responses=problems(404))
def read_dataset(dataset: Ref, principal: DatasetsRead, session: ReadSession) -> DatasetRead:
    """Read a dataset by id or name."""
    if dataset in BUILTIN:
        return DatasetRead.of_builtin(BUILTIN[dataset])
    return DatasetRead.of(datasets.get(session, principal.tenant_id, dataset))


@router.get(
    "/{dataset}/content",
    response_class=Response,
    responses={**downloads.RESPONSES, **problems(404, 409, 416)},
)
def download_dataset(
    dataset: Ref, request: Request, principal: DatasetsRead, session: ReadSession
) -> Response:
    """Download the content of a ready dataset as it was uploaded, whole or in ranges."""
    row = uploads.content_of(session, principal.tenant_id, dataset)
    content = downloads.Content(str(row.storage_key), row.sha256, row.name, OCTETS)
    return downloads.redirect_or_send(request, content)


@router.delete("/{dataset}", status_code=204, responses=problems(404, 409))
def delete_dataset(dataset: Ref, principal: DatasetsWrite, session: WriteSession) -> None:
    """Delete a dataset that no unfinished job refers to."""
    datasets.delete(session, principal.tenant_id, dataset)
