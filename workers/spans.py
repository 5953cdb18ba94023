"""The spans of a run: what the worker does, and from the lines of the child what the child does.

A child has no way to a receiver of traces, and needs none: it says hello as it begins, its lineage
once torch is loaded, and from then on it works.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from app import tracing
from app.db.tables import Job, Run
from app.services.child_lines import EventLine, HelloLine, Line
from app.services.outcome import Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import Span

START, LOAD, WORK = "child start", "child load", "child work"


class RunSpans:
    """Spans of one run, all below one, which is a part of the trace of the job's request.

    Where nothing is traced, every method does nothing.

    Args:
        run: that begins.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._span: Span | None = None
        self._phase: Span | None = None

    def begin(self, job: Job) -> None:
        """Open the span of the run below that of the request that made the job; once."""
        if self._span is not None or not tracing.wanted():
            return
        from opentelemetry import propagate, trace

        parent = propagate.extract({tracing.TRACEPARENT: job.traceparent or ""})
        about = {
            "sextant.job.id": job.id,
            "sextant.job.kind": job.kind,
            "sextant.run.number": self._run.number,
            "sextant.worker.id": self._run.worker_id,
        }
        self._span = _tracer().start_span(
            "run", parent, kind=trace.SpanKind.CONSUMER, attributes=about
        )
        trace_id = trace.format_trace_id(self._span.get_span_context().trace_id)
        structlog.contextvars.bind_contextvars(trace_id=trace_id)

    @contextmanager
    def part(self, name: str, **attributes: Any) -> Generator[None]:
        """A span around what the worker itself does."""
        span = self._start(name, **attributes)
        try:
            yield
        finally:
            if span is not None:
                span.end()

    def enter(self, phase: str) -> None:
        """End the phase of the child before, and begin one."""
        self.leave()
        self._phase = self._start(phase)

    def note(self, line: Line | None) -> None:
        """Look at a line of the child for the end of a phase."""
        if self._phase is None:
            return
        if isinstance(line, HelloLine):
            self.enter(LOAD)
        elif isinstance(line, EventLine) and line.event == "lineage":
            self.enter(WORK)

    def leave(self) -> None:
        """End the phase of the child."""
        if self._phase is not None:
            self._phase.end()
        self._phase = None

    def end(self, outcome: Outcome | None = None) -> None:
        """Close the span of the run; an error of the run is one of the span."""
        self.leave()
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        if outcome is not None and outcome.error is not None:
            self._span.set_status(StatusCode.ERROR, outcome.error.message)
            self._span.set_attribute("error.type", outcome.error.code)
        if outcome is not None and outcome.stop_reason is not None:
            self._span.set_attribute("sextant.run.stop_reason", outcome.stop_reason)
        self._span.end()
        self._span = None

    def _start(self, name: str, **attributes: Any) -> "Span | None":
        if self._span is None:
            return None
        from opentelemetry import trace

        context = trace.set_span_in_context(self._span)
        return _tracer().start_span(name, context, attributes=attributes)


def _tracer() -> Any:
    from opentelemetry import trace

    return trace.get_tracer("sextant.workers")
