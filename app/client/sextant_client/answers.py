"""What the service answers, under the names of ``/openapi.json``.

Written by ``python -m tests.contract.client_types`` from the schemas of the service; a test
compares them. Times are RFC 3339 texts in UTC. A later service may answer more fields.
"""

from typing import Any, Literal, TypedDict

JobError = TypedDict(
    "JobError",
    {
        "code": str,
        "message": str,
        "hint": str | None,
        "class": str,
        "retryable": bool,
        "run_number": int,
        "exit_code": int | None,
        "signal": int | None,
        "traceback_artifact_id": str | None,
    },
)


JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Limits(TypedDict):
    """When the service gives a job up."""

    timeout_s: int
    queue_timeout_s: int | None
    max_runs: int


class Links(TypedDict):
    """Addresses of a job and its parts."""

    self: str
    events: str
    metrics: str
    logs: str
    artifacts: str


class Progress(TypedDict):
    """How far a run is."""

    fraction: float | None
    step: int | None
    total_steps: int | None
    epoch: int | None
    phase: str | None
    rate: float | None
    rate_unit: str | None
    eta_s: float | None
    updated_at: str | None


class WorkerRead(TypedDict):
    """Who carries a job out."""

    id: str
    host: str
    device: Literal["cpu", "cuda"]


class JobRead(TypedDict):
    """A job as the service answers it."""

    id: str
    object: Literal["job"]
    kind: str
    method: str
    name: str | None
    metadata: dict[str, str]
    notes: str | None
    spec: dict[str, Any]
    resolved_spec: dict[str, Any]
    resources: dict[str, Any]
    limits: Limits
    queue: str
    priority: int
    parent_job_id: str | None
    depends_on: list[str]
    on_dependency_failure: Literal["fail", "cancel"]
    sweep_id: str | None
    webhook_id: str | None
    etag: str
    status: JobStatus
    status_reason: (
        Literal[
            "waiting_for_worker",
            "waiting_for_gpu",
            "waiting_for_dependency",
            "backoff",
            "not_before",
            "paused",
            "starting",
            "pausing",
            "cancelling",
            "stalled",
        ]
        | None
    )
    run_number: int
    queue_position: int | None
    not_before: str | None
    created_at: str
    queued_at: str
    started_at: str | None
    finished_at: str | None
    updated_at: str
    cancel_requested_at: str | None
    paused_at: str | None
    hidden_at: str | None
    worker: WorkerRead | None
    progress: Progress | None
    estimate: dict[str, Any] | None
    result: dict[str, Any] | None
    error: JobError | None
    lineage: dict[str, Any]
    links: Links


class CostRead(TypedDict):
    """What a job will cost, and how long runs like it took."""

    total_steps: int | None
    work: float
    work_unit: str
    details: dict[str, float | int | str | None]
    seconds: float | None
    interval_s: list[float] | None
    device: str
    runs: int
    no_seconds: str | None


class DryRun(TypedDict):
    """What a job would be, had it been stored."""

    estimate: CostRead
    resolved_spec: dict[str, Any]
    queue: str
    warnings: list[str]


class ArtifactRead(TypedDict):
    """An immutable file that a run produced."""

    id: str
    job_id: str
    run_number: int
    role: str
    name: str
    step: int | None
    size_bytes: int
    sha256: str
    media_type: str
    metadata: dict[str, Any]
    created_at: str
    url: str


class PointRead(TypedDict):
    """One value of a metric, or several in a range of steps."""

    step: int
    last_step: int
    count: int
    value: float | None
    min: float | None
    max: float | None
    non_finite: Literal["nan", "inf", "-inf"] | None
    at: str | None


class MetricsRead(TypedDict):
    """Numbers of a job by name, in the order of steps."""

    job_id: str
    series: dict[str, list[PointRead]]


class FeedJob(TypedDict):
    """What an event tells of its job, as it is now."""

    id: str
    kind: str
    name: str | None
    metadata: dict[str, str]


class FeedEvent(TypedDict):
    """An event of some job of the tenant."""

    position: int
    type: str
    at: str
    job: FeedJob
    seq: int
    run_number: int | None
    data: dict[str, Any]


class FeedPage(TypedDict):
    """Events in order; go on with `after=next_after`."""

    data: list[FeedEvent]
    has_more: bool
    next_after: int
    latest: int


class FieldDifference(TypedDict):
    """A field that is not the same in all jobs."""

    field: str
    values: list[Any]


class ComparisonRead(TypedDict):
    """Jobs beside each other."""

    jobs: list[JobRead]
    spec: list[FieldDifference]
    result: list[FieldDifference]
    metrics: dict[str, list[float | None]]


class LeftOut(TypedDict):
    """Files, columns or arrays that were not read."""

    what: str
    count: int
    reason: str


class DatasetContents(TypedDict):
    """What an import took, assumed and left out, and how parts and labels were chosen."""

    taken: dict[str, int]
    left_out: list[LeftOut]
    split: str | None
    label: str | None
    sizes: str | None
    notes: list[str]


class DatasetError(TypedDict):
    """Why the check refused the content."""

    code: str
    message: str
    hint: str | None


class DatasetRead(TypedDict):
    """Named immutable data that specs can refer to."""

    id: str
    object: Literal["dataset"]
    name: str
    builtin: bool
    description: str | None
    format: str | None
    options: dict[str, Any]
    status: Literal["uploading", "checking", "ready", "failed"]
    sha256: str | None
    size_bytes: int | None
    counts: dict[str, int | float]
    contents: DatasetContents | None
    error: DatasetError | None
    created_at: str | None
    updated_at: str | None


class ArtifactKind(TypedDict):
    """A file the kind leaves; the name may hold `*`."""

    name: str
    role: str
    description: str
    on_request: bool


class MetricRead(TypedDict):
    """A number the kind reports."""

    name: str
    unit: str
    goal: Literal["min", "max"] | None
    description: str


class KindRead(TypedDict):
    """A kind of job."""

    kind: str
    method: str
    description: str
    queue: str
    resumable: bool
    metrics: list[MetricRead]
    artifacts: list[ArtifactKind]
    presets: dict[str, dict[str, Any]]
    example: dict[str, Any]
    links: dict[str, str]


class KeyRead(TypedDict):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[Literal["jobs:read", "jobs:write", "datasets:read", "datasets:write", "admin"]]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class KeyCreated(TypedDict):
    """A new key; the only answer with its secret."""

    id: str
    name: str
    scopes: list[Literal["jobs:read", "jobs:write", "datasets:read", "datasets:write", "admin"]]
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    key: str | None


class QuotaUse(TypedDict):
    """How much of a quota is used."""

    limit: int | None
    used: int | float


class RateLimit(TypedDict):
    """A limit of requests; the headers `RateLimit` of each answer tell how many are left."""

    limit: int | None


class UsageRead(TypedDict):
    """What the caller's tenant uses and may use."""

    tenant: str
    queued_jobs: QuotaUse
    running_jobs: QuotaUse
    stored_bytes: QuotaUse
    gpu_seconds_a_day: QuotaUse
    writes_a_minute: RateLimit
    reads_a_minute: RateLimit
    delayed_by: list[str]
    resets_at: str


class Ready(TypedDict):
    """What the service depends on; a 503 when database, migration or store is not `ok`."""

    ready: bool
    database: str
    migration: str
    store: str
    broker: str
    live_workers: int | None
    dispatcher_age_s: float | None


class LiveWorker(TypedDict):
    """A worker process that is alive."""

    id: str
    host: str
    queues: list[str]
    gpus: list[str]
    slots: int
    slots_free: int
    draining: bool
    started_at: str
    heartbeat_at: str
    versions: dict[str, Any]


class QueueRead(TypedDict):
    """A queue, of all tenants."""

    name: str
    waiting: int
    served: bool


class ModelRead(TypedDict):
    """A registered model."""

    id: str
    object: Literal["model"]
    name: str
    description: str | None
    metadata: dict[str, str]
    latest_version: int | None
    aliases: dict[str, int]
    created_at: str
    updated_at: str


class ModelVersionRead(TypedDict):
    """A version of a model: a file that stays as long as the version does."""

    id: str
    object: Literal["model_version"]
    model: str
    version: int
    reference: str
    job: str
    artifact: str
    role: str
    kind: str
    sha256: str
    size_bytes: int
    description: str | None
    aliases: list[str]
    created_at: str


ClassProbability = TypedDict("ClassProbability", {"class": str, "probability": float})


class PredictionRead(TypedDict):
    """What a net says of pictures."""

    object: Literal["prediction"]
    model: str
    predictions: list[list[ClassProbability]]


class PipelineRead(TypedDict):
    """The jobs of a new pipeline; they go their own ways from here on."""

    object: Literal["pipeline"]
    jobs: dict[str, JobRead]


class JobCounts(TypedDict):
    """Jobs of a sweep."""

    total: int
    unmade: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class ReportedError(TypedDict):
    """What went wrong, as a child or its worker reports it; storable, without server paths."""

    code: str
    message: str
    hint: str | None


class SweepRead(TypedDict):
    """A sweep as lists answer it."""

    id: str
    object: Literal["sweep"]
    name: str | None
    kind: str
    status: Literal["running", "finished", "failed", "cancelled"]
    error: ReportedError | None
    jobs: JobCounts
    created_at: str
    finished_at: str | None


class MeanRead(TypedDict):
    """A mean over seeds."""

    mean: float
    interval: list[float] | None
    count: int


class TrialJob(TypedDict):
    """A job of a trial."""

    id: str
    seed: int
    status: JobStatus
    value: float | None


class TrialRead(TypedDict):
    """One choice of values, with its jobs."""

    trial: int
    baseline: bool
    values: dict[str, Any]
    rank: int | None
    objective: MeanRead | None
    difference: MeanRead | None
    jobs: list[TrialJob]


class SweepDetail(TypedDict):
    """A sweep with its trials."""

    id: str
    object: Literal["sweep"]
    name: str | None
    kind: str
    status: Literal["running", "finished", "failed", "cancelled"]
    error: ReportedError | None
    jobs: JobCounts
    created_at: str
    finished_at: str | None
    request: dict[str, Any]
    metric: str
    goal: Literal["min", "max"]
    trials: list[TrialRead]


class WebhookRead(TypedDict):
    """A webhook, without its secret."""

    id: str
    object: Literal["webhook"]
    url: str
    progress: bool
    created_at: str
    failing_since: str | None
    disabled_at: str | None


class WebhookCreated(TypedDict):
    """A new webhook with its secret."""

    id: str
    object: Literal["webhook"]
    url: str
    progress: bool
    created_at: str
    failing_since: str | None
    disabled_at: str | None
    secret: str | None


class WebhookSecret(TypedDict):
    """What signs the messages to addresses of single jobs."""

    secret: str


class WebhookTestRead(TypedDict):
    """What the address answered to a test."""

    delivered: bool
    status_code: int | None
    error: str | None


class DeliveryRead(TypedDict):
    """A message to a webhook, and what became of it."""

    id: str
    type: Literal[
        "job.started",
        "job.progress",
        "job.paused",
        "job.resumed",
        "job.succeeded",
        "job.failed",
        "job.cancelled",
        "webhook.test",
    ]
    job: str
    created_at: str
    tries: int
    next_try_at: str | None
    delivered_at: str | None
    status_code: int | None
    error: str | None
