"""Workers, queues, and jobs beside each other."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.http.deps import Admin, JobsRead, ReadSession
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.page import Page
from app.schemas.state import ComparisonRead, LiveWorker, QueueRead
from app.services import comparisons, waiting, workers

router = APIRouter(prefix="/v1", tags=["state"], route_class=StrictRoute)

JobIds = Annotated[
    str,
    Query(
        pattern=r"^job_[0-9a-f]{32}(,job_[0-9a-f]{32}){1,9}$",
        description="2 to 10 ids, by commas",
    ),
]


@router.get("/workers")
def list_workers(_: Admin, session: ReadSession) -> Page[LiveWorker]:
    """List the live workers, of all tenants."""
    live = sorted(workers.live(session), key=lambda worker: (worker.host, worker.id))
    data = [LiveWorker.model_validate(worker) for worker in live]
    return Page(data=data, has_more=False, next_cursor=None)


@router.get("/queues")
def list_queues(_: Admin, session: ReadSession) -> Page[QueueRead]:
    """List the queues and how many jobs wait in each, of all tenants."""
    data = [QueueRead.model_validate(each) for each in waiting.states(session)]
    return Page(data=data, has_more=False, next_cursor=None)


@router.get("/compare", tags=["jobs"], responses=problems(404))
def compare_jobs(jobs: JobIds, principal: JobsRead, session: ReadSession) -> ComparisonRead:
    """Compare 2 to 10 jobs: where specs and results differ, the last value of each metric."""
    return comparisons.compare(session, principal.tenant_id, jobs.split(","))
