"""Kinds of jobs: what can be asked for, with the JSON Schema of each spec."""

from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Path

from app.errors import NotFoundError
from app.http.deps import JobsRead
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.kinds import ArtifactKind, KindRead, MetricRead
from app.schemas.page import Page
from app.services.validation_errors import did_you_mean
from models.catalog import kinds
from models.core.spec import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"

router = APIRouter(prefix="/v1/kinds", tags=["kinds"], route_class=StrictRoute)

KindName = Annotated[str, Path(max_length=64, description="For example lcw.train")]


@router.get("")
def list_kinds(_: JobsRead) -> Page[KindRead]:
    """List every kind of job."""
    return Page(data=[_describe(kind) for kind in kinds()], has_more=False, next_cursor=None)


@router.get("/{kind}", responses=problems(404))
def read_kind(kind: KindName, _: JobsRead) -> KindRead:
    """Read what a kind does, reports and leaves."""
    _spec(kind)
    return _describe(kind)


@router.get("/{kind}/schema", responses=problems(404))
def read_schema(kind: KindName, _: JobsRead) -> dict[str, Any]:
    """Read the JSON Schema (2020-12) of a kind's spec."""
    _spec(kind)
    return _schema(kind)


def _spec(kind: str) -> type[Spec]:
    spec = kinds().get(kind)
    if spec is None:
        raise NotFoundError(f"no kind {kind!r}{did_you_mean(kind, kinds())}; GET /v1/kinds")
    return spec


@cache
def _describe(kind: str) -> KindRead:
    spec = _spec(kind)
    return KindRead(
        kind=kind,
        method=kind.partition(".")[0],
        description=(spec.__doc__ or "").strip(),
        queue=spec.queue,
        resumable=spec.resumable,
        metrics=[MetricRead(**metric._asdict()) for metric in spec.metrics],
        artifacts=[ArtifactKind(**artifact._asdict()) for artifact in spec.artifacts],
        presets={name: dict(fields) for name, fields in spec.presets.items()},
        example=dict(spec.example),
        links={"self": f"/v1/kinds/{kind}", "schema": f"/v1/kinds/{kind}/schema"},
    )


@cache
def _schema(kind: str) -> dict[str, Any]:
    spec = _spec(kind)
    return {
        "$schema": DIALECT,
        **spec.model_json_schema(),
        "examples": [dict(spec.example)],
    }
