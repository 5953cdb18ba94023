"""All tables. SQL is the only truth of the service; see ARCHITECTURE.md for who writes what."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import uuid_utils
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    TypeDecorator,
    literal,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class JobStatus(StrEnum):
    """The status of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
STATUS_REASONS = ("starting", "cancelling", "backoff")
ARTIFACT_STATUSES = ("pending", "ready", "deleted")
LISTED = "deleted_at IS NULL"
SWEEP_STATUSES = ("running", "finished", "failed", "cancelled")
DATASET_STATUSES = ("uploading", "checking", "ready", "failed")


def new_id(prefix: str) -> str:
    """A new id such as ``job_019a...``: sortable by creation time (UUIDv7)."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def utc_now() -> datetime:
    """The time of this process; leases use the clock of the database instead."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps no zone, so it is restored on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without zone: {value}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StatusColumn(TypeDecorator[JobStatus]):
    """A job's status as text; nothing else gets into the column."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: JobStatus | None, dialect: Dialect) -> str | None:
        """Store the value, not the member."""
        return None if value is None else JobStatus(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> JobStatus | None:
        """Restore the member."""
        return None if value is None else JobStatus(value)


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def _only(condition: str) -> dict[str, Any]:
    """Keywords of an index over the rows that meet a condition; queries must say it literally."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Base(DeclarativeBase):
    """Declarative base with names for every constraint, so that migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime,
        JobStatus: StatusColumn,
        dict[str, Any]: Json,
        list[Any]: Json,
        str: String(),
    }


class Tenant(Base):
    """An owner of rows."""

    __tablename__ = "tenants"
    __table_args__ = (Index("uq_tenants_name", "name", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    quotas: Mapped[dict[str, Any]] = mapped_column(default=dict)
    disabled_at: Mapped[datetime | None]


class ApiKey(Base):
    """A caller's key; only its keyed hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    key_hash: Mapped[str]
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Job(Base):
    """What a user asked for. ``status`` is written by ``services.lifecycle.transition`` alone."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("status", tuple(JobStatus)),
        _one_of("status_reason", STATUS_REASONS),
        # lists; each ends with the id, so that a page is read in its order
        Index("ix_jobs_list", "tenant_id", "id", **_only(f"{LISTED} AND hidden_at IS NULL")),
        Index("ix_jobs_hidden", "tenant_id", "id", **_only(f"{LISTED} AND hidden_at IS NOT NULL")),
        Index("ix_jobs_list_status", "tenant_id", "status", "id", **_only(LISTED)),
        Index("ix_jobs_list_kind", "tenant_id", "kind", "status", "id", **_only(LISTED)),
        Index("ix_jobs_list_method", "tenant_id", "method", "status", "id", **_only(LISTED)),
        Index("ix_jobs_list_name", "tenant_id", "name", "status", "id", **_only(LISTED)),
        # the queue: in line, not yet due, waiting too long, longest waiting
        Index(
            "ix_jobs_claim",
            "queue",
            "line_at",
            "id",
            "device",
            "gpus",
            "tenant_id",
            **_only(
                "status = 'queued' AND not_before IS NULL AND waiting_since IS NULL "
                "AND paused_at IS NULL"
            ),
        ),
        Index("ix_jobs_due", "not_before", **_only("status = 'queued' AND not_before IS NOT NULL")),
        Index(
            "ix_jobs_queue_timeout",
            "queue_timeout_at",
            **_only("status = 'queued' AND queue_timeout_at IS NOT NULL"),
        ),
        Index(
            "ix_jobs_queued_at",
            "queued_at",
            **_only("status = 'queued' AND waiting_since IS NULL"),
        ),
        Index("ix_jobs_queued", "tenant_id", **_only("status = 'queued'")),  # counted for a quota
        # not the lease itself: a renewal would have to write every index of its row
        Index("ix_jobs_running", "id", **_only("status = 'running'")),
        Index(
            "ix_jobs_finished",
            "finished_at",
            "id",
            **_only("finished_at IS NOT NULL AND deleted_at IS NULL"),
        ),
        Index("ix_jobs_deleted", "deleted_at", **_only("deleted_at IS NOT NULL")),
        Index(
            "uq_jobs_sweep",
            "sweep_id",
            "sweep_place",
            unique=True,
            **_only("sweep_id IS NOT NULL"),
        ),
        Index(
            "ix_jobs_sweep_open",
            "sweep_id",
            **_only("sweep_id IS NOT NULL AND finished_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    method: Mapped[str]
    name: Mapped[str | None]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    notes: Mapped[str | None]
    spec: Mapped[dict[str, Any]]
    resolved_spec: Mapped[dict[str, Any]]
    resources: Mapped[dict[str, Any]]
    limits: Mapped[dict[str, Any]]
    device: Mapped[str] = mapped_column(default="auto")
    gpus: Mapped[int] = mapped_column(default=0)
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(default=5)
    line_at: Mapped[datetime | None] = mapped_column(default=utc_now)  # see lifecycle.line_at
    parent_job_id: Mapped[str | None] = mapped_column(index=True)
    depends_on: Mapped[list[Any]] = mapped_column(default=list)  # ids of jobs, also final ones
    on_dependency_failure: Mapped[str] = mapped_column(default="fail")
    sweep_id: Mapped[str | None]
    webhook_id: Mapped[str | None]  # of the webhook that is told of this job alone
    traceparent: Mapped[str | None]  # of the span of its request, where requests are traced
    sweep_place: Mapped[int | None]  # 0, 1, ...: trial by trial, in each seed by seed

    status: Mapped[JobStatus] = mapped_column(default=JobStatus.QUEUED)
    status_reason: Mapped[str | None]
    run_number: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    event_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # null once it is in line, see lifecycle.release
    requested_not_before: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]  # set while it is held, or runs and is to be held
    waiting_since: Mapped[datetime | None]  # for jobs it depends on; null once they have succeeded
    queue_timeout_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_mode: Mapped[str | None]
    cancel_save: Mapped[bool] = mapped_column(default=True)

    progress: Mapped[dict[str, Any] | None] = mapped_column(Json)
    estimate: Mapped[dict[str, Any] | None] = mapped_column(Json)
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    lineage: Mapped[dict[str, Any]] = mapped_column(default=dict)

    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    queued_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    hidden_at: Mapped[datetime | None]  # lists leave it out from then on
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    deleted_at: Mapped[datetime | None]


def has_status(status: JobStatus) -> ColumnElement[bool]:
    """Jobs of a status that stands in the text of the statement: partial indexes serve it."""
    return Job.status == literal(status.value, literal_execute=True)


class JobLabel(Base):
    """An entry of a job's metadata, so that an index answers a filter by it and the status."""

    __tablename__ = "job_labels"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "name"),
        Index(None, "tenant_id", "name", "value", "status", "job_id"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    name: Mapped[str]
    tenant_id: Mapped[str]
    value: Mapped[str]
    status: Mapped[JobStatus] = mapped_column(server_default=JobStatus.QUEUED)


class Run(Base):
    """One execution of a job by a worker, numbered from 1."""

    __tablename__ = "runs"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "number"),
        Index(None, "tenant_id", "ended_at"),
        Index("ix_runs_open", "host", **_only("ended_at IS NULL")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    tenant_id: Mapped[str]
    worker_id: Mapped[str] = mapped_column(index=True)
    host: Mapped[str]
    boot_id: Mapped[str]
    pid: Mapped[int | None]
    pgid: Mapped[int | None]
    pid_started_at: Mapped[float | None]
    devices: Mapped[list[Any]] = mapped_column(default=list)
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    peak_rss_mb: Mapped[float | None]
    peak_gpu_mb: Mapped[float | None]


class JobInput(Base):
    """A reference of a job's resolved spec: what it names is held until the job is final."""

    __tablename__ = "job_inputs"
    __table_args__ = (PrimaryKeyConstraint("job_id", "source", "sha256"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    source: Mapped[str] = mapped_column(index=True)  # id of a job, id or name of a dataset
    sha256: Mapped[str]


class JobDependency(Base):
    """A job that another waits for; ``services.dependencies`` removes the row once it is final.

    No foreign key to the source: were its row gone, the job that waits must learn of it.
    """

    __tablename__ = "job_dependencies"
    __table_args__ = (PrimaryKeyConstraint("job_id", "source_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    source_id: Mapped[str] = mapped_column(index=True)
    tenant_id: Mapped[str]


class Event(Base):
    """An immutable fact of a job, ordered by ``seq`` = 1, 2, 3, ... without gaps."""

    __tablename__ = "events"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "seq"),
        Index("ix_events_feed", "tenant_id", "position", **_only("position IS NOT NULL")),
        Index(
            "ix_events_feed_status",
            "tenant_id",
            "position",
            **_only("position IS NOT NULL AND type = 'status'"),
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    seq: Mapped[int] = mapped_column(BigInteger)
    tenant_id: Mapped[str]
    run_number: Mapped[int | None]
    type: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=utc_now)
    data: Mapped[dict[str, Any]]
    position: Mapped[int | None] = mapped_column(BigInteger)  # in the feed; null before 0012


class Feed(Base):
    """The position of a tenant's newest event; ``services.feed`` alone writes it.

    No column of the tenant: its row is locked early in a transaction, this one last.
    """

    __tablename__ = "feeds"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)


class Metric(Base):
    """A named number at a step. A later run's value at the same step wins when read."""

    __tablename__ = "metrics"
    __table_args__ = (
        PrimaryKeyConstraint("job_id", "name", "step", "run_number"),
        {"sqlite_with_rowid": False},  # rows lie in the order in which series are read
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    name: Mapped[str]
    step: Mapped[int] = mapped_column(BigInteger)
    run_number: Mapped[int]
    tenant_id: Mapped[str]
    at: Mapped[datetime]
    value: Mapped[float | None]
    non_finite: Mapped[str | None]


class Artifact(Base):
    """An immutable file of a run; ``ready`` once its bytes are stored and checked."""

    __tablename__ = "artifacts"
    __table_args__ = (
        _one_of("status", ARTIFACT_STATUSES),
        Index(
            "uq_artifacts_ready",
            "job_id",
            "name",
            unique=True,
            sqlite_where=text("status = 'ready'"),
            postgresql_where=text("status = 'ready'"),
        ),
        Index(None, "status", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    job_id: Mapped[str] = mapped_column(index=True)
    run_number: Mapped[int]
    role: Mapped[str]
    name: Mapped[str]
    step: Mapped[int | None] = mapped_column(BigInteger)
    storage_key: Mapped[str] = mapped_column(index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    sha256: Mapped[str | None]
    media_type: Mapped[str]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    status: Mapped[str] = mapped_column(default="pending")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Dataset(Base):
    """Uploaded immutable data; built-in sets have no row."""

    __tablename__ = "datasets"
    __table_args__ = (
        _one_of("status", DATASET_STATUSES),
        Index(
            "uq_datasets_name",
            "tenant_id",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(None, "status", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    format: Mapped[str]
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    status: Mapped[str] = mapped_column(default="uploading")
    storage_key: Mapped[str | None] = mapped_column(index=True)
    sha256: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    contents: Mapped[dict[str, Any] | None] = mapped_column(Json)
    preview: Mapped[bytes | None] = mapped_column(deferred=True)  # JPEG, at most 128 KiB
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    deleted_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """The first answer to a POST, repeated for the same key; written in that POST's transaction."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "key"),)

    tenant_id: Mapped[str]
    key: Mapped[str]
    request_hash: Mapped[str]
    resource_id: Mapped[str | None]
    status_code: Mapped[int]
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    body: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Sweep(Base):
    """Many jobs of one spec; ``services.sweeps`` makes them a few at a time."""

    __tablename__ = "sweeps"
    __table_args__ = (
        _one_of("status", SWEEP_STATUSES),
        Index(None, "tenant_id", "id"),
        Index("ix_sweeps_running", "tenant_id", **_only("status = 'running'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str | None]
    kind: Mapped[str]
    request: Mapped[dict[str, Any]]
    trials: Mapped[list[Any]]  # values by field
    status: Mapped[str] = mapped_column(default="running")
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    made: Mapped[int] = mapped_column(default=0)  # jobs submitted so far
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]


class RegisteredModel(Base):
    """A name for trained nets that outlives their jobs."""

    __tablename__ = "models"
    __table_args__ = (
        Index("uq_models_name", "tenant_id", "name", unique=True),
        Index(None, "tenant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    description: Mapped[str | None]
    labels: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    numbered: Mapped[int] = mapped_column(default=0)  # the highest number that a version ever had
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersion(Base):
    """A file of a final job under a number of a model; it holds the job and the file."""

    __tablename__ = "model_versions"
    __table_args__ = (Index("uq_model_versions_number", "model_id", "number", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    number: Mapped[int]
    tenant_id: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    artifact: Mapped[str]  # its name
    role: Mapped[str]
    kind: Mapped[str]  # of the job
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelAlias(Base):
    """A name such as ``production`` that is moved from version to version."""

    __tablename__ = "model_aliases"
    __table_args__ = (PrimaryKeyConstraint("model_id", "name"),)

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    name: Mapped[str]
    number: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Webhook(Base):
    """An address that is told of a tenant's jobs; its secret is derived, never stored."""

    __tablename__ = "webhooks"
    __table_args__ = (
        Index("ix_webhooks_tenant_id", "tenant_id", **_only("job_id IS NULL")),
        Index("ix_webhooks_job_id", "job_id", **_only("job_id IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str | None]  # of a webhook that is told of this job alone
    url: Mapped[str]
    progress: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """A message that is to be sent, written in the transaction of the event it tells of."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(None, "webhook_id", "id"),
        Index("ix_webhook_deliveries_due", "next_try_at", **_only("next_try_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    tenant_id: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    seq: Mapped[int] = mapped_column(BigInteger)  # of the event
    type: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]  # null once it arrived or was given up
    delivered_at: Mapped[datetime | None]
    status_code: Mapped[int | None]
    error: Mapped[str | None]


class RunTiming(Base):
    """The work and wall seconds of a run that succeeded; the newest of each sort are kept."""

    __tablename__ = "timings"
    __table_args__ = (Index(None, "kind", "work_unit", "device", "at"),)

    job_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    device: Mapped[str]
    work_unit: Mapped[str]
    work: Mapped[float]
    seconds: Mapped[float]
    at: Mapped[datetime]


class Worker(Base):
    """A worker process and its heartbeat."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    boot_id: Mapped[str]
    pid: Mapped[int]
    queues: Mapped[list[Any]]
    gpus: Mapped[list[Any]] = mapped_column(default=list)
    slots: Mapped[int]
    slots_free: Mapped[int]
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    draining: Mapped[bool] = mapped_column(default=False)
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    heartbeat_at: Mapped[datetime] = mapped_column(default=utc_now)
    dispatcher_at: Mapped[datetime | None]


class Counter(Base):
    """A summand of a number that is too dear to count anew; see ``services.counters``."""

    __tablename__ = "counters"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    name: Mapped[str]
    labels: Mapped[str]  # joined by spaces
    value: Mapped[int] = mapped_column(BigInteger)


class Chore(Base):
    """Work that one of all workers does now and then, under a lease; see ``services.chores``."""

    __tablename__ = "chores"

    name: Mapped[str] = mapped_column(primary_key=True)
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
    position: Mapped[dict[str, Any] | None] = mapped_column(Json)  # how far it has come


class StateSize(Base):
    """How large the state was at a time."""

    __tablename__ = "state_sizes"

    at: Mapped[datetime] = mapped_column(primary_key=True)
    database_bytes: Mapped[int] = mapped_column(BigInteger)
    artifact_bytes: Mapped[int] = mapped_column(BigInteger)
    jobs: Mapped[int] = mapped_column(BigInteger)
