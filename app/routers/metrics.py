"""Metrics of a job: JSON, CSV or lines of JSON."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from app.http.deps import JobsRead, ReadSession
from app.http.downloads import TEXT
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.routers.jobs import JobId
from app.schemas.metrics import MetricQuery, MetricsRead
from app.services import jobs, metrics
from app.services.metrics import Point

JSON_POINTS = 1000
LINES_A_CHUNK = 1000

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"], route_class=StrictRoute)


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
    points = {name: [point._asdict() for point in line] for name, line in series.items()}
    body = json.dumps({"job_id": job.id, "series": points}, allow_nan=False)
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
