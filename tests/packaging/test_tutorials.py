"""The tutorials do what they say: their files and specs are run as a child runs them."""

import csv
import hashlib
import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from models.catalog import JobSpec
from models.core.run import Run
from models.data import files, samples
from models.nets.build import build_net
from models.stored import load_entry
from tests.models.nets.libraries import library

pytestmark = [pytest.mark.docs, pytest.mark.timeout(300)]

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
FLOOD, FINE_TUNE = ((TUTORIALS / f"{name}.md").read_text() for name in ("flood", "fine_tune"))
BLOCK = re.compile(r"```\w+ file=(\S+)\n(.*?)```", re.DOTALL)


def test_the_flood_of_the_tutorial(tmp_path):
    """Files are accepted, the series bring their volume, the lake rises at the shore."""
    given = dict(BLOCK.findall(FLOOD))
    (tmp_path / "inputs").mkdir()
    spec = json.loads(given["flood.json"])
    for k, item in enumerate(spec["water"]):
        name = item["series"]["dataset"]
        item["series"]["sha256"] = f"{k:064x}"
        path = tmp_path / "inputs" / f"{k:064x}"
        path.write_text(given[f"{name}.csv"])
        assert files.check(path, "series", {})["moments"] == 3
    job = TypeAdapter(JobSpec).validate_python(spec)
    with (tmp_path / "events.jsonl").open("w") as events:
        load_entry(job)(job, Run(tmp_path, events))
    lines = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    result = next(line["values"] for line in lines if line["type"] == "result")
    assert result["balance_error"] < 1e-6
    assert result["entered_m3"] > 2.88e6 - 1
    assert result["wet_ever_share"] > 0.005
    rows = list(csv.DictReader((tmp_path / "gauges.csv").read_text().splitlines()))
    assert len(rows) == 201
    assert max(float(row["shore stage_m"]) for row in rows) == pytest.approx(254, abs=0.1)
    assert max(float(row["section discharge_m3_s"]) for row in rows) > 50
    for name in ("maxima.png", "gauges.png", "flood.webp", "state.safetensors"):
        assert (tmp_path / name).is_file()


def photographs(path):
    """An archive of three classes, each of parts of one photograph, all of different sizes."""
    numbers = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index, name in enumerate(("chelsea", "coffee", "rocket")):
            whole = samples.photo(index)
            for k in range(40):
                height, width = numbers.integers(100, 250, 2)
                top = numbers.integers(0, whole.shape[0] - height)
                left = numbers.integers(0, whole.shape[1] - width)
                stream = io.BytesIO()
                part = whole[top : top + height, left : left + width]
                Image.fromarray(part).save(stream, "JPEG")
                archive.writestr(f"{name}/{k}.jpg", stream.getvalue())


@pytest.mark.timeout(900)
def test_the_net_of_the_tutorial(tmp_path):
    """Mixed sizes, weights of other classes, frozen layers, cheap steps; what is left loads."""
    library("timm")
    spec = json.loads(dict(BLOCK.findall(FINE_TUNE))["fine_tune.json"])
    (tmp_path / "inputs").mkdir()
    data, weights = (tmp_path / "inputs" / f"{k:064x}" for k in range(2))
    photographs(data)
    assert files.check(data, "image_folder", {})["sizes"] > 50
    torch.manual_seed(0)
    save_file(build_net({"library": "timm", "name": "resnet18"}, 1000, 3).state_dict(), weights)
    spec["data"]["sha256"], spec["model"]["weights"]["sha256"] = data.name, weights.name
    job = TypeAdapter(JobSpec).validate_python(spec)
    torch.set_num_threads(1)
    started = time.process_time()
    with (tmp_path / "events.jsonl").open("w") as events:
        load_entry(job)(job, Run(tmp_path, events))
    assert time.process_time() - started < 240
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [x["code"] for x in lines if x.get("event") == "warning"] == ["new_classifier"]
    result = next(line["values"] for line in lines if line["type"] == "result")
    assert result["test_accuracy"] > 0.6  # of three classes, from weights at random
    net = build_net({"library": "timm", "name": "resnet18"}, 3, 3)
    net.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(net.conv1.weight, load_file(weights)["conv1.weight"])


def carry_out(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Results of the jobs of a tutorial's pipeline, by their local names."""
    jobs = json.loads(dict(BLOCK.findall((TUTORIALS / f"{name}.md").read_text()))[f"{name}.json"])
    results = {}
    for job in jobs["jobs"]:
        path = folder / job["id"]
        (path / "inputs").mkdir(parents=True)
        for ref in references(job["spec"]):
            source = folder / ref["job"] / ref["artifact"]
            ref["job"] = f"job_{0:032x}"
            ref["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
            shutil.copyfile(source, path / "inputs" / ref["sha256"])
        spec = TypeAdapter(JobSpec).validate_python(job["spec"])
        with (path / "events.jsonl").open("w") as events:
            load_entry(spec)(spec, Run(path, events))
        lines = map(json.loads, (path / "events.jsonl").read_text().splitlines())
        results[job["id"]] = next(x["values"] for x in lines if x["type"] == "result")
    return results


def references(spec: Any) -> Iterator[dict[str, Any]]:
    """Everything in a spec that names a file of another job."""
    if isinstance(spec, dict) and "artifact" in spec:
        yield spec
    elif isinstance(spec, dict | list):
        for value in spec.values() if isinstance(spec, dict) else spec:
            yield from references(value)


def named_files(name: str, *folders: Path) -> set[str]:
    """Files of the tutorial's table that none of its jobs has left."""
    rows = re.findall(r"^\| (`.*?) \|", (TUTORIALS / f"{name}.md").read_text(), re.MULTILINE)
    named = {file for row in rows for file in re.findall(r"`([^`]+)`", row.split(" of the ")[0])}
    return {file for file in named if not any((folder / file).exists() for folder in folders)}


def test_the_net_that_is_explained(tmp_path):
    results = carry_out(tmp_path, "explain")
    assert results["train"]["test_accuracy"] > 0.95
    assert named_files("explain", tmp_path / "train", tmp_path / "explain") == set()


def test_the_ensemble_of_the_tutorial(tmp_path):
    results = carry_out(tmp_path, "ensemble")
    assert results["train"]["ensemble_accuracy"] > results["train"]["ticket_accuracy_mean"]
    assert results["answers"]["accuracy"] == pytest.approx(results["train"]["ensemble_accuracy"])
    assert named_files("ensemble", tmp_path / "train", tmp_path / "answers") == set()


def test_the_generator_of_the_tutorial(tmp_path):
    results = carry_out(tmp_path, "generator")
    assert results["train"]["scores"]["lcw"]["frechet"] < 100
    assert named_files("generator", tmp_path / "train", tmp_path / "draw") == set()
    with np.load(tmp_path / "draw" / "samples.npz") as drawn:
        assert drawn["images"].shape[0] == 64
