"""The REST API of an MLflow tracking server, as far as an export needs it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
PROXIED = "mlflow-artifacts:"
HISTORY_PAGE = 25_000
CONNECT_S, ANSWER_S = 10.0, 120.0


class TrackingServer:
    """A tracking server; to be closed.

    Args:
        address: as ``https://host:port/prefix``.
    """

    def __init__(self, address: str) -> None:
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        self._address = address
        self._http = httpx.Client(
            base_url=address,
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            headers={"Authorization": f"Bearer {token}"} if token and not user else {},
            timeout=httpx.Timeout(CONNECT_S, read=ANSWER_S, write=ANSWER_S),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Call a method of the tracking API."""
        return self._send("POST", f"{API}/{path}", json=body).json()

    def experiment(self, name: str) -> str:
        """The id of an experiment, made where there is none of this name.

        Raises:
            ValueError: if it was deleted.
        """
        params = {"experiment_name": name}
        answer = self._send("GET", f"{API}/experiments/get-by-name", params=params, missing=True)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return self.post("experiments/create", {"name": name})["experiment_id"]
        experiment = answer.json()["experiment"]
        if experiment["lifecycle_stage"] != "active":
            raise ValueError(
                f"the experiment {name!r} of {self._address} was deleted; restore it there, or "
                "name another by ?experiment=NAME"
            )
        return experiment["experiment_id"]

    def find(self, experiment: str, tag: str, value: str) -> dict[str, Any] | None:
        """What the server says of the run with this tag, if there is one."""
        body = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{tag}` = '{value}'",
            "max_results": 1,
        }
        runs = self.post("runs/search", body).get("runs", [])
        return runs[0]["info"] if runs else None

    def history(self, run_id: str, key: str) -> Iterator[tuple[int, int, float]]:
        """Step, Unix milliseconds and value of each point of a metric that the server has."""
        params = {"run_id": run_id, "metric_key": key, "max_results": HISTORY_PAGE}
        while True:
            page = self._send("GET", f"{API}/metrics/get-history", params=params).json()
            for each in page.get("metrics", []):
                yield int(each.get("step", 0)), int(each["timestamp"]), float(each["value"])
            if not page.get("next_page_token"):
                return
            params["page_token"] = page["next_page_token"]

    def check_takes_files(self, run: Mapping[str, Any]) -> None:
        """Files of the run go through the server.

        Raises:
            ValueError: if they lie where the server's clients write by themselves.
        """
        uri = run["artifact_uri"]
        if not uri.startswith(PROXIED):
            raise ValueError(
                f"the run's files lie in {uri}, which this server does not take itself: start "
                "`mlflow server` with --serve-artifacts and name a new experiment by "
                "?experiment=NAME, or export with --no-files"
            )

    def put_file(self, run: Mapping[str, Any], name: str, path: Path) -> None:
        """Store a file of the run; ``name`` is quoted for an address."""
        folder = urlsplit(run["artifact_uri"]).path.strip("/")
        with path.open("rb") as file:
            self._send("PUT", f"{FILES}/{folder}/{name}", content=file)

    def _send(
        self, method: str, path: str, *, missing: bool = False, **more: Any
    ) -> httpx.Response:
        """Send a request; a refusal in the server's own words.

        Raises:
            ValueError: if it is refused, or nobody answers.
        """
        try:
            answer = self._http.request(method, path, **more)
        except httpx.TransportError as error:
            hint = "" if self._address.startswith("http:") else "; without TLS: mlflow+http://"
            raise ValueError(f"no MLflow answers at {self._address}: {error}{hint}") from error
        allowed = missing and answer.status_code == httpx.codes.NOT_FOUND
        if answer.is_success or allowed:
            return answer
        said = answer.text[:500].strip() or answer.reason_phrase
        raise ValueError(f"MLflow at {self._address} answers {answer.status_code}: {said}")
