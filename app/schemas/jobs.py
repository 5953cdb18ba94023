"""Bodies of jobs: what a user sends, what the service answers."""

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import inspect

from app.db.tables import Job, JobStatus
from app.schemas.errors import JobError
from app.schemas.page import Body, CallUrl, Cursor, Limit, Params, Time
from models.catalog import JobSpec
from models.core.spec import Estimate, Int

StatusReason = Literal[
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
Device = Literal["auto", "cpu", "cuda"]
Queue = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")]
LABEL_CHARS = 512
LABEL_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
Label = Annotated[str, StringConstraints(max_length=LABEL_CHARS)]
LabelName = Annotated[str, StringConstraints(pattern=LABEL_NAME)]
MAX_NAME = 120  # characters of a job's name
MAX_LABELS = 16
NOTES_CHARS = 20_000
MAX_SOURCES = 64
SourceId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-f]{32}$")]
OnFailure = Literal["fail", "cancel"]
EXCERPT_CHARS = 80
LABEL_FILTER = "metadata."


class Resources(Body):
    """What a run may use."""

    device: Device = Field(default="auto", description="auto: a GPU where the worker has one")
    gpus: Int | None = Field(default=None, ge=0, le=8, description="GPUs; null: by the device")
    cpus: Int | None = Field(
        default=None, ge=1, le=1024, description="CPU cores; null: the worker's share"
    )
    memory_mb: Int | None = Field(
        default=None, ge=64, le=2**24, description="Resident memory in MiB; null: no limit"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.device == "cpu" and self.gpus:
            raise ValueError(f"device cpu with gpus {self.gpus}; use device cuda or gpus 0")
        if self.device == "cuda" and self.gpus == 0:
            raise ValueError("device cuda with gpus 0; use device cpu or gpus 1 to 8")
        return self


class Limits(Body):
    """When the service gives a job up."""

    timeout_s: Int = Field(default=86_400, ge=1, le=2_592_000, description="Seconds a run may take")
    queue_timeout_s: Int | None = Field(
        default=None, ge=1, le=2_592_000, description="Seconds a job may wait; null: for ever"
    )
    max_runs: Int = Field(
        default=3,
        ge=1,
        le=10,
        description="Runs after which a lost job fails instead of requeueing",
    )


class JobOptions(Body):
    """How a job is carried out, whatever it does."""

    name: str | None = Field(default=None, max_length=MAX_NAME, description="For people; any text")
    metadata: dict[LabelName, Label] = Field(
        default={}, max_length=MAX_LABELS, description="Labels to filter lists by"
    )
    queue: Queue | None = Field(
        default=None, description="Queue; null: gpu where a GPU is asked for, else the kind's own"
    )
    priority: Int = Field(
        default=5,
        ge=0,
        le=9,
        description="9 is the most urgent; a step is worth SEXTANT_QUEUE_AGEING_S of waiting",
    )
    not_before: Time | None = Field(default=None, description="Earliest start")
    depends_on: list[SourceId] = Field(
        default=[],
        max_length=MAX_SOURCES,
        description="Jobs that must succeed before this one starts; those whose files the spec "
        "names before they are made are waited for without being listed",
    )
    on_dependency_failure: OnFailure = Field(
        default="fail",
        description="What becomes of this job when one it depends on fails or is cancelled",
    )
    resources: Resources = Resources()
    limits: Limits = Limits()
    webhook: CallUrl | None = Field(
        default=None,
        description="Address that is told of this job alone: its starts, pauses and end; "
        "GET /v1/webhook-secret gives the secret of the signatures",
    )


class JobCreate(JobOptions):
    """A job to carry out: a spec, and how."""

    spec: JobSpec = Field(description="What to do; `kind` decides the other fields")

    @model_validator(mode="before")
    @classmethod
    def _no_bare_spec(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and "kind" in sent and "spec" not in sent:
            raise ValueError('this is a bare spec; wrap it in spec: {"spec": {"kind": ..., ...}}')
        return sent


class JobPatch(Body):
    """What may be changed of a job at any time; a field left out stays as it is."""

    name: str | None = Field(default=None, max_length=MAX_NAME, description="null removes it")
    metadata: dict[LabelName, Label | None] = Field(
        default={},
        max_length=2 * MAX_LABELS,
        description="Merged into the labels there are; null removes one",
    )
    notes: str | None = Field(
        default=None, max_length=NOTES_CHARS, description="For people; any text. null removes it"
    )
    hidden: bool = Field(
        default=False,
        description="true: lists leave the job out unless asked for it; it is there none the "
        "less, and goes on. false: they show it again",
    )


class JobFilters(Params):
    """Which jobs to list. Besides, `metadata.<key>=<value>` keeps jobs with that label."""

    model_config = ConfigDict(extra="allow")

    status: list[JobStatus] = Field(default=[], max_length=5, description="Repeatable")
    kind: str | None = Field(default=None, max_length=64)
    method: str | None = Field(default=None, max_length=64, description="Part left of the dot")
    name: str | None = Field(default=None, max_length=MAX_NAME, description="Exact name")
    search: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME,
        description="Part of the name, in any case; or what the id begins with (a text of job_ "
        "and eight hexadecimal digits or more is that alone)",
    )
    parent: str | None = Field(default=None, max_length=64, description="Id of the job retried")
    sweep: str | None = Field(default=None, max_length=64, description="Id of its sweep")
    hidden: bool = Field(
        default=False, description="true: those alone that were hidden; false: all others"
    )
    created_after: Time | None = None
    created_before: Time | None = None
    order: Literal["-created_at", "created_at"] = "-created_at"
    limit: Limit = 50
    cursor: Cursor | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The metadata filters: label by name."""
        extra = self.model_extra or {}
        return {name.removeprefix(LABEL_FILTER): str(value) for name, value in extra.items()}

    @model_validator(mode="after")
    def _labels_only(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            _check_label_filter(name, value, type(self).model_fields)
        if len(self.labels) > MAX_LABELS:
            raise ValueError(f"{len(self.labels)} labels; a job has at most {MAX_LABELS}")
        return self


def _check_label_filter(name: str, value: Any, fields: Iterable[str]) -> None:
    if not name.startswith(LABEL_FILTER):
        allowed = ", ".join([*fields, f"{LABEL_FILTER}<key>"])
        raise ValueError(f"unknown filter {name[:EXCERPT_CHARS]!r}; there are {allowed}")
    if not re.fullmatch(LABEL_NAME, name.removeprefix(LABEL_FILTER)):
        raise ValueError(
            f"{name[:EXCERPT_CHARS]!r} names no label: 1 to 64 letters, digits, '_', '.' and '-'"
        )
    if not isinstance(value, str):
        raise ValueError(f"{name} comes {len(value)} times; give it once")  # noqa: TRY004  # of pydantic
    if len(value) > LABEL_CHARS:
        raise ValueError(f"{name} has {len(value)} characters; a label has at most {LABEL_CHARS}")


class Links(BaseModel):
    """Addresses of a job and its parts."""

    self: str
    events: str
    metrics: str
    logs: str
    artifacts: str


class WorkerRead(BaseModel):
    """Who carries a job out."""

    id: str
    host: str
    device: Literal["cpu", "cuda"]


class Progress(BaseModel):
    """How far a run is."""

    model_config = ConfigDict(extra="allow")

    fraction: float | None = Field(default=None, description="0 to 1")
    step: int | None = None
    total_steps: int | None = None
    epoch: int | None = None
    phase: str | None = None
    rate: float | None = Field(default=None, description="In rate_unit, mean over 30 s")
    rate_unit: str | None = None
    eta_s: float | None = Field(default=None, description="Seconds left; null until known")
    updated_at: datetime | None = None


class Derived(NamedTuple):
    """What is worked out when a job is read."""

    status_reason: str | None
    queue_position: int | None
    worker: WorkerRead | None


class JobRead(BaseModel):
    """A job as the service answers it."""

    id: str
    object: Literal["job"] = "job"
    kind: str
    method: str
    name: str | None
    metadata: dict[str, str]
    notes: str | None
    spec: dict[str, Any] = Field(description="As it was sent")
    resolved_spec: dict[str, Any] = Field(description="With defaults and digests filled in")
    resources: dict[str, Any]
    limits: Limits
    queue: str
    priority: int
    parent_job_id: str | None
    depends_on: list[str] = Field(description="Jobs that must succeed, or had to, before it")
    on_dependency_failure: OnFailure
    sweep_id: str | None
    webhook_id: str | None = Field(description="Of the webhook that is told of this job alone")
    etag: str = Field(default="", description="The ETag header without its quotes")
    status: JobStatus
    status_reason: StatusReason | None
    run_number: int
    queue_position: int | None = Field(description="1 is next; null beyond 1,000")
    not_before: datetime | None = Field(description="Earliest start, as it was asked for")
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    cancel_requested_at: datetime | None
    paused_at: datetime | None = Field(
        description="Since when it is paused, or is asked to stop for it"
    )
    hidden_at: datetime | None = Field(description="Since when lists leave it out")
    worker: WorkerRead | None
    progress: Progress | None
    estimate: dict[str, Any] | None
    result: dict[str, Any] | None
    error: JobError | None
    lineage: dict[str, Any]
    links: Links

    @classmethod
    def of(cls, job: Job, derived: Derived) -> Self:
        """The answer for a row; the ETag is a digest of everything else in it."""
        loaded = inspect(job).dict  # past the descriptors, for fifty jobs a page
        columns = {
            name: loaded[name] if name in loaded else getattr(job, name) for name in _COLUMNS
        }
        others = {
            "metadata": job.labels,
            "not_before": job.requested_not_before,
            "links": links(job.id),
            **derived._asdict(),
        }
        read = cls.model_validate(columns | others)
        # sorted: PostgreSQL does not keep the order of names; without what never changes
        changing = read.model_dump(mode="json", exclude={"spec", "resolved_spec"})
        text = json.dumps(changing, sort_keys=True)
        read.etag = hashlib.sha256(text.encode()).hexdigest()[:24]
        return read


_COLUMNS = (JobRead.model_fields.keys() & set(inspect(Job).column_attrs.keys())) - {"status_reason"}


def links(job_id: str) -> Links:
    """Addresses of a job and its parts."""
    job = f"/v1/jobs/{job_id}"
    parts = {name: f"{job}/{name}" for name in Links.model_fields if name != "self"}
    return Links(self=job, **parts)


class CostRead(Estimate):
    """What a job will cost, and how long runs like it took."""

    seconds: float | None = Field(description="Wall seconds of its run; null where nobody knows")
    interval_s: tuple[float, float] | None = Field(
        description="From the least to the most it should be; at least a factor 2 on either side"
    )
    device: str = Field(description="On which they are: cpu, or the name of a GPU")
    runs: int = Field(
        description="Runs measured here; 0: the rates that come with the release, of two CPU cores"
    )
    no_seconds: str | None = Field(description="Why seconds is null")


class DryRun(BaseModel):
    """What a job would be, had it been stored."""

    estimate: CostRead
    resolved_spec: dict[str, Any]
    queue: str
    warnings: list[str]


class CancelRequest(Body):
    """How to stop a job."""

    mode: Literal["graceful", "kill"] = Field(
        default="graceful", description="graceful: at the next step; kill: at once"
    )
    save_checkpoint: bool = Field(default=True, description="Leave a checkpoint to retry from")


class RetryRequest(Body):
    """A new job from a final one."""

    from_: Literal["latest", "best", "scratch"] | Int = Field(
        default="latest",
        alias="from",
        description="Checkpoint to go on from: latest, best, or the one of a step; or scratch",
    )
    overrides: dict[str, Any] = Field(
        default={}, description="Merged into the spec as it was sent; null removes a field"
    )


class RunRead(BaseModel):
    """One execution of a job."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    worker_id: str
    host: str
    devices: list[str] = Field(description="GPU UUIDs; empty on a CPU")
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    exit_code: int | None
    signal: int | None
    peak_rss_mb: float | None
    peak_gpu_mb: float | None
