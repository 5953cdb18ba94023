"""A new job: choose a kind, fill in its form, see at once what the service says of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from app.errors import NotFoundError
from app.http.deps import DurableSession, ReadSession
from app.schemas.jobs import JobCreate, JobFilters
from app.schemas.registry import ModelFilters
from app.services import artifacts, datasets, jobs, registry
from app.services.retries import merge
from app.services.validation_errors import did_you_mean
from app.web.page_route import PageRoute
from app.web.spec_form import build
from app.web.templates import render
from app.web.visitor import JobsWriter, Visitor
from models.catalog import kinds
from models.core.spec import Spec
from models.data.builtin import BUILTIN
from models.stored import upgrade

RECENT_JOBS = 20
DATASETS = 200
USABLE = ("weights", "checkpoint", "export")  # roles of artifacts that other jobs take

router = APIRouter(prefix="/new", route_class=PageRoute, include_in_schema=False)
Word = Annotated[str, Query(max_length=64)]


@router.get("")
def new_job(
    request: Request,
    visitor: JobsWriter,
    session: ReadSession,
    kind: Word = "",
    preset: Word = "",
    clone: Word = "",
) -> Response:
    """Show the kinds, or the form of one: empty, with a preset, or with the spec of a job."""
    values, name = {"kind": kind}, ""
    if clone:
        job = jobs.get(session, visitor.tenant_id, clone)
        values, name = upgrade(job.spec)[0], job.name or ""
    if not values["kind"]:
        return render(request, "kinds.html", kinds=kinds())
    spec = _spec(values["kind"])
    if not clone:
        values = _beginning(spec, values["kind"], preset)
    form = build(spec, values)
    return render(
        request,
        "new.html",
        kind=values["kind"],
        spec=spec,
        preset=preset,
        form=form,
        name=name,
        datasets=_datasets(visitor, session),
        artifacts=_artifacts(visitor, session) if "artifact" in form.forms else [],
    )


def _spec(kind: str) -> type[Spec]:
    if kind not in kinds():
        raise NotFoundError(f"no kind {kind!r}{did_you_mean(kind, kinds())}")
    return kinds()[kind]


def _beginning(spec: type[Spec], kind: str, preset: str) -> dict[str, Any]:
    """The example, which names what a kind needs, or a preset over what of it is required."""
    if not preset:
        return dict(spec.example)
    if preset not in spec.presets:
        raise NotFoundError(f"{kind} has no preset {preset!r}{did_you_mean(preset, spec.presets)}")
    needed = spec.model_json_schema().get("required", ())
    example = {name: value for name, value in spec.example.items() if name in needed}
    return merge({"kind": kind, **example}, dict(spec.presets[preset]))


def _datasets(visitor: Visitor, session: ReadSession) -> list[str]:
    names = list(BUILTIN)
    if visitor.may("datasets:read"):
        rows, _ = datasets.list_page(session, visitor.tenant_id, DATASETS, None)
        names += [row.name for row in rows if row.status == "ready"]
    return names


def _artifacts(visitor: Visitor, session: ReadSession) -> list[tuple[str, str]]:
    """Registered models and files of the latest jobs that another may take, with their labels.

    As the form writes them: ``model:name@alias``, ``job/name``.
    """
    known = registry.list_page(session, visitor.tenant_id, ModelFilters(limit=RECENT_JOBS)).data
    named = [
        (f"model:{model.name}@{alias}", f"{model.name}, version {number}")
        for model in registry.describe(session, known)
        for alias, number in model.aliases.items()
    ]
    filters = JobFilters(status=["succeeded"], limit=RECENT_JOBS)
    rows, _ = jobs.list_page(session, visitor.tenant_id, filters)
    return named + [
        (f"{job.id}/{row.name}", f"{job.name or job.kind}: {row.name}")
        for job in rows
        for row in artifacts.listing(session, visitor.tenant_id, job.id)
        if row.role in USABLE
    ]


@router.post("/check")
def check(body: JobCreate, visitor: JobsWriter, session: ReadSession) -> Response:
    """Say what the job would be; the refusals name their fields."""
    preview = jobs.dry_run(session, visitor.tenant_id, body)
    return JSONResponse(preview.model_dump(mode="json", exclude={"resolved_spec"}))


@router.post("")
def submit(body: JobCreate, visitor: JobsWriter, session: DurableSession) -> Response:
    """Store the job and queue it."""
    made = jobs.submit(session, visitor.tenant_id, body)
    return JSONResponse({"go": f"/jobs/{made.id}"}, 201)
