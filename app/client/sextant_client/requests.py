"""What calls take by name, and bodies that they send.

Written by ``python -m tests.contract.client_types`` from the schemas of the service; a test
compares them. Times are RFC 3339 texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict


class Limits(TypedDict, total=False):
    """When the service gives a job up."""

    timeout_s: int
    queue_timeout_s: int | None
    max_runs: int


class Resources(TypedDict, total=False):
    """What a run may use."""

    device: Literal["auto", "cpu", "cuda"]
    gpus: int | None
    cpus: int | None
    memory_mb: int | None


class JobOptions(TypedDict, total=False):
    """How a job is carried out, whatever it does."""

    name: str | None
    metadata: Mapping[str, str]
    queue: str | None
    priority: int
    not_before: str | None
    depends_on: Sequence[str]
    on_dependency_failure: Literal["fail", "cancel"]
    resources: Resources
    limits: Limits
    webhook: str | None


class JobPatch(TypedDict, total=False):
    """What may be changed of a job at any time; a field left out stays as it is."""

    name: str | None
    metadata: Mapping[str, str | None]
    notes: str | None
    hidden: bool


class PipelineJob(TypedDict, total=False):
    """A job of a pipeline, as for `POST /v1/jobs`."""

    name: str | None
    metadata: Mapping[str, str]
    queue: str | None
    priority: int
    not_before: str | None
    depends_on: Sequence[str]
    on_dependency_failure: Literal["fail", "cancel"]
    resources: Resources
    limits: Limits
    webhook: str | None
    id: Required[str]
    spec: Required[Mapping[str, Any]]


class Objective(TypedDict, total=False):
    """By what trials are ranked."""

    metric: Required[str]
    goal: Literal["min", "max"] | None
    take: Literal["last", "best"]


class StopRule(TypedDict, total=False):
    """Stops a job whose metric is worse than the median of the others at the same step."""

    after_step: int
    others: int


class SweepJob(TypedDict, total=False):
    """What every job of the sweep has in common, as for `POST /v1/jobs`."""

    name: str | None
    metadata: Mapping[str, str]
    queue: str | None
    priority: int
    not_before: str | None
    depends_on: Sequence[str]
    on_dependency_failure: Literal["fail", "cancel"]
    resources: Resources
    limits: Limits
    webhook: str | None
    spec: Required[Mapping[str, Any]]


class ValueList(TypedDict, total=False):
    """Values to try, in this order."""

    values: Required[Sequence[Any]]


class ValueRange(TypedDict, total=False):
    """Numbers to draw from, both ends included; not for the sampler grid."""

    low: Required[float]
    high: Required[float]
    log: bool
    integer: bool


class SweepCreate(TypedDict, total=False):
    """A search over values of some fields; each trial runs once for each seed."""

    name: str | None
    job: Required[SweepJob]
    parameters: Required[Mapping[str, ValueList | ValueRange]]
    sampler: Literal["grid", "random", "tpe", "cmaes"]
    trials: int | None
    sampler_seed: int
    seeds: Sequence[int]
    objective: Required[Objective]
    baseline: Mapping[str, Any] | None
    max_parallel: int
    early_stop: StopRule | None


class DatasetOptions(TypedDict, total=False):
    """What a format needs to know beside the bytes."""

    cell_size_m: float | None
    label: str | None
    split: Literal["named", "hold_out"] | None
    nodata: float | Literal["nan"] | None
    project: str | None


class ModelPatch(TypedDict, total=False):
    """What may be changed of a model; a field left out stays as it is."""

    description: str | None
    metadata: Mapping[str, str | None]


class JobFilters(TypedDict, total=False):
    """Which jobs to list. Besides, `metadata.<key>=<value>` keeps jobs with that label."""

    status: (
        Literal["queued", "running", "succeeded", "failed", "cancelled"]
        | Sequence[Literal["queued", "running", "succeeded", "failed", "cancelled"]]
        | None
    )
    kind: str | None
    method: str | None
    name: str | None
    search: str | None
    parent: str | None
    sweep: str | None
    hidden: bool | None
    created_after: str | None
    created_before: str | None
    order: Literal["-created_at", "created_at"] | None


class SweepFilters(TypedDict, total=False):
    """Which sweeps to list, newest first."""

    status: Literal["running", "finished", "failed", "cancelled"] | None


class MetricQuery(TypedDict, total=False):
    """Which numbers, and how many points of them."""

    names: str | Sequence[str] | None
    from_step: int | None
    to_step: int | None
    max_points: int | None


class LogQuery(TypedDict, total=False):
    """Which part of the log."""

    run: int | None
    tail: int | None


class FeedQuery(TypedDict, total=False):
    """Which events of the tenant."""

    limit: int | None
    type: Literal["status"] | None
    kind: str | None
    wait_s: float | None
