"""All settings of API, worker and command line: environment variables ``SEXTANT_*``.

Nested groups use ``__``; ``.env`` is read in the working directory; secrets may come from files
in the folder ``SEXTANT_SECRETS_DIR``. An unknown ``SEXTANT_`` variable is an error.
"""

import os
import re
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

QUEUE = re.compile(r"[a-z0-9_.-]{1,64}")
# read before the settings exist, or by the client
FOREIGN = {"SEXTANT_SECRETS_DIR", "SEXTANT_URL", "SEXTANT_KEY"}
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class Settings(BaseSettings):
    """Safe on one machine: loopback only, everything under one state directory."""

    model_config = SettingsConfigDict(
        env_prefix="SEXTANT_",
        env_file=".env",
        env_nested_delimiter="__",
        secrets_dir=os.environ.get("SEXTANT_SECRETS_DIR"),
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # secrets are among the input
    )

    state_dir: Path = Field(
        default=Path("sextant-state"), description="Folder of database, artifacts, runs and keys"
    )
    database_url: str = Field(
        default="", description="SQLAlchemy URL; empty means SQLite in the state directory"
    )
    broker_url: str = Field(
        default="",
        description="redis:// or redis+socket:// URL; empty means that workers poll the database",
    )
    store_url: str = Field(
        default="", description="file:///path or s3://bucket/prefix; empty: in the state directory"
    )
    store_endpoint: str = Field(default="", description="Address of an S3-compatible server")
    store_redirect_s: int = Field(
        default=0,
        ge=0,
        le=604_800,
        description="Seconds for which the signed address in the bucket holds to which downloads "
        "are redirected; 0, and always for a local store: the API sends the bytes",
    )
    bind: str = Field(default="127.0.0.1:8722", description="host:port of the API")
    instance: str = Field(
        default="",
        max_length=64,
        description="Header of /readyz; `sextant up` knows its own API by it",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity of the JSON log lines"
    )

    queues: str = Field(
        default="",
        description="Comma-separated queues that jobs may name besides default, gpu and those "
        "that a live worker serves",
    )
    queue_ageing_s: float = Field(
        default=3600,
        ge=0,
        le=86_400 * 365,
        description="Seconds of waiting that are worth one step of a job's priority, so that none "
        "waits for ever; 0: a higher priority always comes first",
    )

    auth_disabled: bool = Field(
        default=False, description="Accept calls without a key; only on a loopback bind"
    )
    auth_pepper: SecretStr = Field(
        default=SecretStr(""), description="Server secret of key hashes; empty: a 0600 file"
    )
    auth_metrics: bool = Field(default=False, description="Demand a key for GET /metrics")

    upload_limit_bytes: int = Field(
        default=5 * 2**30, gt=0, description="Largest upload of a dataset in bytes"
    )
    upload_timeout_s: int = Field(
        default=600, gt=0, description="Wall seconds a dataset check may take"
    )
    upload_memory_mb: int = Field(
        default=4096, ge=256, description="Address space of a dataset check in MiB"
    )
    body_limit_bytes: int = Field(
        default=2**20, gt=0, description="Largest JSON request body in bytes"
    )

    lease_s: float = Field(default=30, gt=0, description="Seconds a worker owns a run unrenewed")
    lease_renew_s: float = Field(default=5, gt=0, description="Seconds between renewals")
    lease_stop_s: float = Field(
        default=20, gt=0, description="Seconds without a renewal after which a child must stop"
    )
    lease_kill_s: float = Field(
        default=25, gt=0, description="Seconds without a renewal after which a child is killed"
    )

    worker_slots: int = Field(default=1, ge=1, le=64, description="Runs at once in one worker")
    worker_queues: str = Field(
        default="", description="Comma-separated queues; empty: default, and gpu where GPUs are"
    )
    worker_gpus: str = Field(
        default="auto", description="auto, none, or comma-separated GPU UUIDs this worker may use"
    )
    worker_tick_s: float = Field(
        default=1, gt=0, description="Seconds between looks at a child's limits"
    )
    worker_dispatch_s: float = Field(
        default=5, gt=0, description="Seconds between passes of the dispatcher"
    )
    worker_poll_s: float = Field(
        default=1, gt=0, description="Seconds between looks into the database without a broker"
    )
    worker_drain_after_s: float = Field(
        default=0,
        ge=0,
        description="Seconds after its start at which a worker shuts down as by SIGTERM, its runs "
        "saved and queued again; 0: never",
    )
    worker_leave_idle_s: float = Field(
        default=0, ge=0, description="Seconds without work after which a worker leaves; 0: never"
    )
    worker_stop_s: float = Field(
        default=10, gt=0, description="Seconds for a child to stop without saving"
    )
    worker_save_s: float = Field(
        default=60, gt=0, description="Seconds for a child to stop and save a checkpoint"
    )
    worker_shutdown_s: float = Field(
        default=30, gt=0, description="The same, while the worker itself shuts down"
    )
    worker_term_s: float = Field(default=5, gt=0, description="Seconds from SIGTERM to SIGKILL")
    worker_checkpoint_s: float = Field(
        default=60, ge=0, description="Seconds between the checkpoints of a run"
    )
    worker_backoff_s: float = Field(
        default=10, ge=0, description="Wait after a first lost run; doubles up to 300 s"
    )
    worker_log_limit_bytes: int = Field(
        default=100 * 2**20, ge=4096, description="Largest log of one run; head and tail are kept"
    )
    worker_memory_mb: int = Field(
        default=0,
        ge=0,
        description="Address-space limit of each process of a run without GPUs in MiB; 0: none",
    )
    worker_file_limit_bytes: int = Field(
        default=8 * 2**30, ge=0, description="Largest file that a child may write; 0: no limit"
    )
    worker_archive_entries: int = Field(
        default=100_000,
        ge=1,
        description="Files that an uploaded zip may hold; 1 kB of memory a file",
    )
    worker_archive_bytes: int = Field(
        default=20 * 2**30,
        ge=1,
        description="Bytes that an uploaded zip or parquet file may inflate to; a tar has no limit",
    )
    worker_confined: bool = Field(
        default=True, description="Linux: children reach only what they need (SECURITY.md)"
    )
    worker_network: bool = Field(
        default=False, description="Let children reach the network; those of several GPUs always do"
    )
    worker_command: str = Field(
        default="", description="Command instead of `python -m models` (tests use a stub)"
    )

    predict_nets: int = Field(
        default=2,
        ge=0,
        le=64,
        description="Nets that a worker keeps loaded to answer predictions at once, each in a "
        "process of its own; 0: none, and always without a broker",
    )
    predict_memory_mb: int = Field(
        default=4096,
        ge=256,
        description="Resident memory in MiB of all of them together; beyond it the least recently "
        "asked one goes",
    )
    predict_idle_s: float = Field(
        default=600, gt=0, description="Seconds without a question after which a net is dropped"
    )
    predict_wait_s: float = Field(
        default=30,
        gt=0,
        le=300,
        description="Seconds that a prediction may take before it is answered 202 as a job",
    )

    webhook_private: bool = Field(
        default=False,
        description="Let webhooks call http and private addresses; for development",
    )

    limits_queued_jobs: int | None = Field(
        default=None,
        ge=0,
        description="Queued jobs of one tenant; unset: 1,000, on a loopback bind no limit",
    )
    limits_writes: int | None = Field(
        default=None,
        ge=0,
        description="POST, PUT and DELETE a minute of one key; unset: 600, on a loopback bind no "
        "limit",
    )
    limits_reads: int | None = Field(
        default=None,
        ge=0,
        description="GET and HEAD a minute of one key; unset: 6,000, on a loopback bind no limit",
    )

    quota_events: int = Field(
        default=10_000,
        ge=1,
        description="Events of one run at full speed (a long one counts by KiB); then 50 a second",
    )
    quota_metrics: int = Field(
        default=1_000_000,
        ge=1,
        description="Metric values of one run at full speed; then 1,000 a second",
    )
    quota_artifacts: int = Field(
        default=10_000, ge=1, description="Files of one run at full speed; then 10 a second"
    )

    retention_idempotency_h: float = Field(
        default=24, gt=0, description="Hours for which a POST's first answer is repeated"
    )
    retention_pending_h: float = Field(
        default=1, gt=0, description="Hours after which an unfinished upload is collected"
    )
    retention_checkpoints: int = Field(
        default=2, ge=1, description="Newest checkpoints of a job kept beside the best one"
    )
    retention_jobs_d: float = Field(
        default=0, ge=0, description="Days after its end at which a job is deleted; 0: never"
    )
    retention_events_d: float = Field(
        default=0, ge=0, description="The same for the events of a job that is kept; 0: never"
    )
    retention_metrics_d: float = Field(
        default=0, ge=0, description="The same for the metrics of a job that is kept; 0: never"
    )
    retention_artifacts_d: float = Field(
        default=0,
        ge=0,
        description="The same for the files of a job that is kept, but those that a waiting job "
        "needs or a model has as a version; 0: never",
    )
    retention_uploads_d: float = Field(
        default=0,
        ge=0,
        description="Days after which a dataset that was never finalized is deleted; 0: never",
    )

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, bind: str) -> str:
        host, _, port = bind.rpartition(":")
        if not _is_host(host) or not (port.isascii() and port.isdecimal() and int(port) < 65536):
            raise ValueError(
                f"{bind!r} is no host:port with a port of 0 to 65535, "
                "such as 127.0.0.1:8722, 0.0.0.0:8722 or [::1]:8722"
            )
        return bind

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.lease_renew_s < self.lease_stop_s < self.lease_kill_s < self.lease_s:
            raise ValueError(
                f"SEXTANT_LEASE_RENEW_S {self.lease_renew_s:g} < SEXTANT_LEASE_STOP_S "
                f"{self.lease_stop_s:g} < SEXTANT_LEASE_KILL_S {self.lease_kill_s:g} < "
                f"SEXTANT_LEASE_S {self.lease_s:g} must hold"
            )
        if self.auth_disabled and not _loopback(self.bind):
            raise ValueError(
                f"SEXTANT_AUTH_DISABLED needs a loopback SEXTANT_BIND, not {self.bind}"
            )
        return self

    @field_validator("queues", "worker_queues")
    @classmethod
    def _check_queues(cls, value: str) -> str:
        if wrong := [name for name in _split(value) if not QUEUE.fullmatch(name)]:
            raise ValueError(f"queues {wrong}: use 1 to 64 of a-z, 0-9, '_', '.' and '-'")
        return value

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues that the operator named."""
        return _split(self.queues)

    @property
    def worker_queue_names(self) -> tuple[str, ...]:
        """The queues that this worker serves; none where that depends on its GPUs."""
        return _split(self.worker_queues)

    @property
    def queued_jobs_limit(self) -> int | None:
        """Queued jobs of a tenant without a quota of its own; None is no limit."""
        return self._unless_loopback(self.limits_queued_jobs, 1000)

    @property
    def writes_limit(self) -> int | None:
        """Writes a minute of a key, likewise."""
        return self._unless_loopback(self.limits_writes, 600)

    @property
    def reads_limit(self) -> int | None:
        """Reads a minute of a key, likewise."""
        return self._unless_loopback(self.limits_reads, 6000)

    def _unless_loopback(self, given: int | None, default: int) -> int | None:
        """What was set, else the default where others can reach the port."""
        return default if given is None and not _loopback(self.bind) else given

    @property
    def heartbeat_limit_s(self) -> float:
        """Seconds without a heartbeat after which a worker counts as gone."""
        return max(3 * self.worker_dispatch_s, self.lease_s)

    @property
    def database(self) -> str:
        """SQLAlchemy URL with the default filled in."""
        return self.database_url or f"sqlite:///{self.state_dir.resolve() / 'sextant.db'}"

    @property
    def store(self) -> str:
        """URL of the artifact store with the default filled in."""
        return self.store_url or (self.state_dir.resolve() / "store").as_uri()

    @property
    def host(self) -> str:
        """Host part of ``bind``."""
        return self.bind.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of ``bind``."""
        return int(self.bind.rpartition(":")[2])


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _is_host(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return HOST_NAME.fullmatch(host) is not None
    return True


def _loopback(bind: str) -> bool:
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unknown_variables() -> list[str]:
    """``SEXTANT_`` variables of the environment that no setting reads."""
    known = {f"SEXTANT_{name.upper()}" for name in Settings.model_fields} | FOREIGN
    return sorted(name for name in os.environ if name.startswith("SEXTANT_") and name not in known)


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        ValueError: with a line for each wrong value, or for unknown ``SEXTANT_`` variables.
    """
    if unknown := unknown_variables():
        raise ValueError(f"unknown settings {', '.join(unknown)}; `sextant config check` lists all")
    try:
        return Settings()
    except SettingsError as error:
        raise ValueError(f"SEXTANT_SECRETS_DIR: {error}") from None
    except ValidationError as error:
        listed = error.errors(include_url=False, include_context=False, include_input=False)
        # the original would show its input, secrets included, in a traceback
        raise ValueError("\n".join(map(_explain, listed))) from None


def _explain(error: Mapping[str, Any]) -> str:
    """``SEXTANT_NAME: reason``; what is wrong between settings names them itself."""
    reason = error["msg"].removeprefix("Value error, ")
    return ": ".join([*(f"SEXTANT_{str(name).upper()}" for name in error["loc"]), reason])
