"""Events of a job: pages of them, or a live stream."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from app.http.deps import JobsRead, ReadSession
from app.http.event_streams import LIVE, STREAM, LastEventId, job_events
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.routers.jobs import JobId
from app.schemas.events import EventPage, EventQuery, EventRead
from app.services import events, jobs

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"], route_class=StrictRoute)


@router.get(
    "/events",
    response_model=EventPage,
    responses={200: {"content": {STREAM: LIVE}}, **problems(404, 429)},
)
def list_events(
    job_id: JobId,
    query: Annotated[EventQuery, Query()],
    principal: JobsRead,
    session: ReadSession,
    accept: Annotated[str, Header(description=f"{STREAM} for the live stream")] = "*/*",
    last_event_id: LastEventId = None,
) -> EventPage | Response:
    """Read events in order, or follow them live with `Accept: text/event-stream`.

    In the stream `id` is the seq, `event` the type, `data` its data and the time `at`; it ends
    with the event `end` after the final status.
    """
    job = jobs.get(session, principal.tenant_id, job_id)
    if STREAM in accept:
        after = query.after if last_event_id is None else int(last_event_id)
        return job_events(principal.key_id, principal.tenant_id, job.id, after)
    rows = events.page(session, principal.tenant_id, job.id, query.after, query.limit + 1)
    data = [EventRead.model_validate(row) for row in rows[: query.limit]]
    next_after = data[-1].seq if data else query.after
    return EventPage(data=data, has_more=len(rows) > query.limit, next_after=next_after)
