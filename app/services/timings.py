"""How long jobs took for how much work, and from that how long the next one will take.

Each worker notes the work and the wall seconds of a run that succeeded; the newest of each kind,
device and unit of work are kept. Before there are any, those that come with the release count, as
they were measured on two CPU cores. Seconds are fitted as ``start + work / rate``.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.tables import Job, Run, RunTiming
from app.services import workers
from models.catalog import shipped_timings
from models.core.spec import Estimate

CPU = "cpu"
KEPT = 32  # runs of a kind, device and unit
OWN = 5  # runs here from which on those of the release no longer count
FIT_ROUNDS = 20
LEAST_FACTOR = 2.0  # of the interval: the load of a machine alone makes so much
WIDER = 0.25  # of the interval for each doubling beyond the work that was measured


class TimedWork(NamedTuple):
    """A run that succeeded: how much work, and how many wall seconds it took."""

    work: float
    seconds: float


class FittedLine(NamedTuple):
    """Seconds as a function of work; both numbers are 0 or more."""

    start_s: float
    s_per_work: float

    def at(self, work: float) -> float:
        """Seconds for so much work."""
        return self.start_s + self.s_per_work * work


# -- noted -----------------------------------------------------------------------------------


def note(session: Session, job: Job, run: Run, now: datetime) -> None:
    """Keep what a run that has succeeded took; only of runs that did all of the job's work."""
    estimate = job.estimate or {}
    whole = run.number == 1 and not job.resolved_spec.get("resume_from")
    if not whole or "work" not in estimate:  # the latter of jobs of an earlier release
        return
    row = RunTiming(
        job_id=job.id,
        kind=job.kind,
        device=_device_of(job, run),
        work_unit=estimate["work_unit"],
        work=estimate["work"],
        seconds=max((now - run.started_at).total_seconds(), 1e-3),
        at=now,
    )
    session.add(row)
    session.flush()
    of_row = _like(row.kind, row.device, row.work_unit)
    older = select(RunTiming.job_id).where(*of_row).order_by(RunTiming.at.desc()).offset(KEPT)
    if surplus := session.scalars(older).all():
        session.execute(delete(RunTiming).where(RunTiming.job_id.in_(surplus)))


def _device_of(job: Job, run: Run) -> str:
    """What the run was on: ``cpu``, or a GPU by its name, with a number where there were more."""
    if not run.devices:
        return CPU
    name = str(job.lineage.get("device") or "GPU")
    return name if len(run.devices) == 1 else f"{len(run.devices)} x {name}"


def _like(kind: str, device: str, unit: str) -> tuple[Any, ...]:
    return RunTiming.kind == kind, RunTiming.device == device, RunTiming.work_unit == unit


# -- predicted -------------------------------------------------------------------------------


def predict(session: Session, kind: str, cost: Estimate, device: str, queue: str) -> dict[str, Any]:
    """The seconds of a job and their interval, as the API answers them.

    Args:
        session: that reads.
        kind: of the job.
        cost: its work.
        device: that it asks for: ``cpu``, ``cuda`` or ``auto``.
        queue: in which it will wait.

    Returns:
        ``seconds`` and ``interval_s`` (low, high), both None with the reason in ``no_seconds``
        where nobody has measured such a run; ``device`` assumed; ``runs`` measured here.
    """
    on_cpu = device == CPU or (device == "auto" and not _gpu_serves(session, queue))
    name = CPU if on_cpu else _last_gpu(session, kind, cost.work_unit)
    own = [] if name is None else _samples(session, kind, name, cost.work_unit)
    shipped = [TimedWork(*each) for each in shipped_timings(kind, cost.work_unit) if on_cpu]
    told: dict[str, Any] = {"device": name or "GPU", "runs": len(own)}
    line = fit(own, shipped)
    if line is None:
        where = f"no run of {kind} ({cost.work_unit}) has been measured on a {told['device']} yet"
        return told | {"seconds": None, "interval_s": None, "no_seconds": where}
    seconds = line.at(cost.work)
    factor = spread(line, own or shipped, cost.work)
    interval = [_rounded(seconds / factor), _rounded(seconds * factor)]
    return told | {"seconds": _rounded(seconds), "interval_s": interval, "no_seconds": None}


def _rounded(seconds: float) -> float:
    return round(seconds, 1) if seconds >= 1 else round(seconds, 3)


def _gpu_serves(session: Session, queue: str) -> bool:
    return any(worker.gpus and queue in worker.queues for worker in workers.live(session))


def _last_gpu(session: Session, kind: str, unit: str) -> str | None:
    """The GPU on which such a run was measured last."""
    on_gpus = (RunTiming.kind == kind, RunTiming.work_unit == unit, RunTiming.device != CPU)
    return session.scalar(
        select(RunTiming.device).where(*on_gpus).order_by(RunTiming.at.desc()).limit(1)
    )


def _samples(session: Session, kind: str, device: str, unit: str) -> list[TimedWork]:
    rows = session.execute(
        select(RunTiming.work, RunTiming.seconds)
        .where(*_like(kind, device, unit))
        .order_by(RunTiming.at.desc())
        .limit(KEPT)
    )
    return [TimedWork(row.work, row.seconds) for row in rows]


def fit(own: Sequence[TimedWork], shipped: Sequence[TimedWork]) -> FittedLine | None:
    """The line nearest to the samples by ratio; None without samples.

    A few own runs say how much faster or slower this machine is than the one of the release; the
    shape is then that of the release. Many say both.
    """
    if len(own) >= OWN or not shipped:
        return _fit(own) if own else None
    line = _fit(shipped)
    if not own:
        return line
    ratios = sorted(sample.seconds / line.at(sample.work) for sample in own)
    middle = ratios[len(ratios) // 2]
    return FittedLine(line.start_s * middle, line.s_per_work * middle)


def _fit(samples: Sequence[TimedWork]) -> FittedLine:
    """The line of runs whose seconds scatter in proportion to themselves, small or large.

    Least squares weighted by ``1 / line^2``, repeated with the line found (gamma regression).
    """
    line = _least_squares(samples, [each.seconds for each in samples])
    for _ in range(FIT_ROUNDS):
        line = _least_squares(samples, [max(line.at(each.work), 1e-9) for each in samples])
    return line


def _least_squares(samples: Sequence[TimedWork], fitted: Sequence[float]) -> FittedLine:
    """Least squares weighted by ``1 / fitted^2``; no number of the line is below 0."""
    one = work = square = seconds = product = 0.0
    for (x, y), near in zip(samples, fitted, strict=True):
        weight = 1 / (near * near)
        one, work, square = one + weight, work + weight * x, square + weight * x * x
        seconds, product = seconds + weight * y, product + weight * x * y
    determinant = one * square - work * work
    if determinant > 1e-9 * one * square:
        start = (seconds * square - product * work) / determinant
        rate = (product * one - seconds * work) / determinant
        if start >= 0 and rate >= 0:
            return FittedLine(start, rate)
        if rate < 0:
            return FittedLine(seconds / one, 0.0)
    return FittedLine(
        0.0, product / square
    )  # all of one size: as if nothing but the work took time


def spread(line: FittedLine, samples: Sequence[TimedWork], work: float) -> float:
    """By which factor the seconds may be more or less.

    Twice the samples' deviation from the line, at least 2, and wider for work of another size.
    """
    logs = [math.log(sample.seconds / line.at(sample.work)) for sample in samples]
    deviation = math.sqrt(sum(x * x for x in logs) / len(logs))
    nearest = min(max(work, min(s.work for s in samples)), max(s.work for s in samples))
    return max(LEAST_FACTOR, math.exp(2 * deviation)) * (1 + WIDER * abs(math.log2(work / nearest)))
