"""Events, metrics and logs of a job; events and logs as live streams too."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.http import downloads
from app.http.deps import JobsRead, ReadSession
from app.http.event_streams import job_events, job_log
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.routers.jobs import JobId
from app.schemas.events import EventPage, EventQuery, EventRead, LogQuery, MetricQuery, MetricsRead
from app.services import events, jobs, logs, metrics
from app.services.metrics import Point

STREAM = "text/event-stream"
JSON_POINTS = 1000
LINES_A_CHUNK = 1000
TEXT = {"schema": {"type": "string"}}
FIELDS = ("id", "event", "data")
LIVE = {  # OpenAPI 3.1: the schema of a stream is that of each event
    "schema": {"type": "object", "properties": {name: {"type": "string"} for name in FIELDS}}
}

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"], route_class=StrictRoute)

LastEventId = Annotated[
    str | None,
    Header(pattern=r"^[0-9]{1,18}$", description="`id` of the last event; wins over the query"),
]


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
    found = [EventRead.model_validate(row) for row in rows[: query.limit]]
    next_after = found[-1].seq if found else query.after
    return EventPage(data=found, has_more=len(rows) > query.limit, next_after=next_after)


@router.get(
    "/metrics",
    response_model=MetricsRead,
    responses={200: {"content": {"text/csv": TEXT, "application/x-ndjson": TEXT}}, **problems(404)},
)
def list_metrics(
    job_id: JobId,
    query: Annotated[MetricQuery, Query()],
    principal: JobsRead,
    session: ReadSession,
) -> Response:
    """Read the numbers a job reported; where runs overlap, the later run's value stands."""
    job = jobs.get(session, principal.tenant_id, job_id)
    asked = metrics.Query(
        principal.tenant_id, job.id, tuple(query.names), query.from_step, query.to_step
    )
    if query.format != "json" and query.max_points is None:
        return _text(query.format, metrics.export(asked))
    series = metrics.read(session, asked, query.max_points or JSON_POINTS)
    if query.format != "json":
        return _text(query.format, ((n, point) for n, points in series.items() for point in points))
    found = {name: [point._asdict() for point in points] for name, points in series.items()}
    body = json.dumps({"job_id": job.id, "series": found}, allow_nan=False)
    return Response(body, media_type="application/json")


def _text(form: str, points: Iterable[tuple[str, Point]]) -> Response:
    if form == "csv":
        return StreamingResponse(_csv(points), media_type="text/csv")
    lines = (json.dumps({"name": name, **point._asdict()}) + "\n" for name, point in points)
    return StreamingResponse(_chunks(lines), media_type="application/x-ndjson")


def _csv(points: Iterable[tuple[str, Point]]) -> Iterator[str]:
    def line(fields: Iterable[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(fields)
        return text.getvalue()

    yield line(("name", *Point._fields))
    yield from _chunks(line((name, *point)) for name, point in points)


def _chunks(lines: Iterator[str]) -> Iterator[str]:
    while chunk := "".join(islice(lines, LINES_A_CHUNK)):
        yield chunk


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
