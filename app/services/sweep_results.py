"""What a sweep has found: objectives of jobs, means over seeds, ranks, paired differences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Job, JobStatus, Metric, Sweep
from app.schemas.sweeps import (
    JobCounts,
    MeanRead,
    Objective,
    SweepCreate,
    SweepDetail,
    SweepRead,
    TrialJob,
    TrialRead,
)
from app.services.intervals import Mean, mean_of
from app.services.sweep_plan import Goal, goal_of, job_count


class SweepJobRow(NamedTuple):
    """A job of a sweep with its objective, None unless it succeeded with a finite one."""

    id: str
    index: int
    status: JobStatus
    value: float | None


def summary(session: Session, sweeps: Sequence[Sweep]) -> list[SweepRead]:
    """Sweeps as lists answer them."""
    ids = [sweep.id for sweep in sweeps]
    query = (
        select(Job.sweep_id, Job.status, func.count())
        .where(Job.sweep_id.in_(ids), Job.deleted_at.is_(None))
        .group_by(Job.sweep_id, Job.status)
    )
    counts: dict[str, dict[str, int]] = {each: {} for each in ids}
    for sweep_id, status, count in session.execute(query):
        counts[str(sweep_id)][str(status)] = count
    return [SweepRead(**_fields(sweep, counts[sweep.id])) for sweep in sweeps]


def detail(session: Session, sweep: Sweep) -> SweepDetail:
    """A sweep with its trials, the best first."""
    request = SweepCreate.model_validate(sweep.request)
    goal = goal_of(request.objective, sweep.kind)
    rows = job_rows(session, sweep.id, request.objective, goal)
    counts = Counter(str(row.status) for row in rows)
    return SweepDetail(
        **_fields(sweep, counts),
        request=sweep.request,
        metric=goal.metric,
        goal=goal.better,
        trials=_ranked(sweep, request, rows, goal),
    )


def _fields(sweep: Sweep, counts: Mapping[str, int]) -> dict[str, Any]:
    total = job_count(SweepCreate.model_validate(sweep.request), sweep.trials)
    names = ("id", "name", "kind", "status", "error", "created_at", "finished_at")
    jobs = JobCounts(total=total, unmade=total - sweep.made, **counts)
    return {name: getattr(sweep, name) for name in names} | {"jobs": jobs}


def job_rows(
    session: Session, sweep_id: str, objective: Objective, goal: Goal
) -> list[SweepJobRow]:
    """The jobs that were made, in their order; one statement for any number of them."""
    of_job = (Metric.job_id == Job.id, Metric.name == objective.metric)
    if objective.take == "best":
        best = func.max(Metric.value) if goal.better == "max" else func.min(Metric.value)
        value = select(best).where(*of_job).scalar_subquery()
    else:
        last = select(Metric.value).where(*of_job)
        order = (Metric.step.desc(), Metric.run_number.desc())
        value = last.order_by(*order).limit(1).scalar_subquery()
    query = (
        select(Job.id, Job.sweep_place, Job.status, value)
        .where(Job.sweep_id == sweep_id, Job.deleted_at.is_(None))
        .order_by(Job.sweep_place)
    )
    return [
        SweepJobRow(job_id, int(index or 0), status, x if status == JobStatus.SUCCEEDED else None)
        for job_id, index, status, x in session.execute(query)
    ]


def _ranked(
    sweep: Sweep, request: SweepCreate, rows: Sequence[SweepJobRow], goal: Goal
) -> list[TrialRead]:
    seeds = request.seeds
    by_trial: list[list[SweepJobRow]] = [[] for _ in sweep.trials]
    for row in rows:
        by_trial[row.index // len(seeds)].append(row)
    values = [_by_seed(jobs, seeds) for jobs in by_trial]
    baseline = values[0] if request.baseline is not None else None
    trials = [
        TrialRead(
            trial=number,
            baseline=baseline is not None and number == 0,
            values=sweep.trials[number],
            rank=None,
            objective=_read(mean_of([*values[number].values()])),
            difference=_difference(values[number], baseline) if number else None,
            jobs=[_job(job, seeds) for job in jobs],
        )
        for number, jobs in enumerate(by_trial)
    ]
    return _with_ranks(trials, goal, len(seeds))


def _job(row: SweepJobRow, seeds: Sequence[int]) -> TrialJob:
    seed = seeds[row.index % len(seeds)]
    return TrialJob(id=row.id, seed=seed, status=row.status, value=row.value)


def _by_seed(jobs: Sequence[SweepJobRow], seeds: Sequence[int]) -> dict[int, float]:
    return {seeds[job.index % len(seeds)]: job.value for job in jobs if job.value is not None}


def _difference(
    values: Mapping[int, float], baseline: Mapping[int, float] | None
) -> MeanRead | None:
    """The mean difference to the baseline over the seeds that both have."""
    if baseline is None:
        return None
    both = [seed for seed in values if seed in baseline]
    return _read(mean_of([values[seed] - baseline[seed] for seed in both]))


def _read(mean: Mean | None) -> MeanRead | None:
    return None if mean is None else MeanRead.model_validate(mean)


def _with_ranks(trials: list[TrialRead], goal: Goal, seeds: int) -> list[TrialRead]:
    """The trials in their order; only those with a value for every seed can be compared.

    Equal means share a rank, and the next one counts them: 1, 1, 3.
    """
    sign = -1 if goal.better == "max" else 1

    def order(trial: TrialRead) -> tuple[bool, float, int]:
        mean = trial.objective
        whole = mean is not None and mean.count == seeds
        return (not whole, sign * mean.mean if mean is not None and whole else 0, trial.trial)

    ordered = sorted(trials, key=order)
    whole = [each for each in ordered if not order(each)[0]]
    first: dict[float, int] = {}  # rank of each mean
    for number, trial in enumerate(whole, start=1):
        trial.rank = first.setdefault(order(trial)[1], number)
    return ordered
