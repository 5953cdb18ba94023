"""The kind's own run on a GPU, through the Triton programs, beside torch's operations."""

import csv
import json

import numpy as np
import pytest
import torch

from models.core.run import Run
from models.data import images, loading, synthetic
from models.nets.selective import conv_gpu, norm_gpu
from models.selective_convolution import train as method

pytestmark = [pytest.mark.gpu]
FIELDS = {"precision": "fp32", "export": "compact", "epochs": 6}


def result_of(folder, spec, *, compile="auto"):
    folder.mkdir()
    with (folder / "events.jsonl").open("w") as file:
        method.train(spec.model_copy(update={"compile": compile}), Run(folder, file, device="cuda"))
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line["type"] == "event"], lines  # no warning
    return next(line["values"] for line in lines if line["type"] == "result")


@pytest.mark.usefixtures("_deterministic")
def test_a_job_through_the_programs_is_the_job_without(tmp_path, make_spec, monkeypatch):
    """As graphs, eagerly and by products: the same rounds, losses of torch, exports that agree.

    The first rounds are decided by sums that agree to rounding; the last loss has gone through all.
    Without TF32, where cuDNN's convolutions differ from the products: 5 % of the loss in the end.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    parts = [synthetic.blobs(n, 4, 8, 1, seed) for n, seed in ((64, 1), (32, 2))]
    data = images.from_tensors(*map(list, parts), list("abcd"), "cuda")
    monkeypatch.setattr(loading, "load", lambda *_: data)
    spec = make_spec(**FIELDS)
    actual = {
        "graphs": result_of(tmp_path / "graphs", spec),
        "eager": result_of(tmp_path / "eager", spec, compile="off"),
    }
    with monkeypatch.context() as patch:  # as in half precision, here beside float32
        patch.setattr(conv_gpu, "TYPES", (torch.float32,))
        actual["products"] = result_of(tmp_path / "products", spec)
    monkeypatch.setattr(norm_gpu, "AVAILABLE", False)
    actual["torch"] = result_of(tmp_path / "torch", spec, compile="off")
    for name, figures in actual.items():
        assert figures["reallocated"] == actual["torch"]["reallocated"] > 0, name
        assert figures["closed"] == actual["torch"]["closed"], name
        assert figures["export_test_nll"] == pytest.approx(figures["test_nll"], rel=1e-3), name
    losses = {
        name: np.array([float(row["loss"]) for row in rows(tmp_path / name / "history.csv")])
        for name in actual
    }
    for name, values in losses.items():
        np.testing.assert_allclose(values, losses["torch"], rtol=0.02, err_msg=name)


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))
