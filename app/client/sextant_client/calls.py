"""The calls of the service, one method each, written once for both clients."""

from __future__ import annotations  # so that help() names types in short

from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Unpack, overload

from pydantic import BaseModel

from sextant_client import download, loading, stream, upload, waiting
from sextant_client.answers import (
    ArtifactRead,
    ComparisonRead,
    DatasetRead,
    DryRun,
    FeedPage,
    JobRead,
    KeyCreated,
    KeyRead,
    KindRead,
    LiveWorker,
    QueueRead,
    Ready,
    UsageRead,
)
from sextant_client.asking import create, json_of, listing, nothing, pages, text_of
from sextant_client.calling import Awaiting, Blocking, Call, Stream
from sextant_client.errors import ApiError
from sextant_client.flow import Emits, Flow, Progress, Request
from sextant_client.job import JobCall, JobStream
from sextant_client.registry import RegistryCalls
from sextant_client.requests import (
    DatasetOptions,
    FeedQuery,
    JobFilters,
    JobOptions,
    JobPatch,
    LogQuery,
    MetricQuery,
)
from sextant_client.series import Metrics, metrics_of
from sextant_client.stream import StreamedEvent
from sextant_client.together import TogetherCalls

FEED_READ_S = 75.0  # it may be asked to wait for 60
SpecLike = BaseModel | Mapping[str, Any]
CancelMode = Literal["graceful", "kill"]
Start = Literal["latest", "best", "scratch"]
Json = Literal["json"]
Lines = Literal["csv", "ndjson"]


class Calls(RegistryCalls, TogetherCalls):
    """What both clients can do. Every call may raise :class:`sextant_client.ApiError`."""

    # -- jobs --------------------------------------------------------------------------------

    @JobCall
    def submit(
        self, spec: SpecLike, *, idempotency_key: str | None = None, **job: Unpack[JobOptions]
    ) -> Flow[JobRead]:
        """Store and queue a job; repeated safely when an answer is lost.

        Args:
            spec: a spec of ``models``, or its JSON with ``kind``.
            idempotency_key: makes several calls one job; a fresh key when None.
            job: other fields of the request: ``name, metadata, queue, priority, not_before,
                depends_on, on_dependency_failure, resources, limits, webhook``.

        Returns:
            The :class:`sextant_client.Job`.
        """
        return create("/v1/jobs", _job(spec, job), idempotency_key)

    @Call
    def dry_run(self, spec: SpecLike, **job: Unpack[JobOptions]) -> Flow[DryRun]:
        """What ``submit`` would do: ``estimate``, ``resolved_spec``, ``warnings``."""
        return json_of(Request("POST", "/v1/jobs", {"dry_run": "true"}, _job(spec, job)))

    @JobCall
    def get(self, job_id: str) -> Flow[JobRead]:
        """The job object as it is now."""
        return json_of(Request("GET", f"/v1/jobs/{job_id}"))

    @JobStream
    def jobs(self, limit: int | None = None, **filters: Unpack[JobFilters]) -> Emits[JobRead]:
        """Jobs, newest first, fetched page by page as they are asked for.

        Args:
            limit: at most so many; all when None.
            filters: ``status, kind, method, name``, ...
        """
        return pages("/v1/jobs", filters, limit)

    @JobCall
    def wait(
        self,
        job_id: str,
        *,
        on_event: Callable[[StreamedEvent], None] | None = None,
        on_progress: Callable[[JobRead], None] | None = None,
        timeout_s: float = float("inf"),
    ) -> Flow[JobRead]:
        """Wait until the job is final.

        Args:
            job_id: which job.
            on_event: is given every event of the job from its first on (``seq, type, data``).
            on_progress: is given the job object whenever status or progress changed.
            timeout_s: how long to wait; the job itself goes on.

        Returns:
            The final job object.

        Raises:
            ApiError: with code ``timeout`` after ``timeout_s``.
        """
        return waiting.wait(job_id, on_event, on_progress, monotonic() + timeout_s)

    @Stream
    def events(self, job_id: str, after: int = 0) -> Emits[StreamedEvent]:
        """Events of the job as they happen, from ``seq`` after+1 to its end."""
        return stream.follow(f"/v1/jobs/{job_id}/events", str(after or ""))

    @Stream
    def all_events(self, after: int = 0, **query: Unpack[FeedQuery]) -> Emits[StreamedEvent]:
        """Events of all jobs as they happen, from a position on; it has no end.

        Args:
            after: the ``seq`` of the last event that is known, which is its position; 0: all.
            query: ``type="status"`` leaves all others out.
        """
        return stream.follow("/v1/events", str(after or ""), **query)

    @Call
    def events_page(self, after: int = 0, **query: Unpack[FeedQuery]) -> Flow[FeedPage]:
        """Events of all jobs behind a position: ``data, has_more, next_after, latest``.

        ``type``, ``limit`` and ``wait_s`` (seconds to wait where there is none yet) narrow it.
        """
        request = Request("GET", "/v1/events", {"after": after, **query}, read_s=FEED_READ_S)
        return json_of(request)

    @overload
    def metrics(
        self: Blocking,
        job_id: str,
        *,
        format: Json = "json",
        **query: Unpack[MetricQuery],
    ) -> Metrics: ...
    @overload
    def metrics(
        self: Awaiting,
        job_id: str,
        *,
        format: Json = "json",
        **query: Unpack[MetricQuery],
    ) -> Coroutine[Any, Any, Metrics]: ...
    @overload
    def metrics(
        self: Blocking, job_id: str, *, format: Lines, **query: Unpack[MetricQuery]
    ) -> str: ...
    @overload
    def metrics(
        self: Awaiting, job_id: str, *, format: Lines, **query: Unpack[MetricQuery]
    ) -> Coroutine[Any, Any, str]: ...
    def metrics(
        self: Any, job_id: str, *, format: str = "json", **query: Unpack[MetricQuery]
    ) -> Any:
        """Series of numbers; ``names, from_step, to_step, max_points`` narrow them.

        ``.to_frame()`` of the answer makes a table. With ``format="csv"`` or ``"ndjson"`` it is
        text, a line a point.
        """
        if format == "json":
            return self._run(metrics_of(job_id, query))
        path = f"/v1/jobs/{job_id}/metrics"
        return self._run(text_of(Request("GET", path, {**query, "format": format})))

    @Call
    def logs(self, job_id: str, **query: Unpack[LogQuery]) -> Flow[str]:
        """Text of the child; ``tail`` (lines) and ``run`` (number) narrow it."""
        return text_of(Request("GET", f"/v1/jobs/{job_id}/logs", query))

    @Stream
    def follow_logs(self, job_id: str) -> Emits[StreamedEvent]:
        """Events whose data holds log text, as it is written."""
        return stream.follow(f"/v1/jobs/{job_id}/logs", follow="true")

    @Call
    def artifacts(self, job_id: str) -> Flow[list[ArtifactRead]]:
        """All files of the job: ``name, role, size_bytes, sha256, step, ...``."""
        return listing(f"/v1/jobs/{job_id}/artifacts")

    @Call
    def download(
        self,
        job_id: str,
        name: str,
        to: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress | None = None,
    ) -> Flow[Path]:
        """Fetch an artifact into the file or folder ``to``; goes on with a partial file.

        Big files come in several ranges at once; the SHA-256 is checked; the file appears
        under its name only when it is whole.

        Args:
            job_id: which job.
            name: of the artifact; or a role, of which the last file is meant.
            to: file, or an existing folder, in which the name's own folders are made.
            overwrite: whether a file of other content may go; one of the same is kept as it is.
            on_progress: is given bytes there and bytes in all.

        Returns:
            The path of the file.

        Raises:
            ApiError: with code ``exists`` or ``not_writable``, before anything is fetched.
            ValueError: if the name leads out of the folder.
        """
        return _download(job_id, name, to, on_progress, overwrite=overwrite)

    @JobCall
    def cancel(
        self, job_id: str, *, mode: CancelMode = "graceful", save_checkpoint: bool = True
    ) -> Flow[JobRead]:
        """Cancel: ``graceful`` stops at the next step, ``kill`` at once."""
        body = {"mode": mode, "save_checkpoint": save_checkpoint}
        return create(f"/v1/jobs/{job_id}/cancel", body)

    @JobCall
    def pause(self, job_id: str) -> Flow[JobRead]:
        """Hold a job until :meth:`resume`; a running one saves a checkpoint first."""
        return create(f"/v1/jobs/{job_id}/pause", {})

    @JobCall
    def resume(self, job_id: str) -> Flow[JobRead]:
        """Let a paused job go on."""
        return create(f"/v1/jobs/{job_id}/resume", {})

    @JobCall
    def retry(
        self,
        job_id: str,
        *,
        start: Start | int = "latest",
        overrides: Mapping[str, Any] | None = None,
    ) -> Flow[JobRead]:
        """A new job from a final one: ``start`` is latest, best, a step or scratch."""
        body = {"from": start, "overrides": dict(overrides or {})}
        return create(f"/v1/jobs/{job_id}/retry", body)

    @JobCall
    def edit(
        self, job_id: str, *, etag: str | None = None, **changes: Unpack[JobPatch]
    ) -> Flow[JobRead]:
        """Change ``name``, ``metadata`` (merged, None removes a label) or ``notes`` of a job.

        With ``etag`` only if the job is still that version.
        """
        headers = {} if etag is None else {"If-Match": f'"{etag}"'}
        path = f"/v1/jobs/{job_id}"
        request = Request("PATCH", path, json=changes, headers=headers)
        return json_of(request)

    @Call
    def archive(self, job_id: str, to: Path) -> Flow[Path]:
        """All files of a job as one zip, into the file ``to``; its path."""
        return download.save(f"/v1/jobs/{job_id}/archive", to)

    @Call
    def compare(self, job_ids: Sequence[str]) -> Flow[ComparisonRead]:
        """Jobs beside each other: where specs and results differ, last values of metrics."""
        query = {"jobs": ",".join(job_ids)}
        return json_of(Request("GET", "/v1/compare", query))

    @Call
    def delete(self, job_id: str) -> Flow[None]:
        """Delete a final job and its artifacts."""
        return nothing(Request("DELETE", f"/v1/jobs/{job_id}"))

    # -- datasets ----------------------------------------------------------------------------

    @Call
    def upload(
        self,
        name: str,
        paths: Sequence[Path],
        *,
        format: str | None = None,  # the word of the API
        options: DatasetOptions | None = None,
        on_progress: Progress | None = None,
    ) -> Flow[DatasetRead]:
        """Upload a dataset and wait until the service has checked it.

        Args:
            name: what specs will call it.
            paths: one file; or a folder, folders or several files, which are packed into one zip
                on the way, without the content of hidden files.
            format: of the content; derived from the file's name when None.
            options: of the format: ``cell_size_m``, ``label``, ``split``.
            on_progress: is given bytes sent and bytes in all.

        Returns:
            The dataset object, ``ready``.

        Raises:
            ApiError: with code ``dataset_failed`` and the reason if the check refuses it.
            ValueError: if the format cannot be derived from the files' names.
        """
        return upload.upload(name, paths, format, options or {}, on_progress)

    @Stream
    def datasets(self) -> Emits[DatasetRead]:
        """All datasets, the built-in ones too."""
        return pages("/v1/datasets", {})

    @Call
    def dataset(self, ref: str) -> Flow[DatasetRead]:
        """One dataset."""
        return json_of(Request("GET", f"/v1/datasets/{ref}"))

    @Call
    def download_dataset(
        self, ref: str, to: Path, *, overwrite: bool = False, on_progress: Progress | None = None
    ) -> Flow[Path]:
        """Fetch the content of an uploaded dataset, as :meth:`download` does; the path."""
        return _download_dataset(ref, to, on_progress, overwrite=overwrite)

    @Call
    def delete_dataset(self, ref: str) -> Flow[None]:
        """Delete an uploaded dataset."""
        return nothing(Request("DELETE", f"/v1/datasets/{ref}"))

    # -- the service -------------------------------------------------------------------------

    @Call
    def kinds(self) -> Flow[list[KindRead]]:
        """Every kind of job in short."""
        return listing("/v1/kinds")

    @Call
    def kind(self, name: str) -> Flow[KindRead]:
        """One kind with its metrics, artifacts, presets and an example."""
        return json_of(Request("GET", f"/v1/kinds/{name}"))

    @Call
    def schema(self, name: str) -> Flow[dict[str, Any]]:
        """JSON Schema of a kind's spec."""
        return json_of(Request("GET", f"/v1/kinds/{name}/schema"))

    @Call
    def keys(self) -> Flow[list[KeyRead]]:
        """All keys of the tenant, without their secrets."""
        return listing("/v1/keys")

    @Call
    def create_key(self, name: str, scopes: Sequence[str]) -> Flow[KeyCreated]:
        """A new key; its secret is in this answer and nowhere else."""
        return create("/v1/keys", {"name": name, "scopes": list(scopes)})

    @Call
    def revoke_key(self, key_id: str) -> Flow[None]:
        """Revoke a key at once."""
        return nothing(Request("DELETE", f"/v1/keys/{key_id}"))

    @Call
    def usage(self) -> Flow[UsageRead]:
        """Quotas of the tenant, each with ``limit`` and ``used``, and which keep jobs waiting."""
        return json_of(Request("GET", "/v1/usage"))

    @Call
    def workers(self) -> Flow[list[LiveWorker]]:
        """Live workers, of all tenants; a key with scope admin is needed."""
        return listing("/v1/workers")

    @Call
    def queues(self) -> Flow[list[QueueRead]]:
        """Queues and how many jobs wait in each; a key with scope admin is needed."""
        return listing("/v1/queues")

    @Call
    def ready(self) -> Flow[Ready]:
        """What ``/readyz`` reports; raises :class:`sextant_client.ApiError` while not ready."""
        return json_of(Request("GET", "/readyz", read_s=5.0))


def _job(spec: SpecLike, job: JobOptions) -> dict[str, Any]:
    sent = spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, BaseModel) else spec
    return {"spec": sent, **job}


def _download(
    job_id: str, name: str, to: Path, on_progress: Progress | None, *, overwrite: bool
) -> Flow[Path]:
    artifact = yield from loading.find(job_id, name)
    return (yield from download.artifact(artifact, to, on_progress, overwrite=overwrite))


def _download_dataset(
    ref: str, to: Path, on_progress: Progress | None, *, overwrite: bool
) -> Flow[Path]:
    path = f"/v1/datasets/{ref}"
    dataset: DatasetRead = yield from json_of(Request("GET", path))
    size, sha256 = dataset["size_bytes"], dataset["sha256"]
    if size is None or sha256 is None or dataset["status"] != "ready":
        yield from nothing(Request("GET", f"{path}/content"))  # says why not
        raise ApiError.own("not_ready", f"dataset {ref} has no content to fetch")
    about: download.FileFacts = {"name": dataset["name"], "size_bytes": size, "sha256": sha256}
    source = f"{path}/content"
    return (yield from download.download(about, source, to, on_progress, overwrite=overwrite))
