"""Examples of request bodies for the OpenAPI document."""

from typing import Any

from models.catalog import kinds


def job_examples() -> dict[str, dict[str, Any]]:
    """A body of ``POST /v1/jobs`` for each kind, by its name."""
    return {
        kind: {
            "summary": kind,
            "description": (spec.__doc__ or "").strip().partition("\n")[0],
            "value": {"name": f"{kind} example", "spec": dict(spec.minimal_example)},
        }
        for kind, spec in kinds().items()
    }
