"""Small data and specs of this method."""

import pytest

from models.data import images, synthetic
from models.selective_convolution.spec import SelectiveConvolutionTrain


@pytest.fixture(scope="session")
def data():
    """Four classes of 8 x 8 grey patterns: 64 training and 32 test images."""
    train = synthetic.blobs(64, classes=4, size=8, channels=1, seed=1)
    test = synthetic.blobs(32, classes=4, size=8, channels=1, seed=2)
    return images.from_tensors(list(train), list(test), ["a", "b", "c", "d"], "cpu")


@pytest.fixture
def make_spec():
    """A spec on the data above: six epochs of four steps, rounds after the first three."""

    def make(**fields):
        base = {
            "kind": "selective_convolution.train",
            "model": {"name": "densenet40", "growth": 4, "layers": 1, "compression": 0.5},
            "data": {"dataset": "none"},
            "epochs": 6,
            "batch_size": 16,
            "optimizer": {"lr": 0.05, "weight_decay": 1e-4, "warmup": 0.0},
        }
        chosen = {"threshold": 0.2} | fields.pop("selective", {})
        return SelectiveConvolutionTrain.model_validate(base | fields | {"selective": chosen})

    return make
