"""The calls of the service, one method each, written once for both clients."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import BaseModel

from sextant_client import download, loading, stream, upload, waiting
from sextant_client.asking import Answer, Stream, create, json_of, listing, nothing, pages, text_of
from sextant_client.flow import Flow, Progress, Request
from sextant_client.job import one, several
from sextant_client.registry import RegistryCalls
from sextant_client.series import Metrics
from sextant_client.together import TogetherCalls

FEED_READ_S = 75.0  # it may be asked to wait for 60
SpecLike = BaseModel | Mapping[str, Any]


class Calls(RegistryCalls, TogetherCalls):
    """What both clients can do. Every call may raise :class:`sextant_client.ApiError`."""

    # -- jobs --------------------------------------------------------------------------------

    def submit(self, spec: SpecLike, *, idempotency_key: str | None = None, **job: Any) -> Answer:
        """Store and queue a job; repeated safely when an answer is lost.

        Args:
            spec: a spec of ``models``, or its JSON with ``kind``.
            idempotency_key: makes several calls one job; a fresh key when None.
            job: other fields of the request: ``name, metadata, queue, priority, not_before,
                depends_on, on_dependency_failure, resources, limits, webhook``.

        Returns:
            The :class:`sextant_client.Job`.
        """
        return self._run(one(self, create("/v1/jobs", _job(spec, job), idempotency_key)))

    def dry_run(self, spec: SpecLike, **job: Any) -> Answer:
        """What ``submit`` would do: ``estimate``, ``resolved_spec``, ``warnings``."""
        return self._run(json_of(Request("POST", "/v1/jobs", {"dry_run": "true"}, _job(spec, job))))

    def get(self, job_id: str) -> Answer:
        """The job object as it is now."""
        return self._run(one(self, json_of(Request("GET", f"/v1/jobs/{job_id}"))))

    def jobs(self, limit: int | None = None, **filters: Any) -> Stream:
        """Jobs, newest first, fetched page by page as they are asked for.

        Args:
            limit: at most so many; all when None.
            filters: ``status, kind, method, name``, ...
        """
        return self._iterate(several(self, pages("/v1/jobs", filters, limit)))

    def wait(
        self,
        job_id: str,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        timeout_s: float = float("inf"),
    ) -> Answer:
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
        flow = waiting.wait(job_id, on_event, on_progress, monotonic() + timeout_s)
        return self._run(one(self, flow))

    def events(self, job_id: str, after: int = 0) -> Stream:
        """Events of the job as they happen, from ``seq`` after+1 to its end."""
        return self._iterate(stream.follow(f"/v1/jobs/{job_id}/events", str(after or "")))

    def all_events(self, after: int = 0, **query: Any) -> Stream:
        """Events of all jobs as they happen, from a position on; it has no end.

        Args:
            after: the ``seq`` of the last event that is known, which is its position; 0: all.
            query: ``type="status"`` leaves all others out.
        """
        return self._iterate(stream.follow("/v1/events", str(after or ""), **query))

    def events_page(self, after: int = 0, **query: Any) -> Answer:
        """Events of all jobs behind a position: ``data, has_more, next_after, latest``.

        ``type``, ``limit`` and ``wait_s`` (seconds to wait where there is none yet) narrow it.
        """
        request = Request("GET", "/v1/events", {"after": after, **query}, read_s=FEED_READ_S)
        return self._run(json_of(request))

    def metrics(self, job_id: str, **query: Any) -> Answer:
        """Series of numbers; ``names, from_step, to_step, max_points`` narrow them.

        ``.to_frame()`` of the answer makes a table. With ``format="csv"`` or ``"ndjson"`` it is
        text, a line a point.
        """
        request = Request("GET", f"/v1/jobs/{job_id}/metrics", query)
        is_text = query.get("format") in ("csv", "ndjson")
        return self._run(text_of(request) if is_text else _metrics(request))

    def logs(self, job_id: str, **query: Any) -> Answer:
        """Text of the child; ``tail`` (lines) and ``run`` (number) narrow it."""
        return self._run(text_of(Request("GET", f"/v1/jobs/{job_id}/logs", query)))

    def follow_logs(self, job_id: str) -> Stream:
        """Events whose data holds log text, as it is written."""
        return self._iterate(stream.follow(f"/v1/jobs/{job_id}/logs", follow="true"))

    def artifacts(self, job_id: str) -> Answer:
        """All files of the job: ``name, role, size_bytes, sha256, step, ...``."""
        return self._run(listing(f"/v1/jobs/{job_id}/artifacts"))

    def download(
        self,
        job_id: str,
        name: str,
        to: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress | None = None,
    ) -> Answer:
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
        return self._run(_download(job_id, name, to, on_progress, overwrite=overwrite))

    def cancel(
        self, job_id: str, *, mode: str = "graceful", save_checkpoint: bool = True
    ) -> Answer:
        """Cancel: ``graceful`` stops at the next step, ``kill`` at once."""
        body = {"mode": mode, "save_checkpoint": save_checkpoint}
        return self._run(one(self, create(f"/v1/jobs/{job_id}/cancel", body)))

    def pause(self, job_id: str) -> Answer:
        """Hold a job until :meth:`resume`; a running one saves a checkpoint first."""
        return self._run(one(self, create(f"/v1/jobs/{job_id}/pause", {})))

    def resume(self, job_id: str) -> Answer:
        """Let a paused job go on."""
        return self._run(one(self, create(f"/v1/jobs/{job_id}/resume", {})))

    def retry(
        self,
        job_id: str,
        *,
        start: str | int = "latest",
        overrides: Mapping[str, Any] | None = None,
    ) -> Answer:
        """A new job from a final one: ``start`` is latest, best, a step or scratch."""
        body = {"from": start, "overrides": dict(overrides or {})}
        return self._run(one(self, create(f"/v1/jobs/{job_id}/retry", body)))

    def edit(self, job_id: str, *, etag: str | None = None, **changes: Any) -> Answer:
        """Change ``name``, ``metadata`` (merged, None removes a label) or ``notes`` of a job.

        With ``etag`` only if the job is still that version.
        """
        headers = {} if etag is None else {"If-Match": f'"{etag}"'}
        path = f"/v1/jobs/{job_id}"
        request = Request("PATCH", path, json=changes, headers=headers)
        return self._run(one(self, json_of(request)))

    def archive(self, job_id: str, to: Path) -> Answer:
        """All files of a job as one zip, into the file ``to``; its path."""
        return self._run(download.save(f"/v1/jobs/{job_id}/archive", to))

    def compare(self, job_ids: Sequence[str]) -> Answer:
        """Jobs beside each other: where specs and results differ, last values of metrics."""
        query = {"jobs": ",".join(job_ids)}
        return self._run(json_of(Request("GET", "/v1/compare", query)))

    def delete(self, job_id: str) -> Answer:
        """Delete a final job and its artifacts."""
        return self._run(nothing(Request("DELETE", f"/v1/jobs/{job_id}")))

    # -- datasets ----------------------------------------------------------------------------

    def upload(
        self,
        name: str,
        paths: Sequence[Path],
        *,
        format: str | None = None,  # the word of the API
        options: Mapping[str, Any] | None = None,
        on_progress: Progress | None = None,
    ) -> Answer:
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
        return self._run(upload.upload(name, paths, format, dict(options or {}), on_progress))

    def datasets(self) -> Stream:
        """All datasets, the built-in ones too."""
        return self._iterate(pages("/v1/datasets", {}))

    def dataset(self, ref: str) -> Answer:
        """One dataset."""
        return self._run(json_of(Request("GET", f"/v1/datasets/{ref}")))

    def download_dataset(
        self, ref: str, to: Path, *, overwrite: bool = False, on_progress: Progress | None = None
    ) -> Answer:
        """Fetch the content of an uploaded dataset, as :meth:`download` does; the path."""
        return self._run(_download_dataset(ref, to, on_progress, overwrite=overwrite))

    def delete_dataset(self, ref: str) -> Answer:
        """Delete an uploaded dataset."""
        return self._run(nothing(Request("DELETE", f"/v1/datasets/{ref}")))

    # -- the service -------------------------------------------------------------------------

    def kinds(self) -> Answer:
        """Every kind of job in short."""
        return self._run(listing("/v1/kinds"))

    def kind(self, name: str) -> Answer:
        """One kind with its metrics, artifacts, presets and an example."""
        return self._run(json_of(Request("GET", f"/v1/kinds/{name}")))

    def schema(self, name: str) -> Answer:
        """JSON Schema of a kind's spec."""
        return self._run(json_of(Request("GET", f"/v1/kinds/{name}/schema")))

    def keys(self) -> Answer:
        """All keys of the tenant, without their secrets."""
        return self._run(listing("/v1/keys"))

    def create_key(self, name: str, scopes: Sequence[str]) -> Answer:
        """A new key; its secret is in this answer and nowhere else."""
        return self._run(create("/v1/keys", {"name": name, "scopes": list(scopes)}))

    def revoke_key(self, key_id: str) -> Answer:
        """Revoke a key at once."""
        return self._run(nothing(Request("DELETE", f"/v1/keys/{key_id}")))

    def usage(self) -> Answer:
        """Quotas of the tenant, each with ``limit`` and ``used``, and which keep jobs waiting."""
        return self._run(json_of(Request("GET", "/v1/usage")))

    def workers(self) -> Answer:
        """Live workers, of all tenants; a key with scope admin is needed."""
        return self._run(listing("/v1/workers"))

    def queues(self) -> Answer:
        """Queues and how many jobs wait in each; a key with scope admin is needed."""
        return self._run(listing("/v1/queues"))

    def ready(self) -> Answer:
        """What ``/readyz`` reports; raises :class:`sextant_client.ApiError` while not ready."""
        return self._run(json_of(Request("GET", "/readyz", read_s=5.0)))


def _job(spec: SpecLike, job: Mapping[str, Any]) -> dict[str, Any]:
    sent = spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, BaseModel) else spec
    return {"spec": sent, **job}


def _metrics(request: Request) -> Flow[Metrics]:
    return Metrics((yield from json_of(request)))


def _download(
    job_id: str, name: str, to: Path, on_progress: Progress | None, *, overwrite: bool
) -> Flow[Path]:
    artifact = yield from loading.find(job_id, name)
    return (yield from download.download(artifact, to, on_progress, overwrite=overwrite))


def _download_dataset(
    ref: str, to: Path, on_progress: Progress | None, *, overwrite: bool
) -> Flow[Path]:
    path = f"/v1/datasets/{ref}"
    dataset = yield from json_of(Request("GET", path))
    if dataset["builtin"] or dataset["status"] != "ready":
        yield from nothing(Request("GET", f"{path}/content"))  # says why not
    source = f"{path}/content"
    return (
        yield from download.download(dataset, to, on_progress, overwrite=overwrite, path=source)
    )
