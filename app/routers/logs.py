"""Logs of a job's runs: whole, in part, or as a live stream."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.http import downloads
from app.http.deps import JobsRead, ReadSession
from app.http.downloads import TEXT
from app.http.event_streams import LIVE, STREAM, LastEventId, job_log
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.routers.jobs import JobId
from app.schemas.logs import LogQuery
from app.services import jobs, logs

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"], route_class=StrictRoute)


@router.get(
    "/logs",
    response_class=Response,
    responses={
        200: {"description": "Text", "content": {"text/plain": TEXT, STREAM: LIVE}},
        206: {"description": "The ranges that were asked for", "content": {"text/plain": TEXT}},
        **problems(404, 416, 429),
    },
)
def read_log(
    job_id: JobId,
    query: Annotated[LogQuery, Query()],
    request: Request,
    principal: JobsRead,
    session: ReadSession,
    last_event_id: LastEventId = None,
) -> Response:
    """Read what a run wrote: all, a range of bytes, the last lines, or live with `follow`.

    In the stream `data` is `{"text": ...}` and `id` the offset in bytes; it ends with the event
    `end` when the run has ended.
    """
    job = jobs.get(session, principal.tenant_id, job_id)
    if query.follow:
        run, offset = query.run or max(job.run_number, 1), int(last_event_id or 0)
        if query.tail and last_event_id is None:
            offset = logs.tail_start(logs.find(job, run), query.tail)
        return job_log(principal.key_id, principal.tenant_id, job.id, run, offset)
    log = logs.find(job, query.run)
    if query.tail:
        return downloads.send_rest(log, logs.tail_start(log, query.tail), "text/plain")
    return downloads.send_object(request, log, "text/plain; charset=utf-8", {})
