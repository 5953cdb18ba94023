"""Small data and specs of this method."""

import pytest

from models.data import images, synthetic
from models.dynamic_downsampling.spec import DynamicDownsamplingTrain


@pytest.fixture(scope="session")
def data():
    """Four classes of 16 x 16 grey patterns: 64 training and 32 test images."""
    train = synthetic.blobs(64, classes=4, size=16, channels=1, seed=1)
    test = synthetic.blobs(32, classes=4, size=16, channels=1, seed=2)
    return images.from_tensors(list(train), list(test), ["a", "b", "c", "d"], "cpu")


@pytest.fixture
def make_spec():
    """A spec on the data above; cheap steps see 8 x 8 pixels unless told otherwise."""

    def make(**fields):
        base = {
            "kind": "dynamic_downsampling.train",
            "model": {"name": "resnet8", "width": 16},
            "data": {"dataset": "none"},
            "images": {"augment": {"crop_padding": 1, "flip": True}},
            "max_steps": 24,
            "batch_size": 8,
            "optimizer": {"lr": 0.05},
        }
        base["downsample"] = {"gradient_probes": 0}
        down = base["downsample"] | fields.pop("downsample", {})
        return DynamicDownsamplingTrain.model_validate(base | fields | {"downsample": down})

    return make
