"""Several jobs at once, which name each other before any of them has an id."""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Job, new_id
from app.errors import InvalidError, invalid
from app.schemas.jobs import JobCreate
from app.schemas.pipelines import PipelineCreate, PipelineJob
from app.services import jobs
from app.services.specs import validated
from app.services.validation_errors import did_you_mean

REFERENCE = {"job", "artifact", "sha256"}  # fields of a reference to a file


def submit(session: Session, tenant_id: str, request: PipelineCreate) -> dict[str, Job]:
    """Store all jobs of a pipeline, or none; by their local names, in the order of the request.

    Raises:
        InvalidError: with the pointer of what is wrong in one of them.
        QuotaExceededError: if they are more than the tenant may have queued.
    """
    by_name = {job.id: job for job in request.jobs}
    at = {job.id: f"/jobs/{index}" for index, job in enumerate(request.jobs)}
    if len(by_name) < len(request.jobs):
        raise _twice(request)
    ids = {name: new_id("job") for name in by_name}
    ordered = _ordered(by_name, at)
    with session.begin_nested():  # of a refusal nothing stays but the answer kept for its key
        made = {name: _submit(session, tenant_id, by_name[name], ids, at[name]) for name in ordered}
    return {name: made[name] for name in by_name}


def _twice(request: PipelineCreate) -> InvalidError:
    names = [job.id for job in request.jobs]
    index = next(n for n, name in enumerate(names) if name in names[:n])
    detail = f"the id {names[index]!r} comes twice; give each job its own"
    return invalid(f"/jobs/{index}/id", detail, "repeated_name")


def _ordered(by_name: Mapping[str, PipelineJob], at: Mapping[str, str]) -> list[str]:
    """The local names, each after those that its job depends on."""
    graph = {name: _sources(job, by_name, at[name]) for name, job in by_name.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        detail = f"these jobs wait for each other in a circle: {circle}"
        raise invalid("/jobs", detail, "circle") from error


def _sources(job: PipelineJob, by_name: Mapping[str, PipelineJob], at: str) -> set[str]:
    """Local names of the jobs that one depends on."""
    named = {f"{at}/depends_on/{n}": name for n, name in enumerate(job.depends_on)}
    named |= {pointer: ref["job"] for pointer, ref in _references(job.spec, f"{at}/spec")}
    others = ("job_", "model:")
    local = {pointer: name for pointer, name in named.items() if not name.startswith(others)}
    for pointer, name in local.items():
        if name not in by_name:
            hint = did_you_mean(name, by_name)
            detail = f"no job of this pipeline is called {name!r}{hint}; there are "
            raise invalid(pointer, detail + ", ".join(by_name), "reference")
    return set(local.values())


def _references(node: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """References to files of jobs in a spec as it was sent, with the pointers of their jobs."""
    if isinstance(node, dict):
        if node.keys() >= {"job", "artifact"} and node.keys() <= REFERENCE:
            if isinstance(node["job"], str):
                yield f"{pointer}/job", node
            return
        for name, value in node.items():
            yield from _references(value, f"{pointer}/{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _references(value, f"{pointer}/{index}")


def _submit(
    session: Session, tenant_id: str, job: PipelineJob, ids: Mapping[str, str], at: str
) -> Job:
    options = {name: getattr(job, name) for name in job.model_fields_set - {"id", "spec"}}
    options["depends_on"] = [ids.get(name, name) for name in job.depends_on]
    request = JobCreate(spec=validated(_with_ids(job.spec, ids), f"{at}/spec"), **options)
    try:
        made = jobs.submit(session, tenant_id, request, job_id=ids[job.id], root="/spec")
    except InvalidError as error:
        errors = [{**each, "pointer": at + each["pointer"]} for each in error.errors]
        raise InvalidError(error.detail, errors) from error
    session.flush()
    return made


def _with_ids(node: Any, ids: Mapping[str, str]) -> Any:
    """A spec with the ids of jobs in place of their local names."""
    if isinstance(node, list):
        return [_with_ids(each, ids) for each in node]
    if not isinstance(node, dict):
        return node
    if node.keys() >= {"job", "artifact"} and isinstance(node["job"], str):
        return {**node, "job": ids.get(node["job"], node["job"])}
    return {name: _with_ids(value, ids) for name, value in node.items()}
