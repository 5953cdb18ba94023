"""Stops the jobs of a sweep that are worse than the median of the others at the same step.

The median stopping rule of Golovin et al., Google Vizier (2017), section 3.2.2, with the value at
the step in place of the running mean.
"""

import statistics
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Job, JobStatus, Metric, Sweep
from app.schemas.sweeps import StopRule, SweepCreate
from app.services import lifecycle
from app.services.sweep_plan import Goal, goal_of

COMPARED = (JobStatus.RUNNING, JobStatus.SUCCEEDED)


class MetricPoint(NamedTuple):
    """How far a job has come, and its metric there."""

    step: int
    value: float


def stop_early(session: Session, sweep: Sweep, request: SweepCreate) -> None:
    """Ask the jobs that are worse to stop, without a checkpoint; those of the baseline go on."""
    rule, goal = request.early_stop, goal_of(request.objective, sweep.kind)
    if rule is None:
        return
    first = len(request.seeds) if request.baseline is not None else 0
    query = select(Job).where(
        Job.sweep_id == sweep.id,
        Job.status == JobStatus.RUNNING,
        Job.sweep_place >= first,
        Job.cancel_requested_at.is_(None),
    )
    for job in session.scalars(query).all():
        reason = _reason(session, job, rule, goal)
        if reason is not None and lifecycle.request_cancel(session, job, "graceful", save=False):
            data = {"code": "stopped_early", "message": reason}
            lifecycle.add_event(session, job.id, "warning", data)


def _reason(session: Session, job: Job, rule: StopRule, goal: Goal) -> str | None:
    """Why a job is to be stopped; None if it may go on."""
    here = _latest(session, job.id, goal.metric)
    if here is None or here.step < rule.after_step:
        return None
    others = _others(session, job, goal.metric, here.step)
    if len(others) < rule.others:
        return None
    median = statistics.median(others)
    if here.value >= median if goal.better == "max" else here.value <= median:
        return None
    return (
        f"{goal.metric} {here.value:.6g} at step {here.step} is worse than {median:.6g}, the "
        f"median of {len(others)} other jobs of the sweep there"
    )


def _latest(session: Session, job_id: str, metric: str) -> MetricPoint | None:
    row = session.execute(
        select(Metric.step, Metric.value)
        .where(Metric.job_id == job_id, Metric.name == metric, Metric.value.is_not(None))
        .order_by(Metric.step.desc(), Metric.run_number.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None or row.value is None else MetricPoint(row.step, row.value)


def _others(session: Session, job: Job, metric: str, step: int) -> list[float]:
    """The metric of the other jobs at a step, of those that have come as far or succeeded."""
    series = (Metric.job_id == Job.id, Metric.name == metric, Metric.value.is_not(None))
    there = (
        select(Metric.value)
        .where(*series, Metric.step <= step)
        .order_by(Metric.step.desc(), Metric.run_number.desc())
        .limit(1)
        .scalar_subquery()
    )
    reached = select(func.max(Metric.step)).where(*series).scalar_subquery()
    query = select(Job.status, there, reached).where(
        Job.sweep_id == job.sweep_id, Job.id != job.id, Job.status.in_(COMPARED)
    )
    return [
        value
        for status, value, last in session.execute(query)
        if value is not None and (status == JobStatus.SUCCEEDED or last >= step)
    ]
