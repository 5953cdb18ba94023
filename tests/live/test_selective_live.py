"""Selective convolution over HTTP, on images in the files that CIFAR-10 comes as."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.data import synthetic
from models.nets.files import load_net
from sextant_client import ApiError
from tests.live.conftest import ONE_DATABASE

pytestmark = ONE_DATABASE

SPEC = {
    "kind": "selective_convolution.train",
    "model": {"name": "densenet40", "growth": 4, "layers": 1},
    "data": {"dataset": "small"},
    "epochs": 4,
    "batch_size": 16,
    "selective": {"threshold": 0.3},
    "export": "compact",
}


def write(path, count, seed):
    """Colour images of 32 x 32 as PNG bytes beside integer labels, with the note of their names."""
    images, labels = synthetic.blobs(count, 4, 32, 3, seed)
    rows = []
    for image in torch.as_tensor(images).numpy().astype(np.uint8):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        rows.append({"bytes": stream.getvalue(), "path": None})
    note = {"info": {"features": {"label": {"names": list("abcd"), "_type": "ClassLabel"}}}}
    table = pa.table({"img": rows, "label": pa.array([int(k) for k in labels])})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(note)}), path)
    return path


@pytest.mark.slow
def test_from_parquet_to_weights_export_and_report(client, tmp_path):
    """Slots were used again; both nets load, with their classes, and are the same function."""
    files = [
        write(tmp_path / "small-train.parquet", 64, 1),
        write(tmp_path / "small-test.parquet", 32, 2),
    ]
    assert client.upload("small", files)["format"] == "parquet"
    job = client.wait(client.submit(SPEC, resources={"cpus": 1})["id"])
    assert job["status"] == "succeeded", job["error"]
    assert job["result"]["reallocated"] > 0
    report = json.loads(client.download(job["id"], "report.json", tmp_path).read_text())
    assert report["result"]["test_accuracy"] == job["result"]["test_accuracy"]
    x = torch.randn(8, 3, 32, 32)
    loaded = [
        load_net(client.download(job["id"], f"{name}.safetensors", tmp_path), "cpu")
        for name in ("weights", "export")
    ]
    assert all(list(one.classes) == list("abcd") for one in loaded)
    with torch.no_grad():
        whole, small = (one.net.eval()(x) for one in loaded)
    torch.testing.assert_close(whole, small, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"selective": {"threshold": 0.0}}, "/spec/selective/threshold"),
        ({"selective": {"top_k": 9}}, "selective.top_k 9 is more than the 8 channels"),
        ({"epochs": 1}, "selective.active_fraction"),
        ({"model": {"name": "densenet40", "growth": 0}}, "growth"),
    ],
)
def test_wrong_settings_name_their_field(client, fields, named):
    """422 with the field, before any job; the data set is not looked at."""
    with pytest.raises(ApiError) as refusal:
        client.submit(SPEC | {"data": {"dataset": "digits"}} | fields)
    assert refusal.value.status == 422
    assert named in str(refusal.value)
