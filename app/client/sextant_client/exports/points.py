"""Every point of a job's metrics, name by name."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from sextant_client.transports import Client


class Reported(NamedTuple):
    """One value: ``value`` may be nan or infinite, ``at_s`` is in Unix seconds."""

    step: int
    value: float
    at_s: float


def names_of(client: Client, job_id: str) -> list[str]:
    """The names of a job's metrics."""
    return list(client.metrics(job_id, max_points=1)["series"])


def points_of(client: Client, job_id: str, name: str) -> Iterator[Reported]:
    """All points of a metric, in the order of steps."""
    for line in client.metrics(job_id, names=name, format="ndjson").splitlines():
        point = json.loads(line)
        value = point["non_finite"] if point["value"] is None else point["value"]
        yield Reported(point["step"], float(value), datetime.fromisoformat(point["at"]).timestamp())
