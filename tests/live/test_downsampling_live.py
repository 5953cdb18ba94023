"""Dynamic downsampling over HTTP, on images in the files that CIFAR-10 comes as."""

import json

import pytest
import torch

from models.nets.files import load_net
from sextant_client import ApiError
from tests.live.conftest import ONE_DATABASE
from tests.live.test_selective_live import write

pytestmark = ONE_DATABASE

SPEC = {
    "kind": "dynamic_downsampling.train",
    "model": {"name": "resnet8"},
    "data": {"dataset": "few"},
    "images": {"augment": {"crop_padding": 2, "flip": True}},
    "epochs": 4,
    "batch_size": 8,
    "optimizer": {"lr": 0.05},
    "downsample": {
        "schedule": {"type": "list", "intervals": [{"start": 0.0, "end": 0.66}]},
        "kernel_pool": "none",
        "rate_over": "operations",
        "cheap_batch_multiplier": 2,
    },
    "compare_baseline": True,
    "export": True,
}


def done(client, spec):
    job = client.wait(client.submit(spec, resources={"cpus": 1})["id"])
    assert job["status"] == "succeeded", job["error"]
    return job


@pytest.mark.slow
def test_from_parquet_to_plan_weights_program_and_report(client, tmp_path):
    """The plan has the training's body; weights and program are one function of the images."""
    files = [
        write(tmp_path / "few-train.parquet", 64, 1),
        write(tmp_path / "few-test.parquet", 32, 2),
    ]
    assert client.upload("few", files)["format"] == "parquet"
    plan = done(client, SPEC | {"kind": "dynamic_downsampling.plan"})["result"]
    job = done(client, SPEC)
    result = job["result"]
    assert plan["flop_ratio"] == result["flop_ratio"]
    steps = result["steps"]  # a cheap one takes two batches; a tenth of the images is held out
    assert plan["cheap_share"] * (steps["full"] + 2 * steps["cheap"]) == 2 * steps["cheap"] > 0
    assert job["progress"]["step"] == job["progress"]["total_steps"]
    assert 1 <= result["shorter_steps"] <= 32
    report = json.loads(client.download(job["id"], "report.json", tmp_path).read_text())
    assert report["result"]["test_accuracy"] == result["test_accuracy"]
    loaded = load_net(client.download(job["id"], "weights.safetensors", tmp_path), "cpu")
    program = torch.export.load(client.download(job["id"], "net.pt2", tmp_path)).module()
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program(x), loaded.net.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("down", "named"),
    [
        ({"cheap_batch_multiplier": 5}, "/spec/downsample/cheap_batch_multiplier"),
        ({"warmup_full_fraction": 0.5, "refine_fraction": 0.6}, "refine_fraction 0.6"),
        ({"input_scale": 0.1}, "input_scale 0.1"),
        ({"kernel_layers": ["fc"]}, "kernel_layers"),
    ],
)
def test_wrong_settings_name_their_field(client, down, named):
    """422 with the field, for the training and for its plan."""
    spec = SPEC | {"data": {"dataset": "digits"}, "images": {"image_size": 32}}
    for action in ("train", "plan"):
        kind = {"kind": f"dynamic_downsampling.{action}"}
        with pytest.raises(ApiError) as refusal:
            client.submit(spec | kind | {"downsample": down})
        assert refusal.value.status == 422
        assert named in str(refusal.value)
