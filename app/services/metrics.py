"""Metrics of a job: written by its runs; read as points, or as minimum and maximum of buckets."""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    case,
    cast,
    exists,
    func,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from app.db.session import make_session
from app.db.tables import Base, Job, Metric, Run, utc_now
from app.services.child_lines import MetricLine

EXPORT_PAGE = 10_000
INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Point(NamedTuple):
    """One value, or a bucket of several.

    Attributes:
        step: of the value; the first of a bucket's range.
        last_step: the last of the range.
        count: values in it.
        value: the value; the mean of a bucket; null when none is finite, or when the
            mean overflows.
        min: smallest finite value.
        max: largest finite value.
        non_finite: ``nan``, ``inf`` or ``-inf`` where a value was not finite.
        at: when the value was reported, by ISO 8601; None of a bucket.
    """

    step: int
    last_step: int
    count: int
    value: float | None
    min: float | None
    max: float | None
    non_finite: str | None
    at: str | None = None


class Query(NamedTuple):
    """Which numbers: of a job, all names when ``names`` is empty, of a range of steps."""

    tenant_id: str
    job_id: str
    names: tuple[str, ...] = ()
    from_step: int = 0
    to_step: int = 2**53 - 1


# -- a run writes ----------------------------------------------------------------------------


def write(session: Session, run: Run, lines: Sequence[MetricLine]) -> None:
    """Upsert the values of a run's metric lines; of the same name and step the last one stands.

    At least one line must have a value.

    The caller holds the job's row, so that no later run writes at the same time.
    """
    rows = {(name, line.step): _row(run, line, name) for line in lines for name in line.values}
    table = Base.metadata.tables[Metric.__tablename__]
    statement = INSERT[session.get_bind().dialect.name](table)
    new = {name: statement.excluded[name] for name in ("at", "value", "non_finite")}
    session.execute(
        statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=new),
        [*rows.values()],
    )


def _row(run: Run, line: MetricLine, name: str) -> dict[str, Any]:
    number = float(line.values[name])
    finite = math.isfinite(number)
    return {
        "job_id": run.job_id,
        "name": name,
        "step": line.step,
        "run_number": run.number,
        "tenant_id": run.tenant_id,
        "at": utc_now() if line.at is None else datetime.fromtimestamp(line.at, UTC),
        "value": number if finite else None,
        "non_finite": None if finite else str(number),
    }


# -- everyone reads --------------------------------------------------------------------------


def read(session: Session, query: Query, max_points: int) -> dict[str, list[Point]]:
    """Points by name, in the order of steps; at most ``max_points`` for each name.

    A longer series is cut into ranges of equal width in steps; minimum and maximum of each are
    exact. Where runs overlap, the later run's value stands.
    """
    series = {name: _series(session, query, name, max_points) for name in _names(session, query)}
    return {name: points for name, points in series.items() if points}


def export(query: Query) -> Iterator[tuple[str, Point]]:
    """Every point of every name, read in pages, each with a session of its own."""
    with make_session(write=False) as session:
        names = _names(session, query)
    for name in names:
        start: int | None = query.from_step
        while start is not None:
            with make_session(write=False) as session:
                rest = query._replace(from_step=start)
                points = _points(session, _conditions(session, rest, name), rest, EXPORT_PAGE)
            yield from ((name, point) for point in points)
            start = points[-1].step + 1 if len(points) == EXPORT_PAGE else None


def _names(session: Session, query: Query) -> Sequence[str]:
    """The names asked for, or all; one index lookup per name, however long the series.

    None for a job of another tenant: so nothing else needs to ask for the tenant.
    """
    own = select(Job.id).where(Job.id == query.job_id, Job.tenant_id == query.tenant_id)
    if session.scalar(own) is None:
        return ()
    if query.names:
        return query.names
    names: list[str] = []
    while True:
        last = names[-1] if names else ""
        following = select(func.min(Metric.name)).where(
            Metric.job_id == query.job_id, Metric.name > last
        )
        if (name := session.scalar(following)) is None:
            return names
        names.append(name)


def _conditions(session: Session, query: Query, name: str) -> list[ColumnElement[bool]]:
    conditions = [
        Metric.job_id == query.job_id,
        Metric.name == name,
    ]
    job = select(Job.run_number).where(Job.id == query.job_id)
    if session.scalars(job).one() > 1:  # one run has nothing to override
        later = aliased(Metric)
        overridden = exists().where(
            later.job_id == Metric.job_id,
            later.name == Metric.name,
            later.step == Metric.step,
            later.run_number > Metric.run_number,
        )
        conditions.append(~overridden)
    return conditions


def _series(session: Session, query: Query, name: str, max_points: int) -> list[Point]:
    conditions = _conditions(session, query, name)
    points = _points(session, conditions, query, max_points + 1)
    if len(points) <= max_points:
        return points
    steps = select(Metric.step).where(*conditions, Metric.step <= query.to_step)
    last = session.scalars(steps.order_by(Metric.step.desc()).limit(1)).one()
    return _buckets(session, conditions, points[0].step, last, max_points)


def _points(
    session: Session, conditions: list[ColumnElement[bool]], query: Query, limit: int
) -> list[Point]:
    rows = session.execute(
        select(Metric.step, Metric.value, Metric.non_finite, Metric.at)
        .where(*conditions, Metric.step.between(query.from_step, query.to_step))
        .order_by(Metric.step)
        .limit(limit)
    )
    return [
        Point(step, step, 1, value, value, value, word, at.isoformat())
        for step, value, word, at in rows
    ]


def _buckets(
    session: Session, conditions: list[ColumnElement[bool]], first: int, last: int, count: int
) -> list[Point]:
    """Aggregate ``count`` ranges of steps, each by one scan of its part of the index.

    A GROUP BY over the whole series would sort it: on SQLite twice as slow. A subquery has one
    column, so the numbers of a bucket travel as one text.
    """
    width = -(-(last - first + 1) // count)
    wide = literal(width, BigInteger)
    starts = select(literal(first, BigInteger).label("start")).cte("starts", recursive=True)
    starts = starts.union_all(select(starts.c.start + wide).where(starts.c.start + wide <= last))
    end = starts.c.start + wide - 1
    inside = Metric.step.between(
        starts.c.start, case((end < last, end), else_=literal(last, BigInteger))
    )
    bucket = select(_packed(session)).where(*conditions, inside).scalar_subquery()
    rows = session.execute(select(starts.c.start, bucket).order_by(starts.c.start))
    points = [_unpack(start, min(start + width - 1, last), text) for start, text in rows]
    return [point for point in points if point.count]


def _packed(session: Session) -> ColumnElement[str]:
    """Numbers of a bucket as one text, each such that it reads back as the same number."""
    if session.get_bind().dialect.name == "sqlite":
        exact: Callable[[Any], Any] = func.quote  # a cast to text would keep 15 digits
        mean = func.avg(Metric.value)
    else:
        exact = lambda number: func.coalesce(cast(number, Text), "NULL")  # noqa: E731
        # avg fails where a sum of squares would overflow
        mean = func.avg(case((func.abs(Metric.value) < 1e100, Metric.value)))
    packed = func.coalesce(func.max(Metric.non_finite), "")
    for number in (func.count(), mean, func.min(Metric.value), func.max(Metric.value)):
        packed = packed + " " + exact(number)
    return packed


def _unpack(step: int, last_step: int, text: str) -> Point:
    word, count, *numbers = text.split(" ")
    mean, low, high = (None if number == "NULL" else float(number) for number in numbers)
    if mean is not None and not math.isfinite(mean):
        mean = None
    return Point(step, last_step, int(count), mean, low, high, word or None)
