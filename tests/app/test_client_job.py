"""The job as an object, alike with both clients: waiting, numbers, files."""

import asyncio
import csv
import hashlib
import io
import json
import sys
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from models.catalog import kinds
from models.lcw.spec import LcwSample
from sextant_client import ApiError, AsyncClient, AsyncJob, Client, Job
from tests.smallest import smallest

ID = "job_" + "0" * 32
POINTS = {"loss": [(1, 2.0), (2, 1.0)], "accuracy": [(2, 0.9)]}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), 128).save(file, "PNG")
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.arange(6))
    return file.getvalue()


FILES = {
    "tickets/weights.safetensors": ("weights", save({"w": torch.ones(2)})),
    "samples.npz": ("samples", archive()),
    "history.csv": ("table", b"epoch,loss\n1,2.0\n"),
    "report.json": ("report", json.dumps({"kept": [1]}).encode()),
    "curves.png": ("image", png()),
    "card.md": ("card", "für alle".encode()),
    "net.onnx": ("export", b"\x08\x07"),
}


class Service:
    """One job that is running when it is asked for first, and done from then on."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/metrics"):
            series = {
                name: [{"step": step, "value": value} for step, value in points]
                for name, points in POINTS.items()
            }
            return httpx.Response(200, json={"series": series})
        if path.endswith("/artifacts"):
            rows = [self._artifact(name) for name in FILES]
            return httpx.Response(200, json={"data": rows, "has_more": False})
        if path.endswith("/content"):
            content = FILES[path.split("/")[3].replace("|", "/")][1]
            return httpx.Response(206, content=content)
        if path == "/v1/jobs" and request.method == "GET":
            return httpx.Response(200, json={"data": [self._job()], "has_more": False})
        return httpx.Response(200, json=self._job(), headers={"etag": str(self.asked)})

    def _job(self) -> dict[str, Any]:
        self.asked += 1
        done = self.asked > 1
        common = {"id": ID, "kind": "lcw.sample", "name": "<digits>", "error": None}
        progress = {"step": 30 * self.asked, "total_steps": 60, "eta_s": 4.0}
        outcome = {"status": "succeeded", "result": {"count": 60, "shape": [8, 8]}}
        running = {"status": "running", "result": None}
        return common | {"progress": progress} | (outcome if done else running)

    def _artifact(self, name: str) -> dict[str, Any]:
        role, content = FILES[name]
        digest = hashlib.sha256(content).hexdigest()
        about = {"id": name.replace("/", "|"), "name": name, "role": role}
        return about | {"size_bytes": len(content), "sha256": digest}


def both(use: Any) -> Any:
    """What ``use`` gives with either client; it yields what the asynchronous one awaits."""

    def plain() -> Any:
        with Client("http://test", None, httpx.MockTransport(Service())) as client:
            steps, answer = use(client), None
            while True:
                try:
                    answer = steps.send(answer)
                except StopIteration as end:
                    return end.value

    async def later() -> Any:
        async with AsyncClient("http://test", None, httpx.MockTransport(Service())) as client:
            steps, answer = use(client), None
            while True:
                try:
                    answer = await steps.send(answer)
                except StopIteration as end:
                    return end.value

    first, second = plain(), asyncio.run(later())
    assert repr(first) == repr(second)
    return first


def test_a_job_is_waited_for_and_reads_as_its_dictionary(capsys):
    def use(client):
        job = yield client.submit(LcwSample.model_validate({"model": {"pretrained": "digits"}}))
        assert isinstance(job, Job | AsyncJob)
        assert repr(job) == f"<{ID} lcw.sample, '<digits>', running, 50%>"
        assert "<progress" in job._repr_html_()
        same = yield job.wait(bar=True)
        assert same is job
        return job

    job = both(use)
    assert (job["status"], job.status, job.result["count"]) == ("succeeded", "succeeded", 60)
    assert json.loads(json.dumps(job))["id"] == job.id
    assert "count 60" in repr(job)
    assert "&lt;digits&gt;" in job._repr_html_()
    drawn = capsys.readouterr().err.splitlines()
    assert "100% succeeded" in drawn[-1]


def test_numbers_become_a_table():
    def use(client):
        job = yield client.get(ID)
        return (yield job.metrics())

    metrics = both(use)
    assert metrics["series"]["loss"][0] == {"step": 1, "value": 2.0}
    expected = {"step": [1, 2], "loss": [2.0, 1.0], "accuracy": [None, 0.9]}
    assert metrics.columns() == expected


@pytest.mark.parametrize("module", ["pandas", "polars"])
def test_a_frame_of_what_is_installed(module, monkeypatch):
    frames = pytest.importorskip(module)
    for name in {"pandas", "polars"} - {module}:
        monkeypatch.setitem(sys.modules, name, None)

    def use(client):
        return (yield client.metrics(ID))

    assert isinstance(both(use).to_frame(), frames.DataFrame)


def test_files_are_loaded_as_what_they_are(monkeypatch):
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)

    def use(client):
        job = yield client.get(ID)
        loaded = {}
        for name in ("weights", "samples", "table", "report", "image", "card", "export"):
            loaded[name] = yield job.artifacts[name].load()
        loaded["image"] = loaded["image"].size
        return loaded

    loaded = both(use)
    assert torch.equal(loaded["weights"]["w"], torch.ones(2))
    assert loaded["samples"]["images"].tolist() == list(range(6))
    assert loaded["table"] == list(csv.DictReader(["epoch,loss", "1,2.0"]))
    assert loaded["report"] == {"kept": [1]}
    assert loaded["image"] == (3, 2)
    assert (loaded["card"], loaded["export"]) == ("für alle", b"\x08\x07")


def test_a_file_that_is_not_there_is_told_with_those_that_are(tmp_path):
    def use(client):
        job = yield client.get(ID)
        path = yield job.artifacts["history.csv"].save(tmp_path, overwrite=True)
        assert path == tmp_path / "history.csv"
        yield job.artifacts["maps"].load()

    with pytest.raises(ApiError, match=r"no artifact 'maps'; it has tickets/weights"):
        both(use)


def test_lists_hold_jobs_and_show_prints(capsys):
    with Client("http://test", None, httpx.MockTransport(Service())) as client:
        (job,) = client.jobs()
        job.show()
    assert "pictures: curves.png" in capsys.readouterr().out


@pytest.mark.parametrize("kind", kinds())
def test_a_class_knows_its_kind(kind):
    cls = kinds()[kind]
    fields = {name: value for name, value in smallest(kind).items() if name != "kind"}
    assert cls.model_validate(fields).kind == kind
    assert cls.model_fields["kind"].init is False  # so that no type checker asks for it
