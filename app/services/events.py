"""What a run reports becomes rows: events, progress, metrics; fenced by the run's number."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app import queue
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Base, Event, Job, Metric, Run, utc_now
from app.services import lifecycle

RATE_WINDOW_S = 30.0
ETA_SAMPLES = 3  # no estimate from fewer
TELL_EVERY_S = 1.0  # progress and sampled metric events of a job
NEWS_ROWS = 500

log = structlog.get_logger(__name__)


# -- lines of the child ----------------------------------------------------------------------


class MetricLine(BaseModel):
    """Named numbers at a step; non-finite ones arrive as words."""

    type: Literal["metric"]
    step: int = Field(ge=0, lt=2**53)
    at: float | None = Field(default=None, ge=0, lt=2**33)
    values: dict[
        Annotated[str, Field(pattern=r"^[^\x00]{1,200}$")], float | Literal["nan", "inf", "-inf"]
    ]


class ProgressLine(BaseModel):
    """So many steps of so many."""

    type: Literal["progress"]
    step: int = Field(ge=0, lt=2**53)
    total_steps: int | None = Field(default=None, ge=0, lt=2**53)
    epoch: int | None = None
    phase: str | None = Field(default=None, max_length=200)
    unit: str = Field(default="step", max_length=40)


class EventLine(BaseModel):
    """A warning, the lineage, or another fact, with fields of its own."""

    model_config = ConfigDict(extra="allow")

    type: Literal["event"]
    event: str = Field(max_length=40)


AnyLine = MetricLine | ProgressLine | EventLine
LINE: TypeAdapter[AnyLine] = TypeAdapter(Annotated[AnyLine, Field(discriminator="type")])


def storable(value: Any) -> Any:
    """The same JSON value without what a database refuses: NUL, half surrogates, NaN."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(
    run: Run, events: Iterable[dict[str, Any]]
) -> list[MetricLine | ProgressLine | EventLine]:
    lines = []
    for event in events:
        try:
            lines.append(LINE.validate_python(storable(event)))
        except ValidationError as error:
            log.warning("broken_line", job_id=run.job_id, run_number=run.number, error=str(error))
    return lines


# -- rate and remaining time -----------------------------------------------------------------


@dataclass
class Pace:
    """How fast a run goes: steps and seconds, each forgotten with a time constant of 30 s.

    A change of phase, or steps that start again, interrupts the measurement and adds nothing.
    """

    steps: float = 0.0
    seconds: float = 0.0
    samples: int = 0
    last: ProgressLine | None = None
    at: float = 0.0
    told: dict[str, float] = field(default_factory=dict)

    def take(self, line: ProgressLine, now: float) -> None:
        """Count the way from the line before to ``line``, heard at ``now`` in seconds."""
        last, passed = self.last, now - self.at
        if last and last.phase == line.phase and line.step == last.step:
            return
        if last and last.phase == line.phase and line.step > last.step and passed > 0:
            keep = math.exp(-passed / RATE_WINDOW_S)
            self.steps = self.steps * keep + line.step - last.step
            self.seconds = self.seconds * keep + passed
            self.samples += 1
        self.last, self.at = line, now

    @property
    def rate(self) -> float | None:
        """Steps a second; None before the first sample."""
        return self.steps / self.seconds if self.seconds else None

    def eta_s(self, line: ProgressLine) -> float | None:
        """Seconds to the last step; None until three samples are there."""
        if line.total_steps is None or not self.rate or self.samples < ETA_SAMPLES:
            return None
        return max(line.total_steps - line.step, 0) / self.rate

    def due(self, kind: str, now: float) -> bool:
        """Whether the last event of this kind is long enough ago; notes that it is told now."""
        if now - self.told.get(kind, -math.inf) < TELL_EVERY_S:
            return False
        self.told[kind] = now
        return True


_paces: WeakKeyDictionary[Run, Pace] = WeakKeyDictionary()


# -- writing ---------------------------------------------------------------------------------


def record(session: Session, run: Run, event: dict[str, Any]) -> bool:
    """Write one line of the child; see :func:`record_many`."""
    return record_many(session, run, [event])


def record_many(session: Session, run: Run, events: Sequence[dict[str, Any]]) -> bool:
    """Write lines of type ``progress``, ``metric`` and ``event``; broken ones are skipped.

    Metrics are upserted, so a batch repeated after a lost connection does no harm. Rate and
    pacing are remembered with the object ``run``: give the same one for the whole run.

    Returns:
        False when the run no longer owns its job; then nothing was written.
    """
    lines = _parse(run, events)
    owner = select(Job.id).where(Job.id == run.job_id, *lifecycle.fence(run)).with_for_update()
    if session.scalar(owner) is None:
        return False
    pace, now = _paces.setdefault(run, Pace()), time.monotonic()
    _write_metrics(
        session, run, [line for line in lines if isinstance(line, MetricLine)], pace, now
    )
    if progress := [line for line in lines if isinstance(line, ProgressLine)]:
        _write_progress(session, run, progress[-1], pace, now)
    for line in lines:
        if isinstance(line, EventLine):
            _write_event(session, run, line)
    after_commit(session, lambda: queue.announce(run.job_id))
    return True


def _write_metrics(
    session: Session, run: Run, lines: Sequence[MetricLine], pace: Pace, now: float
) -> None:
    rows = {(name, line.step): _row(run, line, name) for line in lines for name in line.values}
    if not rows:
        return
    table = Base.metadata.tables[Metric.__tablename__]
    insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    statement = insert[session.get_bind().dialect.name](table)
    new = {name: statement.excluded[name] for name in ("at", "value", "non_finite")}
    session.execute(
        statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=new),
        [*rows.values()],
    )
    if pace.due("metric", now):
        data = storable({"step": lines[-1].step, "values": lines[-1].values})
        lifecycle.add_event(session, run.job_id, "metric", data, run)


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


def _write_progress(session: Session, run: Run, line: ProgressLine, pace: Pace, now: float) -> None:
    pace.take(line, now)
    written_at = database_now(session)
    progress = {
        "fraction": min(line.step / line.total_steps, 1.0) if line.total_steps else None,
        "step": line.step,
        "total_steps": line.total_steps,
        "epoch": line.epoch,
        "phase": line.phase,
        "rate": pace.rate,
        "rate_unit": f"{line.unit}/s",
        "eta_s": pace.eta_s(line),
        "updated_at": written_at.isoformat(),
    }
    session.execute(
        update(Job)
        .where(Job.id == run.job_id, *lifecycle.fence(run))
        .values(progress=progress, updated_at=written_at)
    )
    if pace.due("progress", now):
        lifecycle.add_event(session, run.job_id, "progress", progress, run)


def _write_event(session: Session, run: Run, line: EventLine) -> None:
    fields = line.model_extra or {}
    if line.event == "lineage":
        job = session.get_one(Job, run.job_id, populate_existing=True)
        job.lineage = job.lineage | fields
    elif line.event == "warning":
        lifecycle.add_event(session, run.job_id, "warning", fields, run)
    else:
        lifecycle.add_event(session, run.job_id, "log", {"event": line.event, **fields}, run)


# -- reading ---------------------------------------------------------------------------------


def page(session: Session, tenant_id: str, job_id: str, after: int, limit: int) -> list[Event]:
    """At most ``limit`` events of a job with ``seq > after``, in order."""
    found = session.scalars(
        select(Event)
        .where(Event.job_id == job_id, Event.tenant_id == tenant_id, Event.seq > after)
        .order_by(Event.seq)
        .limit(limit)
    )
    return [*found]


class News(NamedTuple):
    """What a stream of a job has to tell.

    Attributes:
        rows: events, in order.
        more: whether there are more already.
        final: the final status, once there is one; ``deleted`` for a job that is gone.
    """

    rows: list[Event]
    more: bool
    final: str | None


def news(session: Session, tenant_id: str, job_id: str, after: int) -> News:
    """Events with ``seq > after``, and whether others will follow.

    The status is read first: if it is final, its event is among those read after it.
    """
    status = session.scalar(
        select(Job.status).where(
            Job.id == job_id, Job.tenant_id == tenant_id, Job.deleted_at.is_(None)
        )
    )
    rows = page(session, tenant_id, job_id, after, NEWS_ROWS)
    final = status if status in FINAL else "deleted" if status is None else None
    return News(rows, len(rows) == NEWS_ROWS, final)


def states(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """For each job what changes whenever there is news of it, by id."""
    found = session.execute(
        select(Job.id, Job.event_seq, Job.status_reason, Job.updated_at, Job.deleted_at).where(
            Job.id.in_(job_ids)
        )
    )
    return {row.id: (*row,) for row in found}
