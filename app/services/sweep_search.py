"""Values of trials that learn from those before, by a sampler of Optuna.

Nothing of Optuna is kept: each time its study is made anew from the trials in our tables, asked for
one choice of values, and forgotten. Trial ``n`` is drawn with a seed of its own from the results of
trials 0 to ``n - lag`` alone, however many more have ended by then; so equal results give equal
values, whatever was killed or overtaken meanwhile. The price is that a slow trial holds up the one
that comes ``lag`` after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from app.db.tables import FINAL, JobStatus, Sweep
from app.errors import invalid
from app.schemas.sweeps import LEARNING, SweepCreate, ValueList, ValueRange
from app.services import sweep_results
from app.services.intervals import mean_of
from app.services.sweep_plan import Values, goal_of
from app.services.sweep_results import SweepJobRow

if TYPE_CHECKING:
    import optuna

PACKAGES = "pip install 'sextant-jobs[sweeps]' where the API and the workers run"
SEEDS_APART = 1_000_003  # of the seeds of two trials


def check_installed(request: SweepCreate) -> None:
    """Refuse a sampler whose packages this process lacks.

    Raises:
        InvalidError: naming them.
    """
    if request.sampler not in LEARNING:
        return
    try:
        _sampler(request, 0)
    except ImportError as error:
        detail = f"the sampler {request.sampler} needs the package {error.name}: {PACKAGES}"
        raise invalid("/sampler", detail, "missing") from error


def lag(request: SweepCreate) -> int:
    """How many trials run at once: so many before a trial it does not know."""
    return max(1, request.max_parallel // len(request.seeds))


def propose(session: Session, sweep: Sweep, request: SweepCreate) -> Values | None:
    """Values of the next trial; None while one that it learns from has not ended."""
    number = len(sweep.trials)
    goal = goal_of(request.objective, sweep.kind)
    rows = sweep_results.job_rows(session, sweep.id, request.objective, goal)
    trials: list[list[SweepJobRow]] = [[] for _ in sweep.trials]
    for row in rows:
        trials[row.index // len(request.seeds)].append(row)
    known = trials[: max(0, number - lag(request) + 1)]
    if any(row.status not in FINAL for jobs in known for row in jobs):
        return None
    study = _study(request, number, goal.better)
    domains = _domains(request)
    for values, jobs in zip(sweep.trials, known, strict=False):
        study.add_trial(_ended(request, values, jobs, domains))
    asked = study.ask(domains)
    return {
        path: each.values[asked.params[path]] if isinstance(each, ValueList) else asked.params[path]
        for path, each in request.parameters.items()
    }


def _study(request: SweepCreate, number: int, better: str) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if better == "max" else "minimize"
    return optuna.create_study(sampler=_sampler(request, number), direction=direction)


def _sampler(request: SweepCreate, number: int) -> optuna.samplers.BaseSampler:
    import optuna

    seed = (request.sampler_seed * SEEDS_APART + number) % 2**32
    if request.sampler == "cmaes":
        import cmaes  # noqa: F401  # optuna loads it late, and this is the place to miss it

        return optuna.samplers.CmaEsSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _domains(request: SweepCreate) -> dict[str, optuna.distributions.BaseDistribution]:
    return {path: _domain(each) for path, each in request.parameters.items()}


def _domain(each: ValueList | ValueRange) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(each, ValueList):  # any JSON: by their places
        return distributions.CategoricalDistribution(range(len(each.values)))
    if each.integer:
        return distributions.IntDistribution(int(each.low), int(each.high), log=each.log)
    return distributions.FloatDistribution(each.low, each.high, log=each.log)


def _ended(
    request: SweepCreate, values: Values, jobs: list[SweepJobRow], domains: dict[str, Any]
) -> optuna.trial.FrozenTrial:
    """A trial as the sampler knows it: with its mean, or as failed.

    One without a value of every seed has failed, so has a baseline outside of what is searched.
    """
    from optuna.trial import TrialState, create_trial

    numbers = [job.value for job in jobs if job.value is not None]
    params = _params(request, values)
    mean = mean_of(numbers) if len(numbers) == len(request.seeds) else None
    if mean is None or params is None or any(j.status != JobStatus.SUCCEEDED for j in jobs):
        return create_trial(state=TrialState.FAIL)
    return create_trial(value=mean.mean, params=params, distributions=domains)


def _params(request: SweepCreate, values: Values) -> dict[str, Any] | None:
    """The values as the sampler names them; None if one lies outside."""
    params: dict[str, Any] = {}
    for path, each in request.parameters.items():
        value = values.get(path)
        if isinstance(each, ValueList):
            if value not in each.values:
                return None
            params[path] = each.values.index(value)
        elif isinstance(value, int | float) and each.low <= value <= each.high:
            params[path] = value
        else:
            return None
    return params
