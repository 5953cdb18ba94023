"""A job as an object: what the service says of it, and what can be asked of it next."""

from __future__ import annotations  # so that help() names types in short

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from html import escape
from time import monotonic
from typing import Any, Generic, Literal, Self, Unpack, cast, overload

from sextant_client import waiting
from sextant_client.answers import ArtifactRead, JobError, JobRead, JobStatus
from sextant_client.asking import create, listing, text_of
from sextant_client.bar import Bar, notebook, share_of
from sextant_client.calling import (
    Awaiting,
    Blocking,
    Call,
    Method,
    OfAsyncClient,
    OfClient,
    P,
    SelfCall,
)
from sextant_client.files import AsyncFiles, Files
from sextant_client.flow import Emit, Emits, Flow, Request, send
from sextant_client.requests import LogQuery
from sextant_client.series import Metrics, metrics_of

SHOWN_FIGURES = 12
SHOWN_PICTURES = 6


class JobCalls(dict[str, Any]):
    """The job object of the API, with what is usually done next.

    It is the dictionary that the service sent, so ``job["result"]`` reads it. Methods that ask the
    service give a value with ``Client``, and an awaitable of it with ``AsyncClient``.

    Args:
        client: that it came from.
        values: what the service said.
    """

    def __init__(self, client: Any, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._client = client

    @property
    def fields(self) -> JobRead:
        """The same dictionary with the types of its fields."""
        return cast("JobRead", self)

    @property
    def id(self) -> str:
        """Its id, ``job_...``."""
        return str(self["id"])

    @property
    def kind(self) -> str:
        """What it does, ``<method>.<action>``."""
        return self.fields["kind"]

    @property
    def name(self) -> str | None:
        """What it was called, if it was."""
        return self.fields["name"]

    @property
    def status(self) -> JobStatus:
        """``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``, when last asked."""
        return self.fields["status"]

    @property
    def result(self) -> dict[str, Any]:
        """Its figures; empty while there are none."""
        return dict(self.get("result") or {})

    @property
    def error(self) -> JobError | None:
        """Why it failed: ``code, message, hint``, ...; None unless it did."""
        return self.fields["error"]

    @SelfCall
    def refresh(self) -> Flow[None]:
        """Ask the service anew; gives the job itself."""
        answer = yield from send(Request("GET", f"/v1/jobs/{self.id}"))
        self._now(answer.json())

    @SelfCall
    def wait(self, *, bar: bool | None = None, timeout_s: float = float("inf")) -> Flow[None]:
        """Wait until the job is final; gives the job itself.

        Args:
            bar: whether to show how far it is; by default in a terminal and in a notebook.
            timeout_s: how long to wait; the job itself goes on.

        Raises:
            ApiError: with code ``timeout`` after ``timeout_s``.
        """
        return self._waited(Bar(bar), monotonic() + timeout_s)

    @Call
    def metrics(
        self,
        *,
        names: str | Sequence[str] | None = None,
        from_step: int | None = None,
        to_step: int | None = None,
        max_points: int | None = None,
    ) -> Flow[Metrics]:
        """Its numbers; ``.to_frame()`` makes a table.

        Text, a line a point, is what :meth:`sextant_client.Client.metrics` gives of its id.

        Args:
            names: only these; all when None.
            from_step: the first step.
            to_step: the last one.
            max_points: of each name; a longer series comes as minimum and maximum of ranges of
                steps; 1000 when None.
        """
        query = {"names": names, "from_step": from_step, "to_step": to_step}
        return metrics_of(self.id, {**query, "max_points": max_points})

    @Call
    def logs(self, **query: Unpack[LogQuery]) -> Flow[str]:
        """Text of its process, as :meth:`sextant_client.Client.logs`."""
        return text_of(Request("GET", f"/v1/jobs/{self.id}/logs", query))

    @SelfCall
    def cancel(
        self, *, mode: Literal["graceful", "kill"] = "graceful", save_checkpoint: bool = True
    ) -> Flow[None]:
        """Cancel it, as :meth:`sextant_client.Client.cancel`; gives the job itself."""
        body = {"mode": mode, "save_checkpoint": save_checkpoint}
        self._now((yield from create(f"/v1/jobs/{self.id}/cancel", body)))

    @Call
    def show(self) -> Flow[None]:
        """Show its figures and first pictures in a notebook; elsewhere, print what there is."""
        return self._shown()

    def _waited(self, bar: Bar, deadline: float) -> Flow[None]:
        def advance(values: JobRead) -> None:
            self._now(values)
            bar.show(self)

        try:
            final = yield from waiting.wait(self.id, None, advance, deadline)
        finally:
            bar.close()
        self._now(final)

    def _now(self, values: Mapping[str, Any]) -> None:
        self.clear()
        self.update(values)

    def _shown(self) -> Flow[None]:
        answer = yield from send(Request("GET", f"/v1/jobs/{self.id}"))
        self._now(answer.json())
        files: list[ArtifactRead] = yield from listing(f"/v1/jobs/{self.id}/artifacts")
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


class Job(JobCalls, OfClient):
    """A job of :class:`sextant_client.Client`."""

    @property
    def artifacts(self) -> Files:
        """Its files: ``job.artifacts["weights"].load()``, by name or by role."""
        return Files(self._client, self.id)


class AsyncJob(JobCalls, OfAsyncClient):
    """A job of :class:`sextant_client.AsyncClient`."""

    @property
    def artifacts(self) -> AsyncFiles:
        """Its files: ``await job.artifacts["weights"].load()``, by name or by role."""
        return AsyncFiles(self._client, self.id)


def _as_job(owner: Blocking | Awaiting, values: JobRead) -> Job | AsyncJob:
    return Job(owner, values) if isinstance(owner, Blocking) else AsyncJob(owner, values)


class JobCall(Method[P, Flow[JobRead]], Generic[P]):
    """A call whose answer is a job."""

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, Job]: ...
    @overload
    def __get__(
        self, owner: Awaiting, kind: type
    ) -> Callable[P, Coroutine[Any, Any, AsyncJob]]: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        """The method of a client."""
        return super().__get__(owner, kind)

    def _carry_out(self, owner: Any, flow: Flow[JobRead]) -> Any:
        return owner._run(self._one(owner, flow))

    @staticmethod
    def _one(owner: Any, flow: Flow[JobRead]) -> Flow[Job | AsyncJob]:
        return _as_job(owner, (yield from flow))


class JobStream(Method[P, Emits[JobRead]], Generic[P]):
    """A call with many jobs."""

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Blocking, kind: type) -> Callable[P, Iterator[Job]]: ...
    @overload
    def __get__(self, owner: Awaiting, kind: type) -> Callable[P, AsyncIterator[AsyncJob]]: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        """The method of a client."""
        return super().__get__(owner, kind)

    def _carry_out(self, owner: Any, flow: Emits[JobRead]) -> Any:
        return owner._iterate(self._several(owner, flow))

    @staticmethod
    def _several(owner: Any, flow: Emits[JobRead]) -> Emits[Job | AsyncJob]:
        answer = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration:
                return
            answer = yield Emit(_as_job(owner, step.value)) if isinstance(step, Emit) else step
