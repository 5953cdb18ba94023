"""Real jobs of every kind over HTTP, with a real broker and real methods."""

import hashlib
import os
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.catalog import kinds
from models.nets.files import load_net
from tests.live.conftest import ONE_DATABASE
from tests.smallest import smallest

README = (Path(__file__).parents[2] / "README.md").read_text()
TRAINING = "dynamic_downsampling.train"
# a training and what reads its weights; tests/models runs all in one process
ORDINARY = {TRAINING, "classify.predict"}


def submit(client, spec):
    """One thread: tiny nets gain nothing from more, and lose much beside other processes."""
    return client.submit(spec, resources={"cpus": 1})["id"]


def run_to_the_end(client, spec):
    job = client.wait(submit(client, spec))
    assert job["status"] == "succeeded", job["error"]
    return job


def wall_s(job: dict) -> float:
    """Seconds from the start of the job's run to its end."""
    started, finished = (datetime.fromisoformat(job[n]) for n in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


@ONE_DATABASE
@pytest.mark.parametrize(
    "kind",
    [kind if kind in ORDINARY else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds()],
)
def test_every_kind_leaves_what_it_declares(kind, client, tmp_path):
    """Submitted, followed, downloaded: metrics, result, and each declared file, bytes checked."""
    spec = kinds()[kind]
    job = run_to_the_end(client, smallest(kind))
    assert job["result"]
    assert job["progress"]["step"] == job["progress"]["total_steps"]
    low, high = client.dry_run(smallest(kind))["estimate"]["interval_s"]
    assert low <= wall_s(job) <= high  # told from this run, and others like it
    assert set(client.metrics(job["id"])["series"]) <= {metric.name for metric in spec.metrics}
    left = client.artifacts(job["id"])
    for declared in spec.artifacts:
        found = [a for a in left if spec.artifact_of(a["name"]) is declared]
        needed = declared.role != "checkpoint" and not declared.on_request
        assert found or not needed, declared.name  # short runs may need no checkpoint
        assert {a["role"] for a in found} <= {declared.role}
    for artifact in left:
        path = client.download(job["id"], artifact["name"], tmp_path / artifact["id"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact["sha256"]


@pytest.mark.slow
@ONE_DATABASE
def test_cancelled_then_retried_ends_with_the_same_bits(client, tmp_path):
    """Cancel with a checkpoint, retry from it: the weights of a training never interrupted."""
    spec = smallest(TRAINING) | {"max_steps": 60, "deterministic": True}
    whole, stopped = submit(client, spec), submit(client, spec)
    client.wait(whole)
    for event in client.events(stopped):
        if event["type"] == "progress":
            break
    client.cancel(stopped)
    assert client.wait(stopped)["status"] == "cancelled"
    assert [a for a in client.artifacts(stopped) if a["role"] == "checkpoint"]
    again = client.wait(client.retry(stopped)["id"])
    assert again["status"] == "succeeded"
    assert again["lineage"]["resumed_from"].startswith(f"{stopped}/checkpoints/")
    one, other = (
        load_file(client.download(job_id, "weights.safetensors", tmp_path / job_id))
        for job_id in (whole, again["id"])
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@ONE_DATABASE
def test_a_training_that_diverges_says_so(client):
    """The child's own error reaches the user, with a way out, and the log tells the rest."""
    spec = smallest(TRAINING) | {"max_steps": 60}
    spec["optimizer"] = {"lr": 100.0, "weight_decay": 1.0, "schedule": "constant"}
    job = client.wait(submit(client, spec))
    assert (job["status"], job["error"]["code"]) == ("failed", "diverged")
    assert "optimizer.lr" in job["error"]["message"] + str(job["error"].get("hint"))
    assert not [a for a in client.artifacts(job["id"]) if a["role"] == "weights"]


@pytest.fixture
def lines(live, tmp_path):
    """The README's script, run as it is in an empty folder."""
    begin, end = (f"<!-- curl:{word} -->" for word in ("start", "end"))
    block = README[README.index(begin) + len(begin) : README.index(end)].strip()
    script = block.removeprefix("```bash\n").removesuffix("```")
    environment = {
        "PATH": os.environ["PATH"],
        "SEXTANT_URL": live.url,
        "SEXTANT_KEY": live.key,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_the_lines_of_the_readme(lines, tmp_path):
    """Submit, poll, stream, download a checkpoint and a saliency map, with curl alone."""
    types = {line[7:] for line in lines.splitlines() if line.startswith("event: ")}
    assert {"status", "progress", "artifact"} <= types
    assert "\nloss," in lines
    assert load_file(tmp_path / "checkpoint.safetensors")
    assert sum(
        p.numel() for p in load_net(tmp_path / "weights.safetensors", "cpu").net.parameters()
    )
    saliency = np.load(tmp_path / "map.npy")
    assert saliency.dtype == np.float32
    assert np.isfinite(saliency).all()
    assert saliency.std() > 0
