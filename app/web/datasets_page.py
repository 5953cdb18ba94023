"""Datasets: what there is and what was found in it; upload with progress."""

from typing import get_args

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app import storage
from app.db.session import make_session
from app.db.tables import Dataset
from app.http.deps import DurableSession, ReadSession, WriteSession
from app.routers.datasets import Ref
from app.schemas.datasets import DatasetCreate, DatasetQuery, DatasetRead
from app.services import datasets, quotas, uploads
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import DatasetsReader, DatasetsWriter
from models.data.builtin import BUILTIN

ROWS = 100
UNFINISHED = ("uploading", "checking")

router = APIRouter(prefix="/datasets", route_class=PageRoute, include_in_schema=False)


@router.get("")
def datasets_page(
    request: Request, visitor: DatasetsReader, session: ReadSession, cursor: str = ""
) -> Response:
    """Show the uploaded datasets, newest first, and the built-in ones."""
    query = DatasetQuery(limit=ROWS, cursor=cursor or None)
    rows, following = datasets.list_page(session, visitor.tenant_id, query.limit, query.cursor)
    return render(
        request,
        "datasets.html",
        datasets=[DatasetRead.of(row) for row in rows],
        pictured=datasets.pictured(session, rows),
        formats=get_args(DatasetCreate.model_fields["format"].annotation),
        builtin=[DatasetRead.of_builtin(each) for each in BUILTIN.values()],
        unfinished=any(row.status in UNFINISHED for row in rows),
        next_page=f"/datasets?cursor={following}" if following else None,
    )


@router.post("")
def create(body: DatasetCreate, visitor: DatasetsWriter, session: DurableSession) -> Response:
    """Make a dataset; its content follows."""
    options = body.options.model_dump(exclude_none=True)
    row = datasets.create(session, visitor.tenant_id, body.name, body.format, options, body.sha256)
    return JSONResponse({"id": row.id}, 201)


@router.get("/{dataset}/preview")
def preview(dataset: Ref, visitor: DatasetsReader, session: ReadSession) -> Response:
    """Show some images of a dataset, or the hillshade of a terrain."""
    content = datasets.preview(session, visitor.tenant_id, dataset)
    headers = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": "sandbox"}
    return Response(content, media_type="image/jpeg", headers=headers)


@router.put("/{dataset}/content")
async def put_content(dataset: Ref, request: Request, visitor: DatasetsWriter) -> Response:
    """Take the content as it comes."""
    row, room = await run_in_threadpool(_writable, visitor.tenant_id, dataset)
    announced = request.headers.get("content-length")
    size = int(announced) if announced and announced.isdecimal() else None
    try:
        key, stored = await uploads.receive(row, request.stream(), size, None, room)
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload was cut off") from error
    await run_in_threadpool(_accept, visitor.tenant_id, row.id, key, stored)
    return Response(status_code=204)


def _writable(tenant_id: str, ref: str) -> tuple[Dataset, quotas.Room]:
    with make_session(write=False) as session:
        return uploads.begin(session, tenant_id, ref)


def _accept(tenant_id: str, dataset_id: str, key: str, stored: storage.Stored) -> None:
    with make_session() as session:
        uploads.accept(session, tenant_id, dataset_id, key, stored)


@router.post("/{dataset}/finalize")
def finalize(dataset: Ref, visitor: DatasetsWriter, session: WriteSession) -> Response:
    """Have a worker check the content."""
    uploads.finalize(session, visitor.tenant_id, dataset)
    return Response(status_code=204)


@router.post("/{dataset}/delete")
def delete(dataset: Ref, visitor: DatasetsWriter, session: WriteSession) -> Response:
    """Delete a dataset that no unfinished job refers to."""
    datasets.delete(session, visitor.tenant_id, dataset)
    return JSONResponse({"go": "/datasets"})
