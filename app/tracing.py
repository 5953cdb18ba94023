"""Traces by OpenTelemetry, where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says that they go somewhere.

Without it nothing of OpenTelemetry's SDK is imported and no span is made. FastAPI itself makes the
span of a request once there is a provider; a job keeps its ``traceparent``, so that a worker's
spans belong to the same trace.
"""

import os
from importlib.metadata import version

import structlog

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TRACEPARENT = "traceparent"

log = structlog.get_logger(__name__)


def wanted() -> bool:
    """Whether the environment names a receiver of traces."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(os.environ.get(name) for name in ENDPOINTS)


def configure(service: str) -> bool:
    """Send the spans of this process to the receiver, if one is named; whether they are.

    Args:
        service: name of the process, where ``OTEL_SERVICE_NAME`` does not give one.
    """
    if not wanted():
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        hint = "pip install 'sextant-jobs[otel]'"
        log.warning("no_traces", reason=str(error), hint=hint)
        return False
    about = {"service.version": version("sextant-jobs")}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about["service.name"] = service
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


def ids() -> dict[str, str]:
    """``trace_id`` of the span that is current here, for log lines; nothing where none is."""
    parts = (current() or "").split("-")
    return {"trace_id": parts[1]} if len(parts) > 1 else {}


def current() -> str | None:
    """``traceparent`` of the span that is current here; None where nothing is traced."""
    if not wanted():
        return None
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(TRACEPARENT)
