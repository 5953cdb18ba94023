"""Events and progress of a job: written from the lines of its runs, fenced; read in order."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app import queue
from app.db.session import after_commit, database_now
from app.db.tables import FINAL, Event, Job, Run
from app.services import lifecycle, metrics
from app.services.child_lines import EventLine, Line, MetricLine, ProgressLine
from app.texts import storable

RATE_WINDOW_S = 30.0
ETA_SAMPLES = 3  # no estimate from fewer
EVENT_INTERVAL_S = 1.0  # least time between progress events, and between metric events, of a job
UPDATE_ROWS = 500
LINEAGE_BYTES = 65_536  # it is part of every answer about the job
LINEAGE_FULL = {
    "code": "lineage_full",
    "message": f"the lineage holds at most {LINEAGE_BYTES} bytes; later fields are left out",
}


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
    sent_at: dict[str, float] = field(default_factory=dict)

    def take(self, line: ProgressLine, now: float) -> None:
        """Count the steps from the line before to ``line``, which came at ``now`` (monotonic)."""
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
        """Whether an event of this kind may be written now; if so, ``now`` counts as its time."""
        if now - self.sent_at.get(kind, -math.inf) < EVENT_INTERVAL_S:
            return False
        self.sent_at[kind] = now
        return True


_paces: WeakKeyDictionary[Run, Pace] = WeakKeyDictionary()


# -- writing ---------------------------------------------------------------------------------


def record(session: Session, run: Run, line: Line) -> bool:
    """Write one line of the child; see :func:`record_many`."""
    return record_many(session, run, [line])


def record_many(session: Session, run: Run, lines: Sequence[Line]) -> bool:
    """Write lines of type ``progress``, ``metric`` and ``event``; others are left out.

    Metrics are upserted, so a batch repeated after a lost connection does no harm. Rate and
    pacing are remembered with the object ``run``: give the same one for the whole run.

    Returns:
        False when the run no longer owns its job; then nothing was written.
    """
    owner = select(Job.id).where(Job.id == run.job_id, *lifecycle.fence(run)).with_for_update()
    if session.scalar(owner) is None:
        return False
    pace, now = _paces.setdefault(run, Pace()), time.monotonic()
    if reported := [line for line in lines if isinstance(line, MetricLine) and line.values]:
        metrics.write(session, run, reported)
        if pace.due("metric", now):
            _write_metric_event(session, run, reported[-1])
    if progress := [line for line in lines if isinstance(line, ProgressLine)]:
        _write_progress(session, run, progress[-1], pace, now)
    _write_events(session, run, [line for line in lines if isinstance(line, EventLine)])
    after_commit(session, lambda: queue.announce(run.job_id))
    return True


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


def _write_metric_event(session: Session, run: Run, line: MetricLine) -> None:
    data = storable({"step": line.step, "values": line.values})
    lifecycle.add_event(session, run.job_id, "metric", data, run)


def _write_events(session: Session, run: Run, lines: Sequence[EventLine]) -> None:
    lineage: dict[str, Any] = {}
    facts: list[tuple[str, dict[str, Any]]] = []
    for line in lines:
        fields = line.model_extra or {}
        if line.event == "lineage":
            lineage |= fields
        elif line.event == "warning":
            facts.append(("warning", fields))
        else:
            facts.append(("log", {"event": line.event, **fields}))
    if lineage and not _add_lineage(session, run, lineage):
        facts.append(("warning", LINEAGE_FULL))
    if facts:
        lifecycle.add_events(session, run.job_id, facts, run)


def _add_lineage(session: Session, run: Run, fields: dict[str, Any]) -> bool:
    """Merge fields into the job's lineage; False where it would be too long to be read often."""
    job = session.get_one(Job, run.job_id, populate_existing=True)
    merged = job.lineage | fields
    if len(json.dumps(merged)) > LINEAGE_BYTES:
        return False
    job.lineage = merged
    return True


# -- reading ---------------------------------------------------------------------------------


def page(session: Session, tenant_id: str, job_id: str, after: int, limit: int) -> list[Event]:
    """At most ``limit`` events of a job with ``seq > after``, in order."""
    rows = session.scalars(
        select(Event)
        .where(Event.job_id == job_id, Event.tenant_id == tenant_id, Event.seq > after)
        .order_by(Event.seq)
        .limit(limit)
    )
    return [*rows]


class Updates(NamedTuple):
    """What a stream of a job sends next.

    Attributes:
        rows: events, in order.
        more: whether there are more already.
        final: the final status, once there is one; ``deleted`` for a job that is gone.
    """

    rows: list[Event]
    more: bool
    final: str | None


def updates(session: Session, tenant_id: str, job_id: str, after: int) -> Updates:
    """Events with ``seq > after``, and whether others will follow.

    The status is read first: if it is final, its event is among those read after it.
    """
    status = session.scalar(
        select(Job.status).where(
            Job.id == job_id, Job.tenant_id == tenant_id, Job.deleted_at.is_(None)
        )
    )
    rows = page(session, tenant_id, job_id, after, UPDATE_ROWS)
    final = status if status in FINAL else "deleted" if status is None else None
    return Updates(rows, len(rows) == UPDATE_ROWS, final)


def change_marks(session: Session, job_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """For each job a tuple that differs whenever anything of it has changed, by id."""
    rows = session.execute(
        select(Job.id, Job.event_seq, Job.status_reason, Job.updated_at, Job.deleted_at).where(
            Job.id.in_(job_ids)
        )
    )
    return {row.id: (*row,) for row in rows}
