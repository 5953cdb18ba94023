"""No kind succeeds with a weight, a buffer or a figure that is not finite."""

import json
import math

import pytest
import torch
from pydantic import TypeAdapter

from models.catalog import JobSpec
from models.core import checkpoint
from models.core.errors import DataError, DivergedError
from models.core.finite import check_figures
from models.stored import load_entry
from tests.smallest import smallest

HOT = {"optimizer": {"lr": 100.0, "warmup": 0.0, "schedule": "constant"}}
LONG = {
    "freetickets.train": {"max_steps": 60},
    "dynamic_downsampling.train": {"max_steps": 40},
    "selective_convolution.train": {"epochs": 12},
}


@pytest.mark.parametrize("kind", LONG)
def test_a_training_that_explodes_has_diverged(kind, new_run):
    """Also where the loss was finite at the time: found in statistics, at an update, in a round."""
    spec = TypeAdapter(JobSpec).validate_python({**smallest(kind), **HOT, **LONG[kind]})
    run = new_run()
    with pytest.raises(DivergedError, match=r"finite|nan|inf"):
        load_entry(spec)(spec, run)
    lines = [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line["type"] == "result"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("nest", [lambda x: {"a": x}, lambda x: {"a": [1.0, {"b": (x,)}]}])
def test_every_way_out_refuses_what_is_not_finite(bad, nest, new_run):
    run = new_run()
    with pytest.raises(DivergedError, match=r"result: a"):
        run.result(**nest(bad))
    with pytest.raises(DivergedError, match=r"report\.json: a"):
        run.report("report.json", nest(bad))
    with pytest.raises(DivergedError, match="metrics of step 3: loss"):
        run.log(3, loss=bad)
    with pytest.raises(DivergedError, match=r"w\.safetensors: x"):
        checkpoint.write(run.dir / "w.safetensors", {"x": torch.tensor([1.0, bad])}, {})
    with pytest.raises(DivergedError, match=r"w\.safetensors: a"):
        checkpoint.write(run.dir / "w.safetensors", {"x": torch.ones(1)}, nest(bad))
    assert not [path for path in run.dir.iterdir() if path.name not in ("resume", "events.jsonl")]
    assert not (run.dir / "events.jsonl").read_text()


def test_weights_of_an_earlier_release_that_hold_nan_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "check_finite", lambda *_: None)
        checkpoint.write(path, {"x": torch.tensor([math.nan])}, {})
    with pytest.raises(DataError, match=r"not finite in w\.safetensors: x"):
        checkpoint.read(path)


def test_what_is_not_a_float_is_passed_over():
    check_figures({"a": None, "b": "nan", "c": True, "d": 10**400, "e": []}, "result")
