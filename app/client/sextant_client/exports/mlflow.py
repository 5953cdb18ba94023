"""A job as a run of an MLflow tracking server, over its REST API.

The server is the only judge of what it has: a run is found again by its tag, points that it has are
not sent again, files of the same name are replaced.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from sextant_client.exports.mlflow_server import TrackingServer
from sextant_client.exports.points import names_of, points_of
from sextant_client.transports import Client

SCHEMES = {"mlflow": "https", "mlflow+https": "https", "mlflow+http": "http"}
EXPERIMENT = "sextant"
JOB_TAG = "sextant.job_id"
STATUSES = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
    "queued": "SCHEDULED",
}
UNSAFE = re.compile(r"[^\w.\-/ ]")  # in names of params, metrics and tags
METRICS_AT_ONCE, PAIRS_AT_ONCE = 1000, 100  # limits of log-batch
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 5000


def send(client: Client, job_id: str, to: str, *, files: bool) -> str:
    """Make or bring up to date the run of a job; the address of the run.

    ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD``, or ``_TOKEN``, are sent as by MLflow's client.

    Raises:
        ValueError: if the server refuses something or stores files where only its clients write.
    """
    parts = urlsplit(to)
    asked = parse_qs(parts.query, keep_blank_values=True)
    if unknown := set(asked) - {"experiment"}:
        raise ValueError(f"{to!r} has {', '.join(sorted(unknown))}; it takes experiment=NAME alone")
    address = f"{SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}"
    job = client.get(job_id)
    with closing(TrackingServer(address)) as server:
        experiment = server.experiment(asked.get("experiment", [EXPERIMENT])[0])
        run = server.find(experiment, JOB_TAG, job_id) or _create(server, experiment, job)
        if files:
            server.check_takes_files(run)
        _describe(server, run["run_id"], job)
        _send_metrics(server, client, run["run_id"], job)
        if files:
            _send_files(server, client, run, job_id)
        _update(server, run["run_id"], job)
    return f"{address}/#/experiments/{experiment}/runs/{run['run_id']}"


def _create(server: TrackingServer, experiment: str, job: Mapping[str, Any]) -> dict[str, Any]:
    body = {
        "experiment_id": experiment,
        "run_name": job["name"] or f"{job['kind']} {job['id'][-8:]}",
        "start_time": _milliseconds(job["started_at"] or job["created_at"]),
        "tags": [{"key": JOB_TAG, "value": job["id"]}],
    }
    return server.post("runs/create", body)["run"]["info"]


def _describe(server: TrackingServer, run_id: str, job: Mapping[str, Any]) -> None:
    """Its spec as params, which never change; what it is and how it went as tags."""
    params = [
        {"key": key, "value": str(value)[:PARAM_CHARACTERS]}
        for key, value in flattened(job["resolved_spec"])
        if value is not None  # a digest that is not known yet
    ]
    about = {"sextant.kind": job["kind"], "sextant.status": job["status"]}
    about |= {f"sextant.label.{name}": value for name, value in job["metadata"].items()}
    about |= {
        "mlflow.note.content": job["notes"],
        "sextant.error": (job["error"] or {}).get("message"),
    }
    tags = [
        {"key": UNSAFE.sub("_", key), "value": str(value)[:TAG_CHARACTERS]}
        for key, value in about.items()
        if value is not None
    ]
    for name, pairs in (("params", params), ("tags", tags)):
        for some in _batches(pairs, PAIRS_AT_ONCE):
            server.post("runs/log-batch", {"run_id": run_id, name: some})


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each plain value of nested objects and lists with its path, as ``optimizer.lr``."""
    inner = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if inner is None:
        yield UNSAFE.sub("_", path), value
        return
    for name, each in inner:
        yield from flattened(each, f"{path}.{name}" if path else str(name))


def _send_metrics(
    server: TrackingServer, client: Client, run_id: str, job: Mapping[str, Any]
) -> None:
    for name in names_of(client, job["id"]):
        points = [
            (point.step, round(point.at_s * 1000), point.value)
            for point in points_of(client, job["id"], name)
        ]
        _send_missing(server, run_id, UNSAFE.sub("_", name), points)
    ended_ms = _milliseconds(job["finished_at"] or job["created_at"])
    for name, value in flattened(job["result"] or {}):
        if isinstance(value, int | float) and not isinstance(value, bool):
            _send_missing(server, run_id, f"result.{name}", [(0, ended_ms, float(value))])


def _send_missing(
    server: TrackingServer, run_id: str, key: str, points: Sequence[tuple[int, int, float]]
) -> None:
    known = {(step, at, _number(value)) for step, at, value in server.history(run_id, key)}
    missing = [each for each in points if (each[0], each[1], _number(each[2])) not in known]
    for some in _batches(missing, METRICS_AT_ONCE):
        metrics = [
            {"key": key, "value": _number(value), "timestamp": at_ms, "step": step}
            for step, at_ms, value in some
        ]
        server.post("runs/log-batch", {"run_id": run_id, "metrics": metrics})


def _send_files(
    server: TrackingServer, client: Client, run: Mapping[str, Any], job_id: str
) -> None:
    with TemporaryDirectory(prefix="sextant-") as scratch:
        for each in client.artifacts(job_id):
            path = client.download(job_id, each["name"], Path(scratch) / "file")
            server.put_file(run, quote(each["name"]), path)
            path.unlink()


def _update(server: TrackingServer, run_id: str, job: Mapping[str, Any]) -> None:
    body: dict[str, Any] = {"run_id": run_id, "status": STATUSES.get(job["status"], "RUNNING")}
    body |= {"run_name": job["name"]} if job["name"] else {}
    if job["finished_at"]:
        body["end_time"] = _milliseconds(job["finished_at"])
    server.post("runs/update", body)


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _number(value: float) -> float | str:
    """As protocol buffers write it in JSON."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
