"""Small specs of this method."""

import pytest

from models.selective_convolution.spec import SelectiveConvolutionTrain


@pytest.fixture
def make_spec():
    """A spec on the small data: six epochs of four steps, rounds after the first three."""

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
