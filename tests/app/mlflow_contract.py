"""What an MLflow tracking server answers to the requests of an export, and what it refuses.

Written after MLflow 3.17's protos/service.proto; the same test runs against the real server where
there is one.
"""

import json
import re
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

FIELDS = {
    "experiments/create": {"name"},
    "runs/create": {"experiment_id", "run_name", "start_time", "tags"},
    "runs/search": {"experiment_ids", "filter", "max_results"},
    "runs/log-batch": {"run_id", "params", "tags", "metrics"},
    "runs/update": {"run_id", "run_name", "status", "end_time"},
}
STATUSES = {"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}
NAME = re.compile(r"[\w.\-/ :]{1,250}")


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def demand(holds: object, text: str) -> None:
    if not holds:
        raise RefusedError(400, text)


class Contract(ThreadingHTTPServer):
    """A tracking server that forgets; listens on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.experiments: dict[str, str] = {}  # id by name
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}

    def call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        demand(set(body) <= FIELDS[method], f"unknown fields in {sorted(body)}")
        calls: dict[str, Callable[..., dict[str, Any]]] = {
            "experiments/create": self.create_experiment,
            "runs/create": self.create_run,
            "runs/search": self.search,
            "runs/log-batch": self.log_batch,
            "runs/update": self.update,
        }
        return calls[method](**body)

    def create_experiment(self, name: str) -> dict[str, Any]:
        demand(name not in self.experiments, "there is one")
        self.experiments[name] = str(len(self.experiments) + 1)
        return {"experiment_id": self.experiments[name]}

    def experiment(self, experiment_name: str) -> dict[str, Any]:
        if experiment_name not in self.experiments:
            raise RefusedError(404, "RESOURCE_DOES_NOT_EXIST")
        found = self.experiments[experiment_name]
        return {"experiment": {"experiment_id": found, "lifecycle_stage": "active"}}

    def create_run(
        self, experiment_id: str, run_name: str, start_time: int, tags: list[dict[str, str]]
    ) -> dict[str, Any]:
        demand(experiment_id in self.experiments.values(), "no such experiment")
        run_id = uuid.uuid4().hex
        uri = f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts"
        info = {"run_id": run_id, "run_name": run_name, "artifact_uri": uri, "status": "RUNNING"}
        self.runs[run_id] = {"info": info, "params": {}, "tags": {}, "metrics": {}}
        self.log_batch(run_id, tags=tags)
        return {"run": {"info": info}}

    def search(self, experiment_ids: list[str], filter: str, max_results: int) -> dict[str, Any]:
        found = re.fullmatch(r"tags\.`([^`]+)` = '([^']+)'", filter)
        demand(found and experiment_ids and max_results, f"the filter {filter!r}")
        assert found is not None
        runs = [run for run in self.runs.values() if run["tags"].get(found[1]) == found[2]]
        return {"runs": [{"info": run["info"]} for run in runs[:max_results]]} if runs else {}

    def log_batch(
        self, run_id: str, params: Any = (), tags: Any = (), metrics: Any = ()
    ) -> dict[str, Any]:
        demand(len(params) <= 100 and len(tags) <= 100 and len(metrics) <= 1000, "too many")
        run = self.runs[run_id]
        for each in (*params, *tags, *metrics):
            demand(NAME.fullmatch(each["key"]), f"the name {each['key']!r}")
        for each in params:
            demand(isinstance(each["value"], str) and len(each["value"]) <= 6000, "a long param")
            same = run["params"].setdefault(each["key"], each["value"])
            demand(same == each["value"], "params cannot be changed")
        run["tags"] |= {each["key"]: each["value"] for each in tags}
        for each in metrics:
            demand(set(each) == {"key", "value", "timestamp", "step"}, f"the metric {each}")
            demand(isinstance(each["timestamp"], int), "milliseconds are whole")
            run["metrics"].setdefault(each["key"], []).append(each)
        return {}

    def update(self, run_id: str, **changes: Any) -> dict[str, Any]:
        demand(changes["status"] in STATUSES, f"the status {changes['status']}")
        self.runs[run_id]["info"] |= changes
        return {"run_info": self.runs[run_id]["info"]}

    def history(self, run_id: str, metric_key: str, max_results: str) -> dict[str, Any]:
        demand(int(max_results) <= 25_000, "too many")
        return {"metrics": self.runs[run_id]["metrics"].get(metric_key, [])}

    def read_run(self, run_id: str) -> dict[str, Any]:
        run = self.runs[run_id]
        data = {
            name: [{"key": k, "value": v} for k, v in run[name].items()]
            for name in ("params", "tags")
        }
        return {"run": {"info": run["info"], "data": data}}


class Handler(BaseHTTPRequestHandler):
    """Requests of HTTP to calls of :class:`Contract`."""

    server: Contract

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        reads = {
            "experiments/get-by-name": self.server.experiment,
            "metrics/get-history": self.server.history,
            "runs/get": self.server.read_run,
        }
        query = dict(parse_qsl(path.query))
        if path.path.startswith("/api/2.0/mlflow-artifacts/"):
            self.answer(lambda: self.server.files[unquote(path.path)])
        else:
            self.answer(lambda: reads[path.path.removeprefix("/api/2.0/mlflow/")](**query))

    def do_POST(self) -> None:
        method = self.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(lambda: self.server.call(method, body))

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.files[unquote(self.path)] = content
        self.answer(dict)

    def answer(self, call: Callable[[], Any]) -> None:
        try:
            status, content = 200, call()
        except RefusedError as refused:
            status, content = refused.status, {"message": str(refused)}
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Nothing is said of requests."""
