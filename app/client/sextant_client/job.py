"""A job as an object: what the service says of it, and what can be asked of it next."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from sextant_client import loading, waiting
from sextant_client.asking import Answer, listing
from sextant_client.bar import Bar, notebook, share_of
from sextant_client.flow import Emit, Flow, Request, send

SHOWN_FIGURES = 12
SHOWN_PICTURES = 6


class JobCalls(Protocol):
    """What a job asks of the client that it came from."""

    def _run(self, flow: Flow[Any]) -> Answer: ...

    def metrics(self, job_id: str, **query: Any) -> Answer: ...

    def logs(self, job_id: str, **query: Any) -> Answer: ...

    def artifacts(self, job_id: str) -> Answer: ...

    def cancel(self, job_id: str, *, mode: str, save_checkpoint: bool) -> Answer: ...


class Job(dict[str, Any]):
    """The job object of the API, with what is usually done next.

    It is the dictionary that the service sent, so ``job["result"]`` reads it. Methods that ask the
    service give a value with ``Client``, and an awaitable of it with ``AsyncClient``.

    Args:
        calls: the client that it came from.
        values: what the service said.
    """

    def __init__(self, calls: JobCalls, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._calls = calls

    @property
    def id(self) -> str:
        """Its id, ``job_...``."""
        return str(self["id"])

    @property
    def status(self) -> str:
        """``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``, when last asked."""
        return str(self["status"])

    @property
    def result(self) -> dict[str, Any]:
        """Its figures; empty while there are none."""
        return dict(self.get("result") or {})

    @property
    def artifacts(self) -> "Files":
        """Its files: ``job.artifacts["weights"].load()``, by name or by role."""
        return Files(self)

    def refresh(self) -> Answer:
        """Ask the service anew; gives the job itself."""
        return self._calls._run(self._refreshed())

    def wait(self, *, bar: bool | None = None, timeout_s: float = float("inf")) -> Answer:
        """Wait until the job is final; gives the job itself.

        Args:
            bar: whether to show how far it is; by default in a terminal and in a notebook.
            timeout_s: how long to wait; the job itself goes on.

        Raises:
            ApiError: with code ``timeout`` after ``timeout_s``.
        """
        return self._calls._run(self._waited(Bar(bar), monotonic() + timeout_s))

    def metrics(self, **query: Any) -> Answer:
        """Its numbers, as :meth:`sextant_client.Client.metrics`; ``.to_frame()`` makes a table."""
        return self._calls.metrics(self.id, **query)

    def logs(self, **query: Any) -> Answer:
        """Text of its process, as :meth:`sextant_client.Client.logs`."""
        return self._calls.logs(self.id, **query)

    def cancel(self, *, mode: str = "graceful", save_checkpoint: bool = True) -> Answer:
        """Cancel it, as :meth:`sextant_client.Client.cancel`."""
        return self._calls.cancel(self.id, mode=mode, save_checkpoint=save_checkpoint)

    def show(self) -> Answer:
        """Show its figures and first pictures in a notebook; elsewhere, print what there is."""
        return self._calls._run(self._shown())

    def _refreshed(self) -> Flow["Job"]:
        answer = yield from send(Request("GET", f"/v1/jobs/{self.id}"))
        return self._now(answer.json())

    def _waited(self, bar: Bar, deadline: float) -> Flow["Job"]:
        def advance(values: dict[str, Any]) -> None:
            bar.show(self._now(values))

        try:
            final = yield from waiting.wait(self.id, None, advance, deadline)
        finally:
            bar.close()
        return self._now(final)

    def _now(self, values: Mapping[str, Any]) -> "Job":
        self.clear()
        self.update(values)
        return self

    def _shown(self) -> Flow[None]:
        yield from self._refreshed()
        files = yield from listing(f"/v1/jobs/{self.id}/artifacts")
        pictures = [file for file in files if file["role"] == "image"][:SHOWN_PICTURES]
        display = notebook()
        if display is None:
            names = ", ".join(file["name"] for file in pictures) or "none"
            print(f"{self!r}\npictures: {names}")  # noqa: T201  # what was asked for
            return
        display.display(self)
        for file in pictures:
            content = (
                yield from send(Request("GET", f"/v1/artifacts/{file['id']}/content"))
            ).content
            display.display(display.Image(data=content))

    def __repr__(self) -> str:
        """One line: id, kind, name, status, progress, first figures."""
        shown = [self.get("kind"), self.get("name") and f"'{self['name']}'", self.get("status")]
        share = self.share
        shown += [f"{share:.0%}" if share is not None and self.get("status") == "running" else None]
        shown += [f"{name} {value:.4g}" for name, value in list(self._figures())[:3]]
        return f"<{self.get('id')} {', '.join(str(part) for part in shown if part)}>"

    @property
    def share(self) -> float | None:
        """How much of it is done, from 0 to 1; None where that is not known."""
        return share_of(self)

    def _figures(self) -> list[tuple[str, float]]:
        plain = self.result.items()
        return [(n, v) for n, v in plain if isinstance(v, int | float) and not isinstance(v, bool)]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head = f"<b>{escape(str(self.get('name') or self.get('kind')))}</b> {escape(self.status)}"
        bar = "" if self.share is None else f' <progress value="{self.share:.3f}"></progress>'
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{value:.4g}</td></tr>"
            for name, value in self._figures()[:SHOWN_FIGURES]
        )
        error = (self.get("error") or {}).get("message", "")
        return f"<p>{head}{bar} <code>{self.id}</code> {escape(error)}</p><table>{rows}</table>"


class Files:
    """Files of a job, by name or by role."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __getitem__(self, name: str) -> "File":
        """One file; whether it is there, the service says when it is asked for."""
        return File(self._job, name)

    def list(self) -> Answer:
        """All of them: ``name, role, size_bytes, sha256, step, ...``."""
        return self._job._calls.artifacts(self._job.id)


class File:
    """A file of a job.

    Args:
        job: whose.
        name: of the file; or a role, of which the last file is meant.
    """

    def __init__(self, job: Job, name: str) -> None:
        self._job = job
        self.name = name

    def load(self) -> Answer:
        """Its content as what it is.

        Tensors by name of safetensors (of torch, or else NumPy), arrays of npy and npz, the object
        of JSON, a table of CSV (pandas, polars, or else rows), a picture (Pillow, or else bytes),
        text; bytes of all others.
        """
        return self._job._calls._run(loading.load(self._job.id, self.name))

    def save(self, to: Path | str = ".", *, overwrite: bool = False) -> Answer:
        """Fetch it into a file or folder, as :meth:`sextant_client.Client.download`; its path."""
        flow = loading.save(self._job.id, self.name, Path(to), overwrite=overwrite)
        return self._job._calls._run(flow)


def one(calls: JobCalls, flow: Flow[Any]) -> Flow[Job]:
    """The flow, with its result as a job."""
    return Job(calls, (yield from flow))


def several(calls: JobCalls, flow: Flow[None]) -> Flow[None]:
    """The flow, with everything that it emits as a job."""
    answer = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration:
            return
        answer = yield Emit(Job(calls, step.value)) if isinstance(step, Emit) else step
