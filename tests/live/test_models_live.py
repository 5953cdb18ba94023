"""A trained classifier under a name: asked at once, and by a job, with the same answer."""

import io

import pytest
from PIL import Image

from tests.live.conftest import ONE_DATABASE
from tests.smallest import smallest

pytestmark = [ONE_DATABASE, pytest.mark.slow]


def test_from_training_to_prediction(client):
    training = client.submit(smallest("freetickets.train"), resources={"cpus": 1})
    trained = client.wait(training["id"])
    assert trained["status"] == "succeeded", trained["error"]
    made = client.register("digits", trained["id"], "ensemble.safetensors", aliases=["production"])
    file = io.BytesIO()
    Image.new("L", (8, 8), 120).save(file, "png")
    read = client.predict("digits@production", [file.getvalue()] * 2, top=3)
    assert (read["object"], read["model"]) == ("prediction", made["reference"])
    first, second = read["predictions"]
    assert first == second
    assert len(first) == 3
    assert sum(each["probability"] for each in first) <= 1
    data = {"dataset": "digits"}
    spec = {"kind": "classify.predict", "model": "model:digits@production", "data": data}
    job = client.wait(client.submit(spec, resources={"cpus": 1})["id"])
    assert job["status"] == "succeeded", job["error"]
    assert job["resolved_spec"]["model"]["job"] == trained["id"]
