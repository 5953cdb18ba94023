"""Events of all jobs of a tenant: pages of them, or a live stream."""

import time
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.db.session import make_session
from app.http.deps import JobsRead
from app.http.event_streams import LIVE, STREAM, LastEventId, tenant_events, wait_for_update
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.events import FeedPage, FeedQuery
from app.services import changes, feed

router = APIRouter(prefix="/v1", tags=["events"], route_class=StrictRoute)


@router.get(
    "/events",
    response_model=FeedPage,
    responses={200: {"content": {STREAM: LIVE}}, **problems(429)},
)
async def list_tenant_events(
    query: Annotated[FeedQuery, Query()],
    request: Request,
    principal: JobsRead,
    accept: Annotated[str, Header(description=f"{STREAM} for the live stream")] = "*/*",
    last_event_id: LastEventId = None,
) -> FeedPage | Response:
    """Read the events of all jobs in one order, or follow them live.

    Whoever goes on from the last position misses none, whatever was committed meanwhile. In the
    stream, for `Accept: text/event-stream`, `id` is the position, `event` the type, `data` the
    rest; it has no end. Events that retention has removed, and those of deleted jobs, are left out.
    """
    tenant_id, wanted = principal.tenant_id, feed.Wanted(query.type == "status", query.kind)
    after = query.after if last_event_id is None else int(last_event_id)

    def load() -> FeedPage:
        with make_session(write=False) as session:
            return feed.page(session, tenant_id, after, query.limit, wanted)

    page = await run_in_threadpool(load)  # also of a stream: it refuses a wrong position
    if STREAM in accept:
        return tenant_events(principal.key_id, tenant_id, after, wanted)
    deadline = time.monotonic() + query.wait_s
    while not page.data and (left_s := deadline - time.monotonic()) > 0:
        await wait_for_update(principal.key_id, changes.FEED + tenant_id, left_s)
        if await request.is_disconnected():
            break
        page = await run_in_threadpool(load)
    return page
