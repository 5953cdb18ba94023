"""Which jobs a sweep makes: its trials, their specs, and what is wrong with one before any runs."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from sqlalchemy.orm import Session

from app.errors import InvalidError, ServiceError, invalid
from app.schemas.jobs import JobCreate
from app.schemas.sweeps import LEARNING, MAX_TRIALS, Objective, SweepCreate, ValueList, ValueRange
from app.services import dependencies, queues
from app.services.resolve import placement, resolve
from app.services.specs import validated
from app.services.validation_errors import did_you_mean
from models.catalog import kinds

Values = dict[str, Any]
ROOT = "/job/spec"
FIXED = ("kind", "seed", "resume_from")  # fields that no parameter may be or hold


class Goal(NamedTuple):
    """What is measured, and which way is better."""

    metric: str
    better: Literal["min", "max"]


def goal_of(objective: Objective, kind: str) -> Goal:
    """The goal of a sweep over jobs of a kind.

    Raises:
        InvalidError: if the kind has no such metric, or none of its metrics says what is better.
    """
    declared = {each.name: each.goal for each in kinds()[kind].metrics}
    name = next((n for n in declared if fnmatchcase(objective.metric, n)), None)
    if name is None:
        hint = did_you_mean(objective.metric, declared)
        detail = f"{kind} has no metric {objective.metric!r}{hint}; it has {', '.join(declared)}"
        raise invalid("/objective/metric", detail, "reference")
    better = objective.goal or declared[name]
    if better is None:
        detail = f"the kind does not say whether more {objective.metric} is better: give min or max"
        raise invalid("/objective/goal", detail, "missing")
    return Goal(objective.metric, better)


def plan(session: Session, tenant_id: str, request: SweepCreate) -> list[Values]:
    """The values of every trial, the baseline first if there is one; each was checked.

    Of a sampler that learns it is the baseline alone, and the ends of what it may draw are checked.

    Raises:
        InvalidError: with the parameter or field of the first trial that cannot be carried out.
    """
    _check_paths(request)
    trials = [*_trials(request)]
    looked_at = [*trials, *_extremes(request)] if request.sampler in LEARNING else trials
    for number, values in enumerate(looked_at):
        _check_trial(session, tenant_id, request, values, number)
    return trials


def job_count(request: SweepCreate, trials: Sequence[Values]) -> int:
    """How many jobs a sweep makes; a sampler that learns has not yet drawn all its trials."""
    drawn = len(trials)
    if request.sampler in LEARNING:
        drawn = (request.trials or 0) + (request.baseline is not None)
    return drawn * len(request.seeds)


def _extremes(request: SweepCreate) -> Iterator[Values]:
    """Choices that hold each end of a range and each value of a list."""
    ends = [
        each.values if isinstance(each, ValueList) else _ends(each)
        for each in request.parameters.values()
    ]
    for row in range(max(map(len, ends))):
        yield {
            path: values[min(row, len(values) - 1)]
            for path, values in zip(request.parameters, ends, strict=True)
        }


def _ends(domain: ValueRange) -> list[float]:
    ends = [domain.low, domain.high]
    return [int(end) for end in ends] if domain.integer else ends


def _check_paths(request: SweepCreate) -> None:
    for path in request.parameters:
        if path.split(".")[0] in FIXED:
            detail = f"{path} is no parameter of a sweep"
            hint = "; give seeds" if path == "seed" else ""
            raise invalid(f"/parameters/{path}", detail + hint)
        for other in request.parameters:
            if other.startswith(f"{path}."):
                raise invalid(f"/parameters/{other}", f"{path} is a parameter already and holds it")
    for path in request.baseline or ():
        if path not in request.parameters:
            hint = did_you_mean(path, request.parameters)
            detail = f"{path} is not among the parameters{hint}; put it into the spec"
            raise invalid(f"/baseline/{path}", detail)


def _trials(request: SweepCreate) -> Iterator[Values]:
    if request.baseline is not None:
        yield dict(request.baseline)
    if request.sampler in LEARNING:
        return
    if request.sampler == "random":
        yield from _drawn(request)
        return
    lists = [each.values for each in request.parameters.values() if isinstance(each, ValueList)]
    if (count := math.prod(len(values) for values in lists)) > MAX_TRIALS:
        detail = f"{count} combinations; at most {MAX_TRIALS} are tried: use the sampler random"
        raise invalid("/parameters", detail, "too_many")
    for combination in itertools.product(*lists):
        yield dict(zip(request.parameters, combination, strict=True))


def _drawn(request: SweepCreate) -> Iterator[Values]:
    source = random.Random(request.sampler_seed)  # noqa: S311  # a search, no secret
    for _ in range(request.trials or 0):
        yield {path: _draw(source, each) for path, each in request.parameters.items()}


def _draw(source: random.Random, domain: ValueList | ValueRange) -> Any:
    if isinstance(domain, ValueList):
        return source.choice(domain.values)
    if domain.integer and not domain.log:
        return source.randint(int(domain.low), int(domain.high))
    if not domain.log:
        return source.uniform(domain.low, domain.high)
    drawn = math.exp(source.uniform(math.log(domain.low), math.log(domain.high)))
    bounded = min(max(drawn, domain.low), domain.high)  # exp and log are rounded
    return round(bounded) if domain.integer else bounded


# -- the job of a trial ----------------------------------------------------------------------


def job_of(request: SweepCreate, values: Values, seed: int, number: int) -> JobCreate:
    """The request for the job of a trial with a seed.

    Raises:
        InvalidError: if the values give no valid spec.
    """
    spec = validated(with_values(request.job.spec, values) | {"seed": seed}, ROOT)
    options = {n: getattr(request.job, n) for n in request.job.model_fields_set - {"spec"}}
    name = request.job.name or request.name or spec.kind
    options["name"] = f"{name[:90]} #{number} seed {seed}"
    return JobCreate(spec=spec, **options)


def with_values(spec: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """A spec with some fields replaced; groups that are not there yet are made.

    Raises:
        InvalidError: if a path leads into something that holds no fields.
    """
    changed = deepcopy(dict(spec))
    for path, value in values.items():
        try:
            _put(changed, path.split("."), value)
        except (IndexError, TypeError, ValueError):
            detail = f"the spec has no place {path}"
            raise invalid(f"/parameters/{path}", detail, "reference") from None
    return changed


def _put(node: Any, steps: Sequence[str], value: Any) -> None:
    for step, following in itertools.pairwise(steps):
        if isinstance(node, list):
            node = node[int(step)]
        elif following.isdecimal():
            node = node[step]  # no list is made: a number may name a place in one that is there
        else:
            node = node.setdefault(step, {})
    if isinstance(node, list):
        node[int(steps[-1])] = value
    elif isinstance(node, dict):
        node[steps[-1]] = value
    else:
        raise TypeError(node)


def _check_trial(
    session: Session, tenant_id: str, request: SweepCreate, values: Values, number: int
) -> None:
    """Carry out what a submission of the trial would check."""
    try:
        job = job_of(request, values, request.seeds[0], number)
        if number == 0:
            queues.check(session, placement(job).queue)
            dependencies.sources(session, tenant_id, job.depends_on, ())
        resolve(session, tenant_id, job.spec, ROOT)
    except KeyError as error:
        raise invalid("/parameters", f"the spec has no place {error}", "reference") from error
    except InvalidError as error:
        raise _of_trial(error, values) from error


def _of_trial(error: ServiceError, values: Values) -> InvalidError:
    """An error about the spec of a trial as one about the request of the sweep."""
    errors = [_of_parameter(each, values) for each in error.errors]
    detail = "; ".join(each["detail"] for each in errors[:3]) or error.detail
    return InvalidError(detail, errors)


def _of_parameter(error: dict[str, Any], values: Values) -> dict[str, Any]:
    pointer = str(error["pointer"])
    for path, value in values.items():
        field = f"{ROOT}/{path.replace('.', '/')}/"
        within = f"{pointer}/"
        if within.startswith(field) or (field.startswith(within) and pointer != ROOT):
            shown = json.dumps(value)[:80]
            detail = f"{path} = {shown}: {error['detail']}"
            return error | {"pointer": f"/parameters/{path}", "detail": detail}
    if pointer.startswith((ROOT, "/parameters")):
        return error
    return error | {"pointer": f"/job{pointer}"}
