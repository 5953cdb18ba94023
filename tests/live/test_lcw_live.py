"""LCW over HTTP: training, samples of its weights, a shared classifier, and what is refused."""

import json

import numpy as np
import onnxruntime
import pytest

from sextant_client import ApiError
from tests.live.conftest import ONE_DATABASE
from tests.smallest import smallest

pytestmark = ONE_DATABASE


def finished(client, spec):
    training = client.wait(client.submit(spec, resources={"cpus": 1})["id"])
    assert training["status"] == "succeeded", training["error"]
    return training


@pytest.mark.slow
def test_from_training_to_samples(client, tmp_path):
    """Weights, ONNX, checkpoint and report come down; another job draws the same images again."""
    trained = finished(client, smallest("lcw.train"))
    files = client.artifacts(trained["id"])
    assert {"checkpoint", "weights", "export", "report", "image"} <= {f["role"] for f in files}
    report = json.loads(client.download(trained["id"], "report.json", tmp_path).read_text())
    assert report["scores"]["lcw"] == trained["result"]["scores"]["lcw"]
    page = client.download(trained["id"], "report.html", tmp_path).read_text()
    assert "data:image/png;base64," in page
    weights = {"job": trained["id"], "artifact": "weights.safetensors"}
    drawn = finished(client, {"kind": "lcw.sample", "model": weights, "count": 10})
    samples = np.load(client.download(drawn["id"], "samples.npz", tmp_path))
    onnx = client.download(drawn["id"], "generator.onnx", tmp_path)
    (made,) = onnxruntime.InferenceSession(onnx).run(None, {"noise": samples["noise"]})
    assert np.abs(made.transpose(0, 2, 3, 1) * 255 - samples["images"]).max() <= 1.01
    seen = {"job": trained["id"], "artifact": "classifier.safetensors"}
    evaluation = {**smallest("lcw.train")["evaluation"], "classifier_from": seen}
    again = finished(client, {**smallest("lcw.train"), "seed": 1, "evaluation": evaluation})
    digests = [training["result"]["features"]["sha256"] for training in (trained, again)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"arch": {"latent_dim": 1}}, "/spec/arch/latent_dim"),
        ({"phase1": {"batch_size": 7}}, "/spec/phase1/batch_size"),
        ({"phase2": {"batch_size": 7}}, "/spec/phase2/batch_size"),
        ({"phase2": {"gamma_mode": "value", "gamma": 0}}, "/spec/phase2/gamma"),
        ({"arch": {"latent_dim": 3}}, "use exact, or latent_dim of 4 or more"),
        ({"evaluation": {"num_samples": 64}}, "needs more than 64 samples"),
        ({"evaluation": {"features": "fid"}}, "/spec/evaluation/features"),
        ({"evaluation": {"features": "fid_inception"}}, "give fid_inception the net's data set"),
        ({"images": {"image_size": 9}, "arch": {"preset": "conv"}}, "multiple of 8"),
        ({"phase3": {}}, "/spec/phase3"),
    ],
)
def test_wrong_settings_are_told(client, fields, named):
    """422 with the field or the reason, before any job."""
    with pytest.raises(ApiError) as refusal:
        client.submit(smallest("lcw.train") | {"arch": {"latent_dim": 4}} | fields)
    assert refusal.value.status == 422
    assert named in str(refusal.value)
