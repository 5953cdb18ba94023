"""FreeTickets over HTTP: tickets, ensemble file and report of one job; specs that cannot be."""

import json

import numpy as np
import pytest
import torch

from models.data import synthetic
from models.freetickets.infer import Ensemble
from models.nets import tickets
from models.nets.files import load_net
from sextant_client import ApiError
from tests.live.conftest import ONE_DATABASE

pytestmark = ONE_DATABASE

SPEC = {
    "kind": "freetickets.train",
    "model": {"name": "wide_resnet", "depth": 10, "widen": 1},
    "data": {"dataset": "patterns"},
    "max_steps": 48,
    "members": 2,
    "batch_size": 16,
    "update_interval": 4,
    "optimizer": {"lr": 0.05},
}


def write(path):
    """Colour images of 12 x 12 with names of classes, as one npz."""
    arrays = {}
    for seed, (part, count) in enumerate((("train", 64), ("test", 32))):
        images, labels = synthetic.blobs(count, 4, 12, 3, seed)
        arrays |= {f"{part}_images": images.numpy(), f"{part}_labels": labels.numpy()}
    np.savez(path, **arrays)
    return path


@pytest.mark.slow
def test_from_an_upload_to_tickets_ensemble_and_report(client, tmp_path):
    """The ensemble file holds the tickets bit for bit; report and files tell the same story."""
    client.upload("patterns", [write(tmp_path / "patterns.npz")])
    job = client.wait(client.submit(SPEC, resources={"cpus": 1})["id"])
    assert job["status"] == "succeeded", job["error"]

    def got(name):
        return client.download(job["id"], name, tmp_path / name.replace("/", "-"))

    report = json.loads(got("report.json").read_text())
    assert report["result"]["ensemble_nll"] == job["result"]["ensemble_nll"]
    assert 0 < report["result"]["step_ratio_counted"] < report["result"]["step_ratio_executed"] < 1
    assert report["result"]["train_seconds"] > 0
    loaded = tickets.load(got("ensemble.safetensors"))
    x = torch.randn(8, 3, 12, 12)
    with torch.no_grad():
        mean, logs = Ensemble(loaded.nets)(x)
        for number, net in enumerate(loaded.nets):
            alone = load_net(got(f"tickets/ticket-{number}.safetensors"), "cpu").net.eval()
            assert torch.equal(alone(x), net(x))
            zeros = sum(int((p == 0).sum()) for p in alone.parameters() if p.dim() > 1)
            weights = sum(p.numel() for p in alone.parameters() if p.dim() > 1)
            assert zeros == weights - report["result"]["active_weights"]
    assert mean.exp().sum(1).allclose(torch.ones(8))
    assert (logs[0] != logs[1]).any()
    assert got("tickets.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sparsity": 1.0}, "/spec/sparsity"),
        ({"explore": 10, "refine": 8}, "explore 10 + 2 members x refine 8 = 26, but the run"),
        ({"update_interval": 48}, "update_interval 48 is longer than the changing part of a phase"),
        ({"variant": "dense_ensemble", "structure": "cap24"}, "the layers of variant"),
        ({"sparsity": 0.1, "structure": "cap24"}, "raise sparsity to 0.6"),
    ],
)
def test_impossible_specs_say_why(client, fields, named):
    """422 with the reason, before any job; the data set is not looked at."""
    with pytest.raises(ApiError) as refusal:
        client.submit(SPEC | {"data": {"dataset": "digits"}} | fields)
    assert refusal.value.status == 422
    assert named in str(refusal.value)
