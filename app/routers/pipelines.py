"""Pipelines: several jobs in one request."""

from fastapi import APIRouter, Response

from app.http.deps import DurableSession, Idempotent, JobsWrite
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.pipelines import PipelineCreate, PipelineRead
from app.services import jobs, pipelines
from app.services.idempotency import Answer

router = APIRouter(prefix="/v1/pipelines", tags=["pipelines"], route_class=StrictRoute)


@router.post(
    "", status_code=201, response_model=PipelineRead, responses=problems(400, 409, 413, 415)
)
def create_pipeline(
    body: PipelineCreate, principal: JobsWrite, session: DurableSession, idempotent: Idempotent
) -> Response:
    """Store jobs that use each other's files, all or none. Each waits for those before it."""

    def work() -> Answer:
        made = pipelines.submit(session, principal.tenant_id, body)
        reads = jobs.describe(session, [*made.values()])
        read = PipelineRead(jobs=dict(zip(made, reads, strict=True)))
        return Answer(201, read.model_dump(mode="json"))

    return idempotent(work)
